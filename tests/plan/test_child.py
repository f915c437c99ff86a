"""The shapes that can be carved out of a teacher: what is asked exactly, what fits a budget, and the nearest else."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lilliput.errors import ConfigError, ModelError
from lilliput.model.architectures import ARCHITECTURES
from lilliput.model.carve import Kept, carve_model, child_config
from lilliput.model.config import ModelConfig
from lilliput.model.decoder import Decoder
from lilliput.model.group import group_model, grouped_config
from lilliput.plan.child import Target, before_grouping, child_shape, target_of_plan
from lilliput.plan.prior import shipped_prior
from lilliput.plan.proposal import plan_recipe, propose
from lilliput.recipe import build_recipe

NAMES = ("layers", "hidden", "heads", "kv_heads", "ffn")
FIELDS = dict(zip(NAMES, ("depth", "width", "heads", "kv_heads", "ffn"), strict=True))
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {"attention_bias": True, "output_bias": False},
    "qwen3": {"qk_norm": True},
    "lilliput_pangu": {"family": "pangu", "shortcut": 8},
}


def model(**changes: Any) -> ModelConfig:
    shape = {"vocab_size": 512, "depth": 8, "width": 256, "heads": 8, "head_dim": 32, "ffn": 704, "bos_id": 0}
    shape |= {"eos_id": 1, "kv_heads": changes.get("heads", 8), **changes}
    return ModelConfig(**shape)


@st.composite
def teachers(draw: st.DrawFn) -> ModelConfig:
    kind = draw(st.sampled_from(sorted(KINDS)))
    kv_heads, group = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    heads = kv_heads * group
    width = heads * draw(st.integers(1, 24)) if ARCHITECTURES[kind].whole_heads else draw(st.integers(8, 300))
    return model(
        model_type=kind,
        vocab_size=draw(st.integers(2, 5000)),
        depth=draw(st.integers(1, 12)),
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=2 * draw(st.integers(1, 32)),
        ffn=draw(st.integers(1, 1200)),
        tied=draw(st.booleans()),
        **KINDS[kind],
    )


@st.composite
def requests(draw: st.DrawFn) -> tuple[ModelConfig, Target]:
    """A teacher, and a target that is often near what can be, often named in part only."""
    teacher = draw(teachers())
    asked: dict[str, int] = {}
    for name, field in FIELDS.items():
        if draw(st.booleans()):
            asked[name] = draw(st.integers(-1, 2 * getattr(teacher, field) + 2))
    if draw(st.booleans()):
        asked["params"] = draw(st.integers(-5, 2 * teacher.parameters()))
    return teacher, Target(**asked)


def kept_for(teacher: ModelConfig, child: ModelConfig) -> Kept:
    """The first members of each space, as many as the child has before any grouping."""
    carved = before_grouping(teacher, child)
    return Kept(
        layers=tuple(range(carved.depth)),
        hidden=tuple(range(carved.width)),
        ffn=(tuple(range(carved.ffn)),) * carved.depth,
        kv_head=(tuple(range(carved.kv_heads)),) * carved.depth,
    )


def named(target: Target) -> list[str]:
    return [name for name in (*NAMES, "params") if getattr(target, name) is not None]


def refusal(teacher: ModelConfig, target: Target) -> ConfigError | None:
    try:
        child_shape(teacher, target)
    except ConfigError as error:
        return error
    return None


def asked_in(mend: str) -> Target:
    return Target(**{name: int(number) for name, number in re.findall(r"(\w+)=(-?\d+)", mend)})


@settings(max_examples=200, deadline=None)
@given(requests())
def test_a_shape_is_exactly_what_can_be_carved_or_the_nearest_one_is_named(request: tuple[ModelConfig, Target]) -> None:
    teacher, target = request
    refused = refusal(teacher, target)
    if refused is not None:
        assert refused.where in named(target)
        assert f"{refused.where} is {getattr(target, refused.where)}" in refused.message.replace(",", "")
        near = asked_in(str(refused.mend))
        assert named(near) == named(target)
        assert near != target
        target = near
    shape = child_shape(teacher, target)
    for name, field in FIELDS.items():
        assert getattr(target, name) in (None, getattr(shape, field))
        if target.params is None and name not in ("heads", "kv_heads") and getattr(target, name) is None:
            assert getattr(shape, field) == getattr(teacher, field)
    carved = before_grouping(teacher, shape)
    assert child_config(teacher, kept_for(teacher, shape)) == carved
    assert grouped_config(carved, shape.kv_heads) == shape
    if target.params is not None:
        assert shape.parameters() <= target.params
    if target.kv_heads is None:
        assert carved == shape


@settings(max_examples=50, deadline=None)
@given(teachers(), st.floats(0.02, 1.0))
def test_a_budget_is_kept_and_whole_groups_too(teacher: ModelConfig, share: float) -> None:
    params = round(share * teacher.parameters())
    assume(refusal(teacher, Target(params=params)) is None)
    shape = child_shape(teacher, Target(params=params))
    assert shape.parameters() <= params
    assert shape.head_dim == teacher.head_dim
    assert shape.heads * teacher.kv_heads == shape.kv_heads * teacher.heads
    assert child_shape(teacher, Target(params=teacher.parameters())) == teacher


def test_what_is_named_is_had_and_the_rest_follows() -> None:
    teacher = model()
    assert child_shape(teacher, Target()) == teacher
    found = child_shape(teacher, Target(layers=6, hidden=192, heads=6, ffn=512))
    assert found == replace(teacher, depth=6, width=192, heads=6, kv_heads=6, ffn=512)
    grouped = model(heads=8, kv_heads=4)
    assert child_shape(grouped, Target(heads=4)) == replace(grouped, heads=4, kv_heads=2)


def test_fewer_key_value_heads_than_follow_are_a_conversion() -> None:
    teacher = model(depth=2, width=48, heads=6, kv_heads=6, head_dim=8, ffn=40)
    found = child_shape(teacher, Target(kv_heads=2))
    assert (found.heads, found.kv_heads, before_grouping(teacher, found)) == (6, 2, teacher)
    found = child_shape(teacher, Target(heads=4, hidden=32, kv_heads=2))
    carved = carve_model(Decoder(teacher), kept_for(teacher, found))
    assert (carved.config.heads, carved.config.kv_heads) == (4, 4)
    assert group_model(carved, 2).config == found
    # Under a budget nothing is grouped that need not be.
    found = child_shape(model(), Target(kv_heads=2, params=2_000_000))
    assert (found.heads, found.kv_heads) == (2, 2)
    found = child_shape(model(), Target(kv_heads=2, heads=4, params=2_000_000))
    assert (found.heads, found.kv_heads) == (4, 2)


@pytest.mark.parametrize("params", [400_000, 1_000_000, 2_000_000, 5_000_000])
def test_a_budget_is_used_and_its_widths_suit_quantised_formats(params: int) -> None:
    teacher = model()
    found = child_shape(teacher, Target(params=params))
    assert 0.9 * params <= found.parameters() <= params
    assert found.width % 32 == 0
    assert found.heads * teacher.width == teacher.heads * found.width
    for name, value in {"layers": 4, "hidden": 160, "heads": 3, "ffn": 200}.items():
        fixed = child_shape(teacher, Target(params=params, **{name: value}))
        assert getattr(fixed, FIELDS[name]) == value
        assert fixed.parameters() <= params


def test_what_fits_without_a_cut_is_not_cut() -> None:
    teacher = model()
    assert child_shape(teacher, Target(layers=2, params=2_000_000)) == replace(teacher, depth=2)


@pytest.mark.parametrize(
    ("asked", "where", "says", "nearest"),
    [
        ({"layers": 9}, "layers", "it can be 1 to 8", "layers=8"),
        ({"layers": 0}, "layers", "it can be 1 to 8", "layers=1"),
        ({"hidden": 512}, "hidden", "it can be 1 to 256", "hidden=256"),
        ({"hidden": 100}, "hidden", "8 heads do not divide it", "hidden=96"),
        ({"heads": 3}, "heads", "it does not divide hidden=256", "heads=2"),
        ({"heads": 3, "hidden": 100}, "hidden", "3 heads do not divide it", "hidden=99 heads=3"),
        ({"ffn": 705}, "ffn", "it can be 1 to 704", "ffn=704"),
        ({"kv_heads": 3}, "kv_heads", "8 key-value heads make no such number", "kv_heads=2"),
        ({"heads": 4, "kv_heads": 8}, "kv_heads", "it can be 1 to 4", "heads=4 kv_heads=4"),
        ({"params": 10**9}, "params", "the teacher itself has", f"params={model().parameters()}"),
        ({"params": 100}, "params", "its vocabulary of 512 pieces takes", "params="),
        ({"params": 300_000, "hidden": 256}, "params", "usual proportions with hidden=256 has", "hidden=256 params="),
    ],
)
def test_what_cannot_be_is_refused_by_dimension(asked: dict[str, int], where: str, says: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        child_shape(model(), Target(**asked))
    assert caught.value.where == where
    assert says in caught.value.message
    assert nearest in str(caught.value.mend)


def test_query_heads_go_in_groups() -> None:
    with pytest.raises(ConfigError, match="heads is 5: query heads go in groups of 3") as caught:
        child_shape(model(width=288, heads=9, kv_heads=3), Target(heads=5, hidden=180))
    assert asked_in(str(caught.value.mend)) == Target(heads=6, hidden=180)


def test_heads_need_divide_the_width_only_where_transformers_asks_it() -> None:
    teacher = model(model_type="qwen3", qk_norm=True)
    found = child_shape(teacher, Target(hidden=100, heads=3))
    assert (found.width, found.heads) == (100, 3)
    with pytest.raises(ModelError):
        replace(model(), width=100, heads=3, kv_heads=3)


def plan(folder: Path, teacher: ModelConfig, **changes: Any) -> Path:
    """A plan as `lilliput plan --out` writes it."""
    asked = {"head_dim": teacher.head_dim, "tied": teacher.tied, **changes}
    tokenizer = {"vocab_size": asked.pop("vocab", teacher.vocab_size)}
    values = {"budget": {"params": 2_000_000}, "model": asked, "tokenizer": tokenizer}
    recipe = build_recipe(values, where="test")
    best = propose(recipe, None, shipped_prior(), None, 1)["plans"][0]
    (folder / "plan.yaml").write_text(plan_recipe(recipe, best), encoding="utf-8")
    return folder / "plan.yaml"


def test_a_plan_gives_the_shape(tmp_path: Path) -> None:
    teacher = model(depth=20, width=512, heads=16, ffn=2048)
    file = plan(tmp_path, teacher)
    target = target_of_plan(file, teacher)
    found = child_shape(teacher, target)
    assert found.parameters() <= 2_000_000
    assert {FIELDS[name]: getattr(target, name) for name in NAMES} == {
        field: getattr(found, field) for field in FIELDS.values()
    }
    assert target_of_plan(tmp_path, teacher) == target


def test_a_plan_for_another_kind_of_model_is_refused_with_the_plan_to_make(tmp_path: Path) -> None:
    teacher = model(depth=20, width=512, heads=16, ffn=2048)
    file = plan(tmp_path, teacher, head_dim=64, vocab=400, tied=False)
    with pytest.raises(ConfigError, match="64 channels a head, not 32; 400 pieces, not 512; untied tables") as caught:
        target_of_plan(file, teacher)
    assert caught.value.where == str(file)
    assert "lilliput plan --head-dim 32 --vocab 512 --tied, or compact the teacher to 400" in str(caught.value.mend)
    file.write_text("budget: {params: 2M}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"no plan: model\.depth, model\.width, model\.heads"):
        target_of_plan(file, teacher)
    with pytest.raises(ConfigError, match="there is no such plan"):
        target_of_plan(tmp_path / "absent.yaml", teacher)


@settings(max_examples=15, deadline=None)
@given(teachers(), st.floats(0.2, 0.9))
def test_pangu_and_relatives_carve_to_what_is_planned(teacher: ModelConfig, share: float) -> None:
    target = Target(params=round(share * teacher.parameters()))
    assume(teacher.parameters() < 1_000_000 and refusal(teacher, target) is None)
    shape = child_shape(teacher, target)
    assert carve_model(Decoder(teacher), kept_for(teacher, shape)).config == shape
