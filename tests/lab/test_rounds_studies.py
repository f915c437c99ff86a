"""The studies `rounds` and `batch-rate`: their arms differ in what they ask about, and each of them can run."""

import pytest
import torch

from lilliput.lab.grid import Cell, cells_of
from lilliput.lab.spec import read_study, studies_shipped
from lilliput.plan.search import derive_shape
from lilliput.train.config import TrainConfig
from lilliput.train.derive import derive

# About what the studies' tokenizer makes of the training text.
TOKENS, BYTES = 14_000_000, 45_000_000


def first_cells(name: str) -> dict[str, Cell]:
    return {cell.arm: cell for cell in cells_of(read_study(studies_shipped()[name])) if cell.seed == 0}


def settled(cell: Cell) -> TrainConfig:
    recipe = cell.recipe
    shape = derive_shape(recipe)
    return derive(recipe.train, shape, TOKENS, BYTES, 0, torch.device("cpu"), rounds=recipe.rounds)[0]


def test_every_arm_has_the_same_first_round_and_rate() -> None:
    arms = {name: settled(cell) for name, cell in first_cells("rounds").items()}
    ends = {name: one.rounds.ends(one.steps) if one.rounds else (one.steps,) for name, one in arms.items()}
    assert {found[0] for found in ends.values()} == {326}
    assert {config.lr for config in arms.values()} == {0.0069}
    assert ends["weighted-50"] == ends["fresh-50"] == ends["uniform-50"] == (326, 488)
    assert ends["three-50"] == (326, 488, 651)


@pytest.mark.parametrize(
    ("arm", "steps", "rate"),
    [
        ("quarter-root", 1953, 0.0069 / 2),
        ("quarter-linear", 1953, 0.0069 / 4),
        ("whole", 488, 0.0069),
        ("fourfold-root", 122, 0.0138),
        ("fourfold-linear", 122, 0.0276),
    ],
)
def test_rates_follow_the_batch_as_the_notes_say(arm: str, steps: int, rate: float) -> None:
    config = settled(first_cells("batch-rate")[arm])
    assert (config.steps, config.beta2) == (steps, 0.99)
    assert config.lr == pytest.approx(rate)
