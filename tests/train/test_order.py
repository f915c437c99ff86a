import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from train_support import stream

from lilliput.errors import ConfigError
from lilliput.train.order import Cursor, Loader, fingerprint, mix, permute


@given(n=st.integers(1, 5000), key=st.integers(0, 2**63), epoch=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_every_epoch_is_a_permutation(n: int, key: int, epoch: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(n), n, key, epoch)), np.arange(n))


@given(n=st.integers(2, 2**40), positions=st.lists(st.integers(0, 2**40), min_size=2, max_size=50, unique=True))
@settings(max_examples=60, deadline=None)
def test_large_ranges_stay_inside_and_never_collide(n: int, positions: list[int]) -> None:
    inside = np.unique(np.array(positions, dtype=np.int64) % n)
    images = permute(inside, n, 5)
    assert images.min() >= 0
    assert images.max() < n
    assert len(np.unique(images)) == len(inside)


def test_a_position_does_not_depend_on_its_company() -> None:
    whole = permute(np.arange(1000), 1000, 7, 1)
    assert np.array_equal(permute(np.arange(300, 400), 1000, 7, 1), whole[300:400])


def test_the_order_is_the_same_in_every_version() -> None:
    # A resumed run relies on it: a change here is a change of the checkpoint's format.
    assert permute(np.arange(10), 10, 0, 0, 0).tolist() == [1, 9, 0, 7, 3, 5, 2, 8, 6, 4]


def test_seeds_rounds_and_epochs_differ() -> None:
    orders = {tuple(permute(np.arange(50), 50, *key)) for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]}
    assert len(orders) == 4
    assert mix(1, 2) != mix(2, 1)


def test_the_order_looks_random() -> None:
    n = 4096
    image = permute(np.arange(n), n, 9)
    assert abs(np.corrcoef(np.arange(n), image)[0, 1]) < 0.05
    neighbours = np.mean(np.abs(np.diff(image)) == 1)
    assert neighbours < 0.005
    # First images over many keys are spread evenly: chi-square with 15 degrees of freedom, p = 0.001.
    first = np.array([int(permute(np.arange(1), 16, key)[0]) for key in range(1600)])
    counts = np.bincount(first, minlength=16)
    assert ((counts - 100) ** 2 / 100).sum() < 37.7


@pytest.mark.parametrize("batch", [3, 7, 130, 300])
def test_batches_run_through_every_epoch_once(batch: int) -> None:
    data = stream(124 * 16 + 1)
    loader = Loader(data, 16, batch, seed=1, state=Cursor())
    seen = np.concatenate([loader.next_indices() for _ in range(-(-3 * 124 // batch))])[: 3 * 124]
    for epoch in range(3):
        assert np.array_equal(np.sort(seen[epoch * 124 : (epoch + 1) * 124]), np.arange(124))
    assert not np.array_equal(seen[:124], seen[124:248])


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_processes_split_the_global_batch_by_position(world: int) -> None:
    data = stream()
    alone = Loader(data, 16, 7, 1, Cursor()).next_batch()
    parts = [Loader(data, 16, 7, 1, Cursor()).next_batch(rank, world) for rank in range(world)]
    assert np.array_equal(np.concatenate(parts), alone)


def test_a_cursor_is_all_that_a_resumed_loader_needs() -> None:
    data = stream()
    loader = Loader(data, 16, 50, 1, Cursor(round=2))
    for _ in range(4):
        loader.next_indices()
    again = Loader(data, 16, 50, 1, Cursor.from_dict(loader.state.to_dict()))
    assert np.array_equal(loader.next_indices(), again.next_indices())


def test_too_little_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="shorter than one window"):
        Loader(stream(16), 16, 1, 0, Cursor())


def test_the_fingerprint_tells_data_apart() -> None:
    assert fingerprint(stream(), 16) == fingerprint(stream(), 16)
    assert fingerprint(stream(), 16) != fingerprint(stream(seed=4), 16)
    assert fingerprint(stream(), 16) != fingerprint(stream(), 8)
