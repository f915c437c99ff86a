"""Planning for layers that share weights: counts, costs, the search, the plan as a recipe, refusals."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lilliput.cli.plan import plan
from lilliput.errors import ConfigError, UserError
from lilliput.lab.grid import cell_hash
from lilliput.lab.ladder.ask import read_ask
from lilliput.model import Decoder, ModelConfig, initialise
from lilliput.model.generate import Generator
from lilliput.model.sharing import unrolled
from lilliput.plan.child import target_of_plan
from lilliput.plan.cost import decode_flops, kv_cache_bytes, weight_bytes
from lilliput.plan.proposal import shape_of
from lilliput.plan.reasons import reasons
from lilliput.plan.rules import describe
from lilliput.plan.search import derive_shape, search
from lilliput.recipe import Recipe, build_recipe, load_recipe
from lilliput.settle import check_request, settle
from lilliput.train.derive import derive, flops
from lilliput.train.memory import step_bytes

SHAPE = ModelConfig(
    vocab_size=256, depth=6, width=64, heads=4, kv_heads=2, head_dim=16, ffn=160, bos_id=0, eos_id=1, context=32,
    share={"ffn": "interior", "loops": 2, "looped": "interior", "lora": 8},
)  # fmt: skip
SHARES = [{"ffn": "all"}, {"ffn": "interior", "lora": "auto"}, {"loops": 3}, {"loops": 2, "looped": "interior"}]


def recipe(share: dict[str, object], params: object = "400k", **model: object) -> Recipe:
    return build_recipe({"budget": {"params": params}, "model": {**model, "share": share}}, where="test")


@settings(max_examples=15, deadline=None)
@given(st.integers(100_000, 3_000_000), st.sampled_from(SHARES))
def test_every_shape_found_keeps_the_budget_and_is_the_built_model(params: int, share: dict[str, object]) -> None:
    found = search(recipe(share, params))
    assert found
    for one in found[:5]:
        assert one.shape.parameters() <= params
        assert one.shape.share is not None
    best = found[0].shape
    with torch.device("meta"):
        assert sum(p.numel() for p in Decoder(best).parameters()) == best.parameters()
    assert best.parameters() > 0.7 * params


def test_costs_are_those_of_what_is_stored_and_of_what_is_computed() -> None:
    state = Decoder(SHAPE).state_dict()
    assert weight_bytes(SHAPE, 16) == sum(t.numel() * (2 if t.dim() == 2 else 4) for t in state.values())
    plain = unrolled(SHAPE)
    assert kv_cache_bytes(SHAPE) == kv_cache_bytes(plain)
    assert decode_flops(SHAPE, 9) == decode_flops(plain, 9) > decode_flops(replace(plain, depth=4), 9)
    assert flops(SHAPE, 10.0) == flops(plain, 10.0)
    assert step_bytes(SHAPE, 4) < step_bytes(plain, 4)


def test_flops_are_those_of_the_writer() -> None:
    model = Decoder(SHAPE)
    initialise(model, 0)
    writer = Generator(model, 1)
    writer.linear = torch.nn.functional.linear
    writer.feed(torch.zeros(1, 9, dtype=torch.int64))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        writer.feed(torch.zeros(1, 1, dtype=torch.int64))
    assert counter.get_total_flops() == decode_flops(SHAPE, 9)


def test_the_rank_that_is_left_to_the_width_is_settled() -> None:
    asked = recipe({"ffn": "all", "lora": "auto"}, width=96, depth=4, heads=3)
    shape = derive_shape(asked)
    assert shape.share is not None
    assert shape.share.lora == 12
    config, notes = derive(asked.train, shape, 10**7, 3 * 10**7, 0, torch.device("cpu"))
    assert any("lr of shared weights = lr/√n" in note for note in notes)
    settled = load_recipe_text(settle(asked, shape, config))
    assert settled.model.share.lora == 12
    assert derive_shape(settled) == shape
    assert "FFN shared (all), LoRA 12: computes as" in describe(shape)
    assert any("compute as many FLOPs as" in reason for reason in reasons(shape))
    # Grouped keys have few rows, and looped layers put a LoRA on them.
    grouped = derive_shape(recipe({"loops": 2, "lora": "auto"}, width=128, depth=4, heads=16, kv_heads=1))
    assert grouped.share is not None
    assert grouped.share.lora == 8


def load_recipe_text(text: str) -> Recipe:
    import yaml

    return build_recipe(yaml.safe_load(text), where="settled")


def test_a_recipe_without_shares_is_what_it_was() -> None:
    plain = Recipe().to_dict()
    assert "share" not in plain["model"]
    asked = recipe({"ffn": "all"}).to_dict()
    assert asked["model"]["share"]["ffn"] == "all"
    assert cell_hash(asked, "bits_per_byte") != cell_hash(recipe({}).to_dict(), "bits_per_byte")


def test_a_plan_that_shares_is_a_recipe_and_no_target_of_a_carve(tmp_path: Path) -> None:
    said = plan(params="300k", share=["ffn=interior", "lora=auto"], no_speed=True, count=3, out=tmp_path, as_json=True)
    chosen = said.data["plans"][0]
    assert chosen["parameters"] <= 300_000
    assert chosen["family"] == "shared"
    assert "shared weights: FFN shared (interior)" in said.text
    assert derive_shape(load_recipe(str(tmp_path / "plan.yaml"))) == shape_of(chosen)
    with pytest.raises(ConfigError, match="share no weights"):
        target_of_plan(tmp_path, unrolled(shape_of(chosen)))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"share": ["ffn=2-9"], "depth": 4}, "layers 2-9 do not exist"),
        ({"share": ["loops=3"], "depth": 4}, "4 looped layers cannot be divided into 3 runs"),
        ({"share": ["ffn=all", "lora=80"], "width": 64, "depth": 4}, "rank 80 is larger"),
        ({"share": ["ffn=all", "lora=999"]}, "rank 999 is larger than the matrices of any shape that fits"),
        ({"share": ["ffn=all"], "family": "pangu"}, "layers of a pangu do not share"),
        ({"share": ["ffn"]}, "not a setting"),
        ({"share": ["fn=all"]}, "unknown key model.share.fn"),
        ({"share": ["ffn=none"]}, "model.share.ffn"),
        ({"share": ["loops=1"]}, "model.share.loops"),
        ({"share": ["lora=8"]}, "nothing is shared"),
    ],
)
def test_what_cannot_be_shared_is_refused_in_one_line(asked: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        plan(params="1M", no_speed=True, **asked)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_encoders_and_children_share_nothing() -> None:
    from lilliput.plan.encoder import check_encoder_keys

    encoder = build_recipe({"objective": "masked", "model": {"share": {"ffn": "all"}}}, where="test")
    with pytest.raises(ConfigError, match=r"model\.share"):
        check_encoder_keys(encoder)
    for asked in ({"inherit": {"teacher": "big"}}, {"from": "small"}):
        with pytest.raises(ConfigError, match=r"model\.share cannot be set"):
            check_request(build_recipe({**asked, "model": {"share": {"ffn": "all"}}}, where="test"))
    with pytest.raises(ConfigError, match="arms of a ladder inherit"):
        read_ask("tiny", ["model.share.loops=2"])
