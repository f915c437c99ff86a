"""The studies that ship: each can be read, and the shapes are what they are said to be."""

from __future__ import annotations

import math

import pytest
import torch

from lilliput.lab.grid import Cell, cells_of
from lilliput.lab.spec import read_study, studies_shipped
from lilliput.model.config import ModelConfig
from lilliput.model.sharing import unrolled
from lilliput.plan.search import derive_shape
from lilliput.train.derive import derive, flops

OF_ONE_SIZE = ("depth", "expansion", "heads", "starts", "weight-decay", "pangu-blocks", "rate-transfer")
# Of the training text, cut by the studies' tokenizer of 2,048 pieces.
BYTES_A_TOKEN = 3.0487


def cells(name: str) -> list[Cell]:
    return cells_of(read_study(studies_shipped()[name]))


def shapes(name: str) -> dict[str, ModelConfig]:
    return {cell.arm: derive_shape(cell.recipe) for cell in cells(name)}


@pytest.mark.parametrize("name", studies_shipped())
def test_every_study_reads_and_its_cells_differ(name: str) -> None:
    study = read_study(studies_shipped()[name])
    assert study.name == name
    made = cells_of(study)
    assert len({cell.hash for cell in made}) == len({cell.stem for cell in made}) == len(made)
    assert all(line.isprintable() and len(line) <= 131 for line in studies_shipped()[name].read_text().splitlines())


@pytest.mark.parametrize("name", OF_ONE_SIZE)
def test_arms_are_of_one_size(name: str) -> None:
    made = shapes(name)
    sizes = [shape.parameters() for shape in made.values()]
    middle = (min(sizes) + max(sizes)) / 2
    assert all(abs(size / middle - 1) < 0.02 for size in sizes), dict(zip(made, sizes, strict=True))
    for shape in made.values():
        assert shape.head_dim >= 16
        assert shape.head_dim % 2 == 0
        assert shape.heads * shape.head_dim == shape.width
        assert (shape.vocab_size, shape.context, shape.tied) == (2048, 256, True)
        assert 0.9e6 < shape.parameters() < 1.1e6


def test_depth_sweeps_from_2_to_24() -> None:
    made = shapes("depth")
    assert len(made) >= 12
    assert {2, 24} <= {shape.depth for shape in made.values()}
    for name, shape in made.items():
        assert name == f"{shape.depth}x{shape.width}"
        assert shape.width % 8 == 0
        assert 2 <= shape.ffn / shape.width <= 4
        assert abs(shape.parameters() / 954_320 - 1) < 0.004
    ordered = sorted({shape.depth for shape in made.values()})
    study = read_study(studies_shipped()["depth"])
    seeds = {shape.depth: len(study.seeds_of(name)) for name, shape in made.items()}
    assert all(seeds[depth] == 3 for depth in (*ordered[:2], 10, *ordered[-2:]))


def test_expansions_are_those_of_the_paper() -> None:
    made = {float(name): shape for name, shape in shapes("expansion").items()}
    assert {1, 2, 2.77, 4} <= set(made)
    for expansion, shape in made.items():
        assert shape.ffn == round(expansion * shape.width)
        assert abs(shape.parameters() / 966_000 - 1) < 0.014


def test_the_studies_share_the_cells_of_the_common_shape() -> None:
    base = {cell.seed: cell.hash for cell in cells("depth") if cell.arm == "10x80"}
    assert set(base) == {0, 1, 2}
    arms = {"expansion": "2.77", "heads": "heads=4", "starts": "init=fan-in", "weight-decay": "weight_decay=0.1"}
    arms |= {"pangu-blocks": "plain", "rate-transfer": "middle"}
    for name, arm in arms.items():
        same = {cell.seed: cell.hash for cell in cells(name) if cell.arm == arm}
        assert same == {seed: base[seed] for seed in same}, name
        assert len(same) >= 2, name
    deep = {cell.seed: cell.hash for cell in cells("depth") if cell.arm in ("3x136", "20x56")}
    rates = {cell.seed: cell.hash for cell in cells("rate-transfer") if cell.arm in ("shallow", "deep")}
    assert set(rates.values()) <= {cell.hash for cell in cells("depth")}
    assert rates.keys() <= deep.keys()


def test_sharing_is_studied_at_equal_flops_and_at_equal_parameters() -> None:
    made = shapes("sharing")
    base = made["unshared"]
    for name in ("shared", "shared-lora", "looped"):
        assert unrolled(made[name]) == base
        assert flops(made[name], 1) == flops(base, 1)
        assert made[name].parameters() < 0.6 * base.parameters()
        assert made[f"{name}-wide"].parameters() == pytest.approx(base.parameters(), rel=0.002)
        assert flops(made[f"{name}-wide"], 1) > 1.7 * flops(base, 1)
    ffn = 10 * 3 * 80 * 222
    assert (base.parameters() - made["shared-lora"].parameters()) / ffn > 0.75
    recovered = [claim for claim in read_study(studies_shipped()["sharing"]).claims if claim.to]
    assert [(one.arm, one.versus, one.to, one.part) for one in recovered] == [
        ("shared-lora", "shared", "unshared", 0.6)
    ]


def test_rates_are_half_and_twice_the_rule() -> None:
    by_arm = {cell.arm: cell for cell in cells("rate-transfer")}
    for name in ("shallow", "middle", "deep"):
        recipe = by_arm[name].recipe
        config, _ = derive(recipe.train, derive_shape(recipe), 10**7, 3 * 10**7, 0, torch.device("cpu"))
        assert by_arm[f"{name}-half"].recipe.train.lr == pytest.approx(config.lr / 2, rel=0.01)
        assert by_arm[f"{name}-twice"].recipe.train.lr == pytest.approx(config.lr * 2, rel=0.01)


@pytest.mark.parametrize(("name", "nats"), [("starts", 0.02), ("pangu-blocks", 0.01)])
def test_thresholds_are_the_papers_in_nats(name: str, nats: float) -> None:
    bits = nats / math.log(2) / BYTES_A_TOKEN
    for claim in read_study(studies_shipped()[name]).claims:
        assert claim.delta == pytest.approx(bits, abs=1e-4)
        assert claim.delta <= bits
