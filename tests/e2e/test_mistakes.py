"""What people get wrong is refused in one line that says what, where and how to mend it."""

import json

import pytest


@pytest.fixture(autouse=True, scope="module")
def _mistakes(tiny_run, shell):
    """Files that are not what they should be."""
    folder = shell.folder
    (folder / "binary.txt").write_bytes(bytes(range(256)) * 400)
    (folder / "empty.txt").write_bytes(b"")
    (folder / "rows.jsonl").write_text('{"body": "no text field"}\n' * 5)
    (folder / "void").mkdir()
    (folder / "broken.yaml").write_text("train: [")
    (folder / "wrong.yaml").write_text("train:\n  tokns: 5\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("make tiny corpus=gone.txt", "gone.txt"),
        ("make tiny corpus=notes.tx", "notes.txt"),
        ("make tiny corpus=binary.txt", "binary"),
        ("make tiny corpus=empty.txt", "no text"),
        ("make tiny corpus=void", "no file"),
        ("make tiny corpus=", "no source of text"),
        ("make tiny tokenizer.compact=400", "no tokenizer to cut down"),
        ("make tiny corpus=rows.jsonl", "body"),
        ("make tiny corpus=builtin:ruby", "builtin:python"),
        ("make tiny corpus=notes.txt --out notes.txt", "notes.txt"),
        ("make tiny corpus=notes.txt --out my_texts", "not empty"),
        ("make tiny corpus=notes.txt model.width=64 model.heads=7", "7 heads"),
        ("make tiny corpus=notes.txt budget.params=25k tokenizer.vocab_size=50k", "25,000"),
        ("make tiny corpus=notes.txt train.tokens=1k train.epochs=2 train.epoch=3", "train.epochs"),
        ("make tiny corpus=notes.txt from=void", "void"),
        ("make tiny corpus=notes.txt tokenizer.from=void", "void"),
        ("make broken.yaml", "broken.yaml"),
        ("make wrong.yaml", "did you mean train.tokens?"),
        ("evaluate void --text dev.jsonl", "no model"),
        ("evaluate notes.txt --text dev.jsonl", "no model"),
        ("evaluate runs/tiny/model --text gone.jsonl", "gone.jsonl"),
        ("evaluate runs/tiny/model --text empty.txt", "no text"),
        ("evaluate runs/tiny/model --text binary.txt", "binary"),
        ("evaluate runs/tiny/model --text rows.jsonl", "body"),
        ("generate gone", "no model"),
        ("generate runs/tiny/model --device gpu9", "device"),
        ("chat void", "no model"),
        ("study run nowhere", "nowhere"),
        ("study show smke", "did you mean smoke?"),
    ],
)
def test_a_mistake_is_refused_before_any_work(words, message, call):
    done = call(f"lilliput {words} --json")
    assert done.returncode == 2, done.stderr
    error = json.loads(done.stdout)["error"]
    assert message in f"{error['message']} {error['where']} {error['mend']}"
    assert error["mend"]
    assert "Traceback" not in done.stderr
    # Nothing but the one line: a refusal comes before any work.
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
