"""Tasks on a small model: numbers against plain arithmetic, names, data that is missing, and what a result says."""

import json
import math
import re

import numpy as np
import pytest
from task_support import plainly, small_model, small_tokenizer, write_rows

from lilliput.errors import UserError
from lilliput.evaluate import known as known_module
from lilliput.evaluate.known import Known, known_tasks
from lilliput.evaluate.likelihood import likelihoods
from lilliput.evaluate.mean import mean_error
from lilliput.evaluate.task import open_task, run_task, score_task

CHOICES = [
    {"query": "what do plants need", "choices": ["light", "a hat and a cat on the mat"], "gold": 0},
    {"query": "the cat sat on", "choices": ["the mat", "Grüße", "mats"], "gold": 2},
    {"query": "", "choices": ["Nobody", "the sea"], "gold": 1},
    # Too long for the context of 48: cut on the left.
    {"query": "Nobody has ever been there before. " * 8, "choices": ["the child", "water"], "gold": 0},
]
PAIRS = [
    {"sentence_good": good, "sentence_bad": bad, "UID": uid, "linguistics_term": term}
    for good, bad, uid, term in (
        ("The cats sleep.", "The cats sleeps.", "verbs", "agreement"),
        ("The cat sleeps.", "The cat sleep.", "verbs", "agreement"),
        ("Those mats fit.", "That mats fit.", "nouns", "agreement"),
        ("This mat fits.", "These mat fits.", "nouns", "agreement"),
        ("Nobody ever left.", "Somebody ever left.", "ever", "licensing"),
        ("Nobody ever sat.", "Somebody ever sat.", "ever", "licensing"),
    )
]


@pytest.fixture(scope="module")
def tokenizer():
    return small_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    return small_model(tokenizer)


def _alone(model, tokenizer, before, continuation):
    """Σ log p by the protocol's own words."""
    ids = [tokenizer.bos_id, *tokenizer.encode(before + continuation)]
    scored = len(ids) - 1 - len(tokenizer.encode(before))
    return plainly(model, ids[-(model.config.context + 1) :], min(scored, model.config.context))


def test_choices(model, tokenizer, tmp_path):
    write_rows(tmp_path / "mine.jsonl", CHOICES)
    task = open_task("mine", tmp_path)
    score = score_task(model, tokenizer, task, batch=64)
    right, right_norm = [], []
    for row in CHOICES:
        expected = [_alone(model, tokenizer, row["query"], f" {choice}")[0] for choice in row["choices"]]
        right.append(int(np.argmax(expected)) == row["gold"])
        each = [value / len(choice.encode()) for value, choice in zip(expected, row["choices"], strict=True)]
        right_norm.append(int(np.argmax(each)) == row["gold"])
    assert score.right.tolist() == right
    assert score.right_norm.tolist() == right_norm
    assert score.right.tolist() != score.right_norm.tolist()
    found = run_task(model, tokenizer, task)
    p = sum(right) / 4
    assert (found["acc"], found["acc_norm"], found["items"]) == (p, sum(right_norm) / 4, 4)
    assert found["stderr"] == pytest.approx(math.sqrt(p * (1 - p) / 3))
    assert found["cut"] == 2
    assert (found["shots"], found["bos"]["id"], found["kind"]) == (0, tokenizer.bos_id, "choice")
    assert found["data"] == str(tmp_path / "mine.jsonl")
    assert found["versions"].keys() >= {"lilliput", "torch", "tokenizers"}


def test_pairs(model, tokenizer, tmp_path):
    write_rows(tmp_path / "blimp.jsonl", PAIRS)
    found = run_task(model, tokenizer, open_task("blimp", tmp_path))
    expected = {}
    for row in PAIRS:
        good, bad = (_alone(model, tokenizer, "", row[field])[0] for field in ("sentence_good", "sentence_bad"))
        expected.setdefault(row["UID"], []).append(good > bad)
    means = {uid: np.mean(own) for uid, own in expected.items()}
    assert {uid: row["acc"] for uid, row in found["paradigms"].items()} == means
    assert found["acc"] == pytest.approx(np.mean(list(means.values())))
    agreement = found["phenomena"]["agreement"]
    assert agreement["acc"] == pytest.approx((means["verbs"] + means["nouns"]) / 2)
    assert (agreement["items"], found["items"], found["acc_norm"]) == (4, 6, None)
    errors = [row["stderr"] for row in found["paradigms"].values()]
    assert found["stderr"] == pytest.approx(math.sqrt(sum(error**2 for error in errors)) / 3)
    # Six of the benchmark's 67,000.
    assert found["whole"] is False


def test_equal_sentences_are_no_success_and_files_are_paradigms(model, tokenizer, tmp_path):
    write_rows(tmp_path / "blimp" / "same.jsonl", [{"sentence_good": "the cat", "sentence_bad": "the cat"}])
    found = run_task(model, tokenizer, open_task("blimp", tmp_path))
    assert (found["acc"], found["stderr"], found["phenomena"]) == (0, None, {})
    assert list(found["paradigms"]) == ["same"]


def test_last_words_in_both_layouts(model, tokenizer, tmp_path):
    words = [("the cat sat on the", "mat"), ("Question: what do plants", "need"), ("before, said the child", "who")]
    write_rows(tmp_path / "local" / "lambada.jsonl", [{"context": a, "continuation": b} for a, b in words])
    write_rows(tmp_path / "hub" / "lambada.jsonl", [{"text": f"{a} {b}"} for a, b in words])
    found, hub = (run_task(model, tokenizer, open_task("lambada", tmp_path / part)) for part in ("local", "hub"))
    alone = [_alone(model, tokenizer, context, f" {word}") for context, word in words]
    log_p = [value for value, _ in alone]
    assert found["perplexity"] == pytest.approx(math.exp(-np.mean(log_p)), rel=1e-4)
    assert found["perplexity_stderr"] == pytest.approx(found["perplexity"] * mean_error(log_p), rel=1e-4)
    assert found["acc"] == np.mean([best for _, best in alone])
    assert {**hub, "data": None} == {**found, "data": None}
    assert json.dumps(found)


def test_the_batch_decides_no_number(model, tokenizer):
    requests = [(row["query"], f" {choice}") for row in CHOICES for choice in row["choices"]]
    found = [likelihoods(model, tokenizer, requests, batch=batch, title=None) for batch in (1, 4096)]
    np.testing.assert_allclose(found[0].log_p, found[1].log_p, atol=1e-4)
    assert found[0].tokens == found[1].tokens
    assert len(likelihoods(model, tokenizer, [], title=None).log_p) == 0


def test_one_token_is_scored_where_the_texts_merge_into_fewer(model, tokenizer, monkeypatch):
    # As a tokenizer does that joins words: the whole has no more tokens than what stands before.
    monkeypatch.setattr(type(tokenizer), "encode_arrays", lambda self, texts: [np.array([5, 6])] * len(texts))
    found = likelihoods(model, tokenizer, [("a", " b")], title=None)
    assert found.tokens == 1
    assert found.log_p[0] == pytest.approx(plainly(model, [tokenizer.bos_id, 5, 6], 1)[0], abs=1e-4)


def test_large_tasks_are_taken_in_parts(model, tokenizer, monkeypatch):
    requests = [(row["query"], f" {choice}") for row in CHOICES for choice in row["choices"]]
    whole = likelihoods(model, tokenizer, requests, title=None)
    monkeypatch.setattr("lilliput.evaluate.likelihood._HELD", 50)
    parts = likelihoods(model, tokenizer, requests, title=None)
    np.testing.assert_allclose(whole.log_p, parts.log_p, atol=1e-4)
    assert (whole.tokens, whole.cut) == (parts.tokens, parts.cut)


def test_the_data_hash_is_of_the_items(tmp_path):
    write_rows(tmp_path / "a.jsonl", CHOICES)
    write_rows(tmp_path / "b.jsonl", [{"id": 3, **row} for row in CHOICES])
    write_rows(tmp_path / "c.jsonl", CHOICES[:3])
    a, b, c = (open_task(name, tmp_path).hash for name in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    ("name", "folder", "message", "mend"),
    [
        ("blimpp", None, "no such task: blimpp", "did you mean blimp?"),
        ("min", "", "no such task: min", "did you mean mine?"),
        ("../mine", "", "no such task", "Known are"),
        ("blimp", None, "the data of blimp is not here", "DIR/blimp.jsonl (.parquet, .csv, .json) and add --data DIR"),
        ("blimp", "", "the data of blimp is not here", "github.com/alexwarstadt/blimp"),
        ("mine", "gone", "no such folder", "name the folder"),
        ("odd", "", "the row's fields make no task: text", "query, choices, gold"),
        ("hellaswag", "", "the row's fields make no item: choices, label", "ctx, endings, label"),
    ],
)
def test_what_cannot_be_found_says_how_to_mend_it(tmp_path, name, folder, message, mend):
    write_rows(tmp_path / "mine.jsonl", CHOICES)
    write_rows(tmp_path / "odd.jsonl", [{"text": "of no task"}])
    write_rows(tmp_path / "hellaswag_val.jsonl", [{"choices": ["a", "b"], "label": 1}])
    with pytest.raises(UserError) as raised:
        open_task(name, None if folder is None else tmp_path / folder)
    assert message in raised.value.message
    assert mend in str(raised.value.mend)


def test_what_the_shipped_tasks_say():
    asked = (
        "blimp arc_easy arc_challenge hellaswag piqa winogrande boolq openbook_qa lambada mmlu c3 cmmlu ceval agieval"
        " eprstmt ax_b xsum story_progression"
    )
    assert set(asked.split()) <= known_tasks().keys()
    for name, said in known_tasks().items():
        # Stories are anybody's, so there is no number that they should have.
        assert said.keys() >= {"kind", "files", "source"}
        assert ("items" in said) == (said["kind"] != "progression")
        assert name in said["files"]
        known = Known.of(said["kind"], said)
        assert set(said) <= set(re.findall(r"`(\w+)`", known_module.__doc__))
        for category in said.get("categories", {}).values():
            assert len(set(category)) == len(category)
        # What a layout makes is a set of fields that the kind knows.
        for made in said.get("layouts", ()):
            assert tuple(made) in known.kind.own


_LARGE = ("blimp", "hellaswag", "mmlu", "cmmlu", "agieval", "c3")
_SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in _LARGE]


@pytest.mark.data
@pytest.mark.parametrize("name", ["arc_easy", "openbook_qa", "lambada", "eprstmt", "ceval", *_SLOW])
def test_the_shipped_tasks_are_whole_where_their_data_is(data_dir, name):
    task = open_task(name, data_dir / "benchmarks")
    assert len(task.items) == task.expected
