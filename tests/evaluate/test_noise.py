"""Character noise: how much of it, where it may fall, and that it repeats."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_support import write_rows

from lilliput.errors import UserError
from lilliput.evaluate.noise import Noise
from lilliput.evaluate.task import open_task

LONG = "The cats that sat on the mat were asleep; nobody saw them. Grüße, 世界! " * 200
READ = {"choice": "query", "pair": "good", "word": "context", "partial": "contexts", "summary": "document"}
RATES = st.sampled_from([0.01, 0.05, 0.3, 1.0])


def test_a_share_of_the_characters_changes():
    clean = LONG.replace("\n", " ")
    for rate in (0.02, 0.1):
        noisy = Noise(rate)(clean)
        assert noisy == Noise(rate)(clean)
        assert noisy != Noise(rate, seed=1)(clean)
        # Deletions and insertions are as frequent, so the length hardly moves, and nothing foreign comes in.
        assert abs(len(noisy) - len(clean)) < 0.3 * rate * len(clean)
        assert set(noisy) <= set(clean)
    few, many = (sum(a != b for a, b in zip(clean[:40], Noise(rate)(clean)[:40], strict=True)) for rate in (1e-9, 1.0))
    assert few == 0
    assert many > 20


@given(st.text(), RATES)
def test_any_text_stays_text_and_lines_stay_lines(text, rate):
    text = text.encode("utf-8", "ignore").decode()
    noisy = Noise(rate)(text)
    assert noisy.encode().decode() == noisy
    assert [c for c in noisy if c in "\r\n"] == [c for c in text if c in "\r\n"]
    lines = re.split(r"[\r\n]", text)
    assert all(line or not other for line, other in zip(lines, re.split(r"[\r\n]", noisy), strict=True))
    assert all(Noise(rate).documents(["a"]))


@given(st.text(max_size=20), st.text(max_size=8), st.text(max_size=8), st.text(max_size=20), RATES)
def test_what_sets_texts_apart_is_left(head, one, other, tail, rate):
    first, second = Noise(rate).alike([f"{head}{one}{tail}", f"{head}{other}{tail}"])
    assert (first == second) == (one == other)


def test_tasks_are_spoilt_where_they_are_read(tmp_path):
    rows = {
        "choice": {"query": "the cat sat on the mat", "choices": ["and slept", "and flew"], "gold": 0},
        "pair": {"sentence_good": "All the cats sleep there.", "sentence_bad": "All the cats sleeps there."},
        "word": {"context": "the cat sat on the", "continuation": "mat"},
        "partial": {"contexts": ["the cat was big and", "the mat was big and"], "ending": "it slept", "gold": 0},
        "summary": {"document": "the cat sat on the mat", "summary": "a cat sat"},
    }
    for name, row in rows.items():
        write_rows(tmp_path / f"{name}.jsonl", [row])
        task = open_task(name, tmp_path)
        (clean,), (noisy,) = task.items, task.noisy(Noise(0.5)).items
        assert getattr(noisy, READ[name]) != getattr(clean, READ[name])
        for field in ("choices", "gold", "word", "ending", "summary"):
            assert getattr(noisy, field, None) == getattr(clean, field, None)
        assert task.noisy(Noise(0.5)).hash != task.hash


@pytest.mark.parametrize("rate", [0, -0.1, 1.5, float("nan")])
def test_a_rate_that_is_no_share_is_refused(rate):
    with pytest.raises(UserError, match="is no share"):
        Noise(rate)
