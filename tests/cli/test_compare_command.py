"""`lilliput tokenizer compare` as people call it: table, JSON, page, and requests that are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

ENGLISH = ["the cat sat on the mat", "a cat and a hat"] * 4
HINDI = ["नमस्ते दुनिया", "नमस्ते बिल्ली"] * 4


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder with two corpora and two tokenizers: one of English, one of Hindi."""
    for name, lines in (("english", ENGLISH), ("hindi", HINDI)):
        rows = "".join(json.dumps({"text": line}) + "\n" for line in lines)
        (tmp_path / f"{name}.jsonl").write_text(rows, encoding="utf-8")
        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        backend.train_from_iterator(
            lines, trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
        )
        (tmp_path / name).mkdir()
        backend.save(str(tmp_path / name / "tokenizer.json"))
    return tmp_path


def test_each_is_better_in_its_own_language(lilliput, texts: Path) -> None:
    ran = lilliput(
        "tokenizer", "compare", "english", "hindi", "--corpus", "en=english.jsonl", "--corpus", "hindi.jsonl",
        "--width", 64, "--body", "100k", "--out", "compared", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    english, hindi = ran.json["tokenizers"]
    assert [english["name"], hindi["name"]] == ["english", "hindi"]
    assert english["where"] == str(texts / "english")
    assert set(english["languages"]) == {"en", "Devanagari"}
    for own, other, language in ((english, hindi, "en"), (hindi, english, "Devanagari")):
        assert own["languages"][language]["bytes_per_token"] > other["languages"][language]["bytes_per_token"]
    assert english["languages"]["Devanagari"]["in_bytes"] > hindi["languages"]["Devanagari"]["in_bytes"]
    size = english["vocab_size"]
    assert english["share"]["value"] == pytest.approx(size * 64 / (size * 64 + 100_000))
    assert ran.json["report"] == str(texts / "compared" / "compare.html")
    page = Path(ran.json["report"]).read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    kept = json.loads((texts / "compared" / "compare.json").read_text(encoding="utf-8"))
    assert {**kept, "report": ran.json["report"]} == ran.json
    assert kept["corpus"] == [str(texts / "english.jsonl"), str(texts / "hindi.jsonl")]


def test_people_get_a_table_for_all_text_and_each_language(lilliput, texts: Path) -> None:
    ran = lilliput("tokenizer", "compare", "english", "hindi", "--corpus", "english.jsonl", "--corpus", "hindi.jsonl")
    assert ran.code == 0, ran.err
    tables = ran.out.strip().split("\n\n")
    assert [table.split()[0] for table in tables] == ["all", "Devanagari", "Latin"]
    assert all(len(table.splitlines()) == 3 for table in tables)
    assert "model share" not in ran.out
    # One language alone needs no table of its own.
    alone = lilliput("tokenizer", "compare", "english", "--corpus", "hindi.jsonl", "--quiet")
    assert len(alone.out.strip().splitlines()) == 2
    assert alone.err == ""


def test_untied_tables_are_two(lilliput, texts: Path) -> None:
    body = ("--width", 64, "--body", "100k", "--untied")
    ran = lilliput("tokenizer", "compare", "english", "--corpus", "hindi.jsonl", *body, "--json")
    size = ran.json["tokenizers"][0]["vocab_size"]
    assert ran.json["tokenizers"][0]["share"]["value"] == pytest.approx(2 * size * 64 / (2 * size * 64 + 100_000))


def test_a_model_directory_tells_the_share_of_its_own_tables(lilliput, texts: Path) -> None:
    # Padded: more rows than pieces. Headers alone are read, so any numbers will do.
    rows, width, body = 320, 8, 640
    tensors = {
        "model.embed_tokens.weight": np.zeros((rows, width), np.float32),
        "lm_head.weight": np.zeros((rows, width), np.float32),
        "model.layers.0.mlp.up_proj.weight": np.zeros((80, width), np.float32),
    }
    save_file(tensors, texts / "english" / "model.safetensors")
    (texts / "english" / "config.json").write_text(json.dumps({"vocab_size": rows}), encoding="utf-8")
    (texts / "hindi" / "config.json").write_text(json.dumps({"vocab_size": rows}), encoding="utf-8")
    ran = lilliput("tokenizer", "compare", "english", "hindi", "--corpus", "english.jsonl", "--json")
    assert ran.code == 0, ran.err
    whole, without_weights = ran.json["tokenizers"]
    assert whole["share"] == {
        "value": pytest.approx(2 * rows * width / (2 * rows * width + body)), "rows": rows, "row": 16, "body": body
    }  # fmt: skip
    assert without_weights["share"] is None
    assert "share of embedding and head is left out" in ran.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["english"], "no corpus is named"),
        (["english", "--corpus", "nowhere.jsonl"], "nowhere.jsonl"),
        (["nowhere", "--corpus", "hindi.jsonl"], "no tokenizer there"),
        (["english", "--corpus", "hindi.jsonl", "--width", "64"], "both its width and its parameters"),
        (["english", "--corpus", "hindi.jsonl", "--width", "64", "--body", "much"], "no size: 'much'"),
        (["english", "--corpus", "hindi.jsonl", "--pattern", "a+"], "takes --pattern"),
        (["english", "--corpus", "empty.jsonl"], "empty.jsonl"),
        (["english.jsonl", "--corpus", "hindi.jsonl"], "not a tokenizer"),
    ],
)
def test_a_wrong_request_is_refused_by_name(lilliput, texts: Path, words: list[str], says: str) -> None:
    (texts / "empty.jsonl").write_text('{"text": ""}\n', encoding="utf-8")
    ran = lilliput("tokenizer", "compare", *words)
    assert ran.code == 2
    assert ran.out == ""
    assert says in ran.err
    assert "Traceback" not in ran.err


def test_a_pattern_reaches_the_tiktoken_file_alone(lilliput, texts: Path) -> None:
    import base64

    lines = [f"{base64.b64encode(bytes([byte])).decode()} {byte}\n" for byte in range(256)]
    (texts / "bytes.tiktoken").write_text("".join(lines), encoding="ascii")
    words = ("english", "bytes.tiktoken", "--corpus", "english.jsonl", "--pattern", r"\w+|\W+")
    ran = lilliput("tokenizer", "compare", *words, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["tokenizers"][1]["bytes_per_token"] == 1.0
