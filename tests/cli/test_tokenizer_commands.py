"""`lilliput tokenizer train / count / merge`, run as people do, on tiny corpora."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lilliput.cli.corpora import parse_corpora
from lilliput.cli.main import run
from lilliput.errors import UserError

ROWS = ["The cat sat on the mat and the dog sat on the cat.", "小猫坐在垫子上。", "Two cats, three dogs, four cats."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, a tokenizer learnt from it, and files that are not what they should be."""
    place = tmp_path_factory.mktemp("tokenizers")
    with open(place / "text.jsonl", "w", encoding="utf-8") as out:
        for number in range(60):
            out.write(json.dumps({"text": f"{ROWS[number % 3]} {number}", "body": "b"}) + "\n")
    (place / "other.jsonl").write_text('{"text": "Something else."}\n')
    (place / "empty.jsonl").write_text("")
    (place / "foreign.json").write_text('{"model": {}}')
    (place / "file").write_text("no folder")
    for size in (300, 310):
        words = f"tokenizer train --corpus {place}/text.jsonl --vocab-size {size} --out {place}/own{size} --quiet"
        assert run(words.split()) == 0
    return place


@pytest.fixture
def call(folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple]:
    """`lilliput tokenizer WORDS` in the folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(folder)

    def ran(words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run(["tokenizer", *words.split()])
        return code, *capfd.readouterr()

    return ran


def test_training_writes_a_tokenizer(lilliput, tmp_path: Path) -> None:
    ran = lilliput(
        "tokenizer", "train", "--corpus", "builtin:python", "--vocab-size", "0.3k", "--out", "t", "--json", "--quiet"
    )
    assert ran.code == 0, ran.err
    assert ran.json["vocab_size"] == 300
    assert ran.json["out"] == str(tmp_path / "t")
    assert (tmp_path / "t" / "tokenizer.json").is_file()
    text = lilliput("tokenizer", "count", "t", "--corpus", "builtin:python", "--shard", "3/40")
    assert text.code == 0, text.err
    assert "of all tokens" in text.out
    assert "of 300 pieces" in text.out


def test_counting_tells_all_and_keeps_it(call, folder: Path) -> None:
    code, out, err = call("count own300 --corpus text.jsonl --corpus more=other.jsonl --out c/counts.json --json")
    assert code == 0, err
    data = json.loads(out)
    assert data["documents"] == 61
    assert set(data["languages"]) == {"Latin", "Han", "more"}
    assert data["bytes_per_token"] == pytest.approx(data["bytes"] / data["tokens"])
    assert data["coverage"][-1] == {"pieces": 300, "coverage": 1.0}
    assert data["out"] == str(folder / "c" / "counts.json")
    assert data["source"] == str(folder / "own300")
    page = Path(data["report"])
    assert page == folder / "c" / "counts.html"
    assert "<svg" in page.read_text(encoding="utf-8")
    kept = json.loads(Path(data["out"]).read_text(encoding="utf-8"))
    assert len(kept["unused"]) == data["unused"]["pieces"] > 20 == len(data["unused"]["examples"])
    assert len(kept["unreachable"]) == data["unreachable"]["pieces"] >= 13
    assert sum(kept["ids"]) == kept["tokens"] == data["tokens"]
    code, out, _ = call("count own300 --corpus text.jsonl --corpus more=other.jsonl --out c/counts.json")
    assert code == 0
    assert json.loads(Path(data["out"]).read_text(encoding="utf-8")) == kept
    for word in ("Latin", "Han", "more", "all", "unused", "unreachable", str(page)):
        assert word in out


def test_shards_merge_to_the_whole(call, folder: Path) -> None:
    for name, shard in (("whole", "1/1"), ("a", "1/3"), ("b", "2/3"), ("c", "3/3")):
        code, out, err = call(f"count own300 --corpus text.jsonl --shard {shard} --out {name}.json --json")
        assert code == 0, err
        # A shard alone says nothing of what no text gives.
        assert (json.loads(out)["unreachable"] is None) == (name != "whole")
    code, out, err = call("merge a.json b.json c.json --out all.json --tokenizer own300 --json")
    assert code == 0, err
    assert json.loads(out)["missing"] == []
    whole, merged = (json.loads((folder / f"{name}.json").read_text()) for name in ("whole", "all"))
    assert merged.pop("corpus")[0]["shards"] == [[1, 3], [2, 3], [3, 3]]
    assert whole.pop("corpus")[0]["shards"] == [[1, 1]]
    assert merged == whole
    code, out, err = call("merge a.json c.json --out part.json")
    assert code == 0
    assert "missing shard 2/3" in err
    assert str(folder / "part.html") in out
    code, out, _ = call("merge part.json b.json --out two_steps.json --json --quiet")
    assert json.loads(out)["tokens"] == whole["tokens"]
    assert json.loads(out)["unused"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("count gone --corpus text.jsonl", "gone"),
        ("count text.jsonl --corpus text.jsonl", "text.jsonl"),
        ("count own300", "no corpus is named"),
        ("count own300 --corpus gone.jsonl", "gone.jsonl"),
        ("count own300 --corpus empty.jsonl", "no text"),
        ("count own300 --corpus text.jsonl --field bdy", "field: body"),
        ("count own300 --corpus text.jsonl --shard 0/3", "no such shard: 0/3"),
        ("count own300 --corpus text.jsonl --shard 4/3", "--shard 1/3 to --shard 3/3"),
        ("count own300 --corpus text.jsonl --shard x", "--shard I/N"),
        ("count own300 --corpus text.jsonl --out file/counts.json", "nothing can be written there"),
        ("count own300 --corpus text.jsonl --out own300", "a folder, not a file"),
        ("count own300 --corpus text.jsonl --out counts.html", "the page takes this name"),
        ("merge", "missing argument"),
        ("merge one.json", "where shall the counts go?"),
        ("merge gone.json --out x.json", "gone.json"),
        ("merge foreign.json --out x.json", "no token counts"),
        ("merge one.json one.json --out x.json", "shard 1/2 twice: text.jsonl"),
        ("merge one.json thirds.json --out x.json", "shards 1/2 and 2/3 overlap"),
        ("merge one.json ten.json --out x.json", "different tokenizers"),
        ("merge one.json --out x.json --tokenizer own310", "not of this one"),
        ("train --corpus text.jsonl --vocab-size 300", "where shall the tokenizer go?"),
        ("train --corpus text.jsonl --out new", "how many pieces"),
        ("train --corpus text.jsonl --out new --vocab-size many", "no size: 'many'"),
        ("train --corpus text.jsonl --out new --vocab-size 20", "257"),
        ("train --corpus empty.jsonl --out new --vocab-size 300", "no text"),
        ("train --corpus text.jsonl --out own300 --vocab-size 300", "not empty"),
        ("train --corpus text.jsonl --out file/new --vocab-size 300", "nothing can be written there"),
        ("conut own300", "did you mean count?"),
    ],
)
def test_a_mistake_is_refused_in_one_line(words: str, message: str, call, folder: Path) -> None:
    for name, size, shard in (("one", 300, "1/2"), ("thirds", 300, "2/3"), ("ten", 310, "2/2")):
        if not (folder / f"{name}.json").exists():
            assert call(f"count own{size} --corpus text.jsonl --shard {shard} --out {name}.json --quiet")[0] == 0
    before = sorted(folder.iterdir())
    code, out, err = call(f"{words} --json")
    assert code == 2, err
    error = json.loads(out)["error"]
    assert message in f"{error['message']} {error['where']} {error['mend']}"
    assert error["mend"]
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert sorted(folder.iterdir()) == before


def test_a_label_is_a_label_only_where_no_file_has_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.txt").write_text("x")
    values = ["hindi=x.jsonl", "a=b.txt", "x.jsonl", "hf:name", "বাংলা=y.txt", "my data/x=1.txt", "./q=1.txt"]
    specs, labels = parse_corpora(values, "body")
    assert labels == ["hindi", None, None, None, "বাংলা", None, None]
    assert [spec.source for spec in specs] == [
        "x.jsonl", "a=b.txt", "x.jsonl", "hf:name", "y.txt", "my data/x=1.txt", "./q=1.txt"
    ]  # fmt: skip
    assert {spec.field for spec in specs} == {"body"}
    for none in (None, []):
        with pytest.raises(UserError, match="no corpus is named"):
            parse_corpora(none, "text")
