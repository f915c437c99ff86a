"""`lilliput evaluate` with tasks: its JSON, its table, and one line for a mistake."""

import json

import pytest

from lilliput.cli.main import run
from lilliput.export.hf import save_model_dir
from lilliput.model import Decoder, ModelConfig, initialise
from lilliput.tokenizer.train import train_tokenizer

TEXT = "the cat sat on the mat and the cats sat on the mats"
CHOICES = [{"query": "the cat sat on", "choices": ["the mat", "the cat"], "gold": gold} for gold in (0, 1)]
PAIRS = [
    {"sentence_good": "the cats sat", "sentence_bad": "cats the sat", "UID": "order", "linguistics_term": "syntax"},
    {"sentence_good": "the mats sat", "sentence_bad": "mats the sat", "UID": "order", "linguistics_term": "syntax"},
]
PASSAGES = [{"text": "the cat sat on the mat"}, {"text": "the cats sat on the mats"}]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model and the rows of three tasks."""
    folder = tmp_path_factory.mktemp("evaluate")
    tokenizer = train_tokenizer([TEXT] * 3, 300)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, depth=1, width=32, heads=2, kv_heads=2, head_dim=16, ffn=48, context=64,
        bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id,
    )  # fmt: skip
    model = Decoder(config)
    initialise(model, 0)
    save_model_dir(folder / "model", model, tokenizer, {})
    (folder / "notes.txt").write_text(TEXT)
    for name, rows in (("mine", CHOICES), ("blimp", PAIRS), ("lambada_openai", PASSAGES)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def call(place, capfd, monkeypatch):
    """Run the command in that folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(place)

    def ran(*words):
        code = run(["evaluate", "model", *words])
        return code, *capfd.readouterr()

    return ran


def test_tasks_and_text_in_one_answer(call, place):
    code, out, _ = call("--task", "mine", "--task", "blimp", "--task", "mine", "--data", ".", "notes.txt", "--json")
    assert code == 0
    answer = json.loads(out)
    assert answer["model"] == str(place / "model")
    assert answer["bits_per_byte"]["value"] > 0
    assert list(answer["tasks"]) == ["mine", "blimp"]
    mine, blimp = answer["tasks"].values()
    assert (mine["acc"], mine["acc_norm"], mine["items"], mine["shots"]) == (0.5, 0.5, 2, 0)
    assert mine["stderr"] == pytest.approx(0.5)
    assert mine["data"] == str(place / "mine.jsonl")
    assert blimp["phenomena"]["syntax"]["acc"] == blimp["paradigms"]["order"]["acc"] == blimp["acc"]
    for row in (mine, blimp):
        assert row.keys() >= {"acc", "acc_norm", "stderr", "items", "shots", "bos", "data_hash", "versions"}


def test_tasks_alone_as_a_table(call):
    code, out, _ = call("--task", "mine", "--task", "blimp", "--task", "lambada", "--data", ".")
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["mine", "blimp", "syntax", "lambada"]
    assert "50.00% ± 50.00  by bytes 50.00% ± 50.00" in lines[0]
    assert all("  2 items" in line for line in lines)
    assert lines[1].endswith("2 items, mean of 1 paradigms")
    assert "perplexity" in lines[3]
    code, out, _ = call("--task", "mine", "--data", ".", "--limit", "1", "--json")
    assert (code, json.loads(out)["bits_per_byte"]) == (0, None)
    mine = json.loads(out)["tasks"]["mine"]
    assert (mine["items"], mine["of"], mine["whole"]) == (1, 2, False)
    code, out, _ = call("--task", "mine", "--data", ".", "--limit", "1")
    assert out.rstrip().endswith("1 of 2 items")


def test_noise_stands_beside_the_clean_text(call):
    words = ("notes.txt", "--task", "blimp", "--data", ".", "--noise", "0.1", "--noise", "0.5")
    code, out, _ = call(*words, "--json")
    assert code == 0
    answer = json.loads(out)
    assert [row["rate"] for row in answer["noise"]] == [0.1, 0.5]
    values = [row["bits_per_byte"]["value"] for row in (answer, *answer["noise"])]
    assert len(set(values)) == 3
    assert all(row["tasks"]["blimp"]["items"] == 2 for row in answer["noise"])
    code, out, _ = call(*words)
    assert code == 0
    assert "with 10.00% of the characters spoilt:" in out
    assert out.count("bits per byte") == out.count("blimp") == 3


def test_stories_from_a_file_of_any_name(call, place):
    story = "the cat sat on the mat and the cats sat on the mats " * 4
    (place / "tales.jsonl").write_text(json.dumps({"text": story}) + "\n")
    code, out, _ = call("--task", "story_progression", "--data", "tales.jsonl")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("story_progression")
    assert "of 1 stories" in lines[0]
    assert sum(line.startswith("  ") for line in lines) == 13


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("notes.txt", "--noise", "2"), "a noise of 2 is no share"),
        ((), "nothing to evaluate on"),
        (("--task", "blimmp"), "did you mean blimp?"),
        (("--task", "eprstmt"), "the data of eprstmt is not here"),
        (("--task", "arc_easy", "--data", "."), "arc_easy.jsonl"),
        (("--task", "mine", "--data", "gone"), "no such folder: gone"),
        (("--task", "mine", "--data", ".", "--shots", "1"), "mine has no examples for shots here"),
    ],
)
def test_mistakes_are_one_line(call, words, told):
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert told in err
