"""Accuracy, macro-F1 and votes: against scikit-learn, and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lilliput.evaluate.labels import accuracy, accuracy_gain, by_label, f1, macro_f1
from lilliput.evaluate.tfidf import tfidf_guesses
from lilliput.evaluate.votes import by_size, committee_scores, shares

metrics = pytest.importorskip("sklearn.metrics")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_macro_f1_is_scikit_learns(pairs):
    truth, guessed = np.array(pairs).T
    assert f1(truth, guessed, 5) == pytest.approx(metrics.f1_score(truth, guessed, average="macro", zero_division=0))


def test_one_seed_gives_the_binomial_interval():
    right = np.arange(1000) % 10 != 0
    score = accuracy(right[None])
    half = 1.96 * math.sqrt(0.9 * 0.1 / 1000)
    assert score.value == 0.9
    assert (score.low, score.high) == (pytest.approx(0.9 - half, abs=2e-3), pytest.approx(0.9 + half, abs=2e-3))


def test_seeds_that_differ_widen_the_interval():
    rng = np.random.default_rng(0)
    alike = accuracy(rng.random((3, 2000)) < 0.8)
    apart = accuracy(np.stack([rng.random(2000) < share for share in (0.7, 0.8, 0.9)]))
    assert apart.high - apart.low > 3 * (alike.high - alike.low)
    assert len(apart.each) == 3


def test_a_gain_is_paired():
    rng = np.random.default_rng(1)
    base = rng.random((2, 3000)) < 0.7
    better = base | (rng.random((2, 3000)) < 0.1)
    gain = accuracy_gain(better, base)
    assert 0 < gain.low < gain.value < gain.high < 0.06
    truth = (np.arange(30) % 3).astype(np.int64)
    assert macro_f1(truth, [truth], 3).value == 1
    first = by_label(truth, np.zeros(30, np.int64), ["a", "b", "c"])[0]
    assert first == {"label": "a", "rows": 10, "found": 1.0, "f1": 0.5}


def test_votes_by_hand():
    votes = np.log(np.array([[[0.9, 0.1], [0.6, 0.4]], [[0.2, 0.8], [0.3, 0.7]], [[0.2, 0.8], [0.3, 0.7]]]))
    assert shares(votes, "softmax")[0] == pytest.approx([1.3 / 3, 1.7 / 3])
    odds = (0.9 * 0.2 * 0.2 / (0.1 * 0.8 * 0.8)) ** (1 / 3)
    assert shares(votes, "logits")[0] == pytest.approx([odds / (1 + odds), 1 / (1 + odds)])
    truth = np.array([1, 0])
    scores = committee_scores(votes, truth)
    assert scores["members"] == [0.5, 0.5, 0.5]
    assert scores["oracle"] == 1.0
    assert scores["disagreement"] == pytest.approx(2 / 3)
    sizes = by_size(votes, truth)
    assert [row["subsets"] for row in sizes] == [3, 3, 1]
    assert sizes[0]["softmax"]["value"] == 0.5
    assert by_size(np.zeros((10, 2, 2)), truth)[4]["subsets"] == 50


def test_the_baseline_tells_easy_labels_and_bears_odd_rows():
    texts = ["good fine", "bad poor", "fine good", "poor bad"] * 3
    guessed = tfidf_guesses(texts, [1, 0] * 6, ["good", "bad", ""])
    assert guessed[:2].tolist() == [1, 0]
    assert tfidf_guesses(["", " "], [1, 1], ["x"]).tolist() == [1]
