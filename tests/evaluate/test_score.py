"""What results are made of: means over items and over parts, and ROUGE."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lilliput.evaluate.mean import mean_error
from lilliput.evaluate.rouge import rouge
from lilliput.evaluate.score import Parts, Score

RIGHT = np.array([True, False, True, True, True, False])
GROUPS = ["a", "a", "b", "b", "b", "c"]


def _score(over_groups):
    parts = Parts(GROUPS, {"a": ["x"], "b": ["x", "y"]}, over_groups, ("subjects", "categories"))
    return Score(RIGHT, ~RIGHT, parts=parts)


def test_the_mean_of_items():
    score = _score(False)
    found = score.to_dict()
    assert (found["acc"], found["acc_norm"], found["mean_of"]) == (4 / 6, pytest.approx(2 / 6), "items")
    assert found["stderr"] == pytest.approx(mean_error(RIGHT))
    assert found["categories"]["x"] == {"acc": 4 / 5, "stderr": pytest.approx(0.2), "items": 5, "acc_norm": 1 / 5}
    assert found["subjects"]["c"] == {"acc": 0, "stderr": None, "items": 1, "acc_norm": 1}
    assert score.groups is None
    assert score.results.tolist() == [1, 0, 1, 1, 1, 0]


def test_the_mean_of_parts():
    score = _score(True)
    found = score.to_dict()
    assert (found["acc"], found["mean_of"], found["items"]) == (pytest.approx((1 / 2 + 1 + 0) / 3), "subjects", 6)
    # One part has a single item, and no error of its own.
    assert found["stderr"] is None
    x = found["categories"]["x"]
    assert (x["acc"], x["items"]) == (3 / 4, 5)
    assert x["stderr"] == pytest.approx(math.sqrt(0.5**2 + 0) / 2)
    assert score.groups == GROUPS
    assert score.mean(np.ones(6))[0] == 1


def test_an_item_may_have_a_number_instead():
    values = {"rouge1": np.array([0.5, 1.0]), "rougeL": np.array([0.25, 0.75])}
    score = Score(None, values=values, main="rougeL", figures={"rougeL": 0.5})
    found = score.to_dict()
    assert (found["acc"], found["acc_norm"], found["stderr"], found["rougeL"]) == (None, None, None, 0.5)
    assert score.results.tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        # Lin 2004, section 3: one gap costs ROUGE-L less than a change of order.
        ("police kill the gunman", "police killed the gunman", (3 / 4, 1 / 3, 3 / 4)),
        ("the gunman kill police", "police killed the gunman", (3 / 4, 1 / 3, 2 / 4)),
        # "the" counts as often as both have it.
        ("the the the cat", "The cat, the dog!", (3 / 4, 1 / 3, 2 / 4)),
        ("Same words", "same-words.", (1, 1, 1)),
        ("one", "one two three", (2 / 4, 0, 2 / 4)),
        ("", "a summary", (0, 0, 0)),
        ("nothing shared", "世界", (0, 0, 0)),
    ],
)
def test_rouge_by_hand(text, reference, expected):
    assert rouge(text, reference) == pytest.approx(expected)


_WORDS = st.lists(st.sampled_from(["a", "b", "c7", "d", "É", "x-y", "."]), max_size=12).map(" ".join)


@given(_WORDS, _WORDS)
def test_rouge_is_between_none_and_all_and_the_same_both_ways(text, reference):
    found = rouge(text, reference)
    assert all(0 <= value <= 1 for value in found)
    assert found == pytest.approx(rouge(reference, text))


@given(_WORDS, _WORDS)
@settings(deadline=None)
def test_rouge_as_the_package(text, reference):
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2", "rougeL"])
    expected = scorer.score(reference, text)
    assert rouge(text, reference) == pytest.approx([expected[name].fmeasure for name in ("rouge1", "rouge2", "rougeL")])
