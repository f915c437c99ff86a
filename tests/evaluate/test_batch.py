"""Sequences scored in trees and batches against each scored alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_support import plainly, small_model, small_tokenizer

from lilliput.evaluate import prefixes
from lilliput.evaluate.batch import score_sequences
from lilliput.evaluate.prefixes import trees
from lilliput.model.tree import TreeReader


@pytest.fixture(scope="module")
def model():
    return small_model(small_tokenizer())


# Few different ids, so that beginnings are shared in every way.
SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=12)


@given(SEQUENCES, st.data())
def test_trees_hold_every_sequence_once_and_ask_what_was_asked(held, data):
    sequences = [np.array(ids) for ids in held]
    scored = [data.draw(st.integers(0, len(ids) - 1)) for ids in held]
    seen = []
    for tree in trees(sequences, scored):
        ancestors = [[at for at in range(node + 1) if node < tree.end[at]] for node in range(len(tree.ids))]
        for node, path in enumerate(ancestors):
            assert tree.depth[node] == len(path) - 1
            assert path[-1] == node
        for number, own in tree.asked:
            seen.append(number)
            assert tree.targets[own].tolist() == held[number][len(held[number]) - scored[number] :]
            for before, (at, _) in enumerate(zip(tree.at[own], tree.targets[own], strict=True)):
                path = tree.ids[ancestors[at]].tolist()
                assert path == held[number][: len(held[number]) - scored[number] + before]
        # Nothing stands twice: two nodes never have the same path.
        paths = [tuple(tree.ids[path]) for path in ancestors]
        assert len(set(paths)) == len(paths)
    assert sorted(seen) == [number for number, count in enumerate(scored) if count]


def test_trees_stay_small_unless_much_is_shared():
    rng = np.random.default_rng(0)
    apart = [np.append(0, rng.integers(1, 99, 20)) for _ in range(50)]
    assert max(len(tree.ids) for tree in trees(apart, [1] * 50)) <= prefixes._SMALL
    question = np.append(0, rng.integers(1, 99, 200))
    alike = [np.concatenate((question, rng.integers(1, 99, 10))) for _ in range(100)]
    found = list(trees(alike, [10] * 100))
    assert prefixes._SMALL < max(len(tree.ids) for tree in found) <= prefixes._LARGE
    assert sum(len(tree.ids) for tree in found) < 0.15 * sum(map(len, alike))


@pytest.mark.parametrize("batch", [1, 128, 4096])
def test_scores_are_those_of_each_sequence_alone(model, batch):
    rng = np.random.default_rng(batch)
    base = rng.integers(0, model.config.vocab_size, 40)
    sequences, scored = [], []
    for _ in range(12):
        own = rng.integers(0, model.config.vocab_size, rng.integers(1, 9))
        sequences.append(np.concatenate((base[: rng.integers(1, 40)], own)))
        scored.append(int(rng.integers(0, len(sequences[-1]))))
    told = []
    log_p, greedy = score_sequences(TreeReader(model), sequences, scored, batch=batch, show=told.append)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1)
    for sequence, count, found, best in zip(sequences, scored, log_p, greedy, strict=True):
        expected, likeliest = plainly(model, sequence.tolist(), count)
        assert found == pytest.approx(expected, abs=1e-4)
        assert best == likeliest


def test_the_same_sequence_twice_and_one_that_begins_another(model):
    short, long = np.array([5, 6, 7]), np.array([5, 6, 7, 8, 9])
    log_p, _ = score_sequences(TreeReader(model), [long, short, long, short], [4, 2, 2, 0])
    assert log_p[0] == pytest.approx(plainly(model, [5, 6, 7, 8, 9], 4)[0], abs=1e-4)
    assert log_p[1] == pytest.approx(plainly(model, [5, 6, 7], 2)[0], abs=1e-4)
    assert log_p[0] - log_p[2] == pytest.approx(log_p[1], abs=1e-4)
    assert log_p[3] == 0


def test_nothing_to_score(model):
    log_p, greedy = score_sequences(TreeReader(model), [], [])
    assert len(log_p) == len(greedy) == 0
    log_p, greedy = score_sequences(TreeReader(model), [np.array([5])], [0])
    assert (log_p.tolist(), greedy.tolist()) == ([0.0], [True])
