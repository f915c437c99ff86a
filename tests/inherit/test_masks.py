"""Masks learned by the one loop: what is useless goes, the target is met, a run resumes exactly."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mask_support import CPU, Stream, settings, smaller
from neuron_support import decoder, kill

from lilliput.errors import CheckpointError, ConfigError, ModelError
from lilliput.inherit import concrete
from lilliput.inherit.masked import MaskedDecoder
from lilliput.inherit.masks import MaskSettings, learn, mask_bytes, unmet
from lilliput.model import Decoder
from lilliput.model.carve import Kept
from lilliput.train.checkpoint import found, load
from lilliput.train.memory import step_bytes
from lilliput.train.metrics import read_metrics

SIZES = {"depth": 2, "width": 8, "kv_heads": 1, "ffn": 6}


def same(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    other = right.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in left.state_dict().items())


def drop_last(folder: Path) -> None:
    """As if killed before the last checkpoint."""
    shutil.rmtree(found(folder / "checkpoints")[-1])


def planted() -> tuple[Decoder, Kept]:
    """A model in which some of everything is dead, and the rest. Its weights are random and loud."""
    teacher = decoder(depth=3, width=12, kv_heads=3, heads=3, ffn=8, context=12)
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            if parameter.dim() == 2:
                parameter.mul_(3.0 if "mlp" in name else 2.0)
    for channel in (2, 5, 8, 11):
        kill(teacher, "hidden", channel)
    for layer, head, neurons in ((0, 1, (0, 3, 6)), (2, 0, (2, 3, 7))):
        kill(teacher, "kv_head", layer, head)
        for neuron in neurons:
            kill(teacher, "ffn", layer, neuron)
    kill(teacher, "layers", 1)
    kept = Kept(
        layers=(0, 2),
        hidden=(0, 1, 3, 4, 6, 7, 9, 10),
        ffn=((1, 2, 4, 5, 7), (0, 1, 4, 5, 6)),
        kv_head=((0, 2), (1, 2)),
    )
    return teacher, kept


class Spoken:
    """Windows of what a model says, so that all that is alive in it matters."""

    def __init__(self, model: Decoder, rows: int, length: int) -> None:
        chance = torch.Generator().manual_seed(1)
        ids_BT = torch.randint(0, 23, (rows, 1), generator=chance)
        with torch.no_grad():
            for _ in range(length):
                likely = model(ids_BT)[:, -1].softmax(-1)
                ids_BT = torch.cat([ids_BT, torch.multinomial(likely, 1, generator=chance)], 1)
        self.rows = ids_BT.numpy()

    def windows(self, context: int) -> int:
        return len(self.rows)

    def batch(self, indices: np.ndarray, context: int) -> np.ndarray:
        return self.rows[indices]


def test_what_is_dead_is_dropped_and_nothing_else(tmp_path: Path) -> None:
    teacher, wanted = planted()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    target = smaller(teacher.config, depth=2, width=8, kv_heads=2, ffn=5)
    config = settings(steps=60, batch_sequences=24, micro_sequences=24, context=12, save_every=999)
    own = MaskSettings(mask_rate=0.3, lambda_rate=0.1)
    learned = learn(teacher, target, Spoken(teacher, 400, 12), config, tmp_path, device=CPU, settings=own)
    assert learned.kept == wanted
    assert learned.child.config == target
    assert learned.result.steps == 60
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    last = learned.log[-1]
    assert len(learned.log) == 60
    assert set(last) == {"step", "loss", "penalty", "temperature", "size", "target", "lambda1", "lambda2"}
    assert set(last["size"]) == set(last["lambda1"]) == {"hidden", "ffn", "kv_head", "layers"}
    assert last["target"] == {"hidden": 8, "ffn": 5, "kv_head": 2, "layers": 2}
    assert learned.log[0]["target"] == {"hidden": 12, "ffn": 8, "kv_head": 3, "layers": 3}
    assert last["size"]["hidden"] == pytest.approx(8, abs=0.7)


def test_layers_that_were_chosen_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = decoder(depth=4)
    target = smaller(teacher.config, **SIZES)
    learned = learn(teacher, target, Stream(), settings(steps=2), tmp_path, device=CPU, layers=(1, 3))
    told = capsys.readouterr().err
    assert "masks of hidden, ffn, kv_head: about" in told
    assert "likely to stay (hidden 99%, ffn" in told
    assert learned.kept.layers == (1, 3)
    assert learned.child.config == target
    assert set(learned.log[0]["size"]) == {"hidden", "ffn", "kv_head"}
    # Nothing of another layer comes in: the child's norm scales are those of its layers, two steps on.
    for new, old in enumerate((1, 3)):
        ours, theirs = (
            model.model.layers[layer].input_layernorm.weight.detach()
            for model, layer in ((learned.child, new), (teacher, old))
        )
        torch.testing.assert_close(ours, theirs[list(learned.kept.hidden)], atol=1e-3, rtol=0)


def test_a_killed_run_ends_in_the_same_child(tmp_path: Path) -> None:
    teacher = decoder(depth=3)
    target = smaller(teacher.config, **SIZES)
    whole = learn(teacher, target, Stream(), settings(), tmp_path / "a", device=CPU)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    drop_last(tmp_path / "b")
    assert load(found(tmp_path / "b" / "checkpoints")[-1]).state["step"] == 10
    resumed = learn(teacher, target, Stream(), settings(), tmp_path / "b", device=CPU)
    assert same(whole.child, resumed.child)
    assert whole.kept == resumed.kept
    assert whole.log == resumed.log
    last = [load(found(tmp_path / run / "checkpoints")[-1]) for run in "ab"]
    for part in ("model", "optimizer"):
        left, right = (getattr(saved, part) for saved in last)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
    masks = {name: tensor for name, tensor in last[0].model.items() if name.startswith("masks.")}
    assert set(masks) == {f"masks.{space}" for space in ("hidden", "ffn", "kv_head", "layers")}
    for tensor in masks.values():
        assert concrete.LOW - 1e-6 < float(tensor.min()) <= float(tensor.max()) < concrete.HIGH + 1e-6


def test_a_run_of_other_settings_or_another_target_is_refused(tmp_path: Path) -> None:
    teacher = decoder(depth=3)
    target, config = smaller(teacher.config, **SIZES), settings(steps=2)
    learn(teacher, target, Stream(), config, tmp_path, device=CPU)
    with pytest.raises(CheckpointError, match="mask_rate"):
        learn(teacher, target, Stream(), config, tmp_path, device=CPU, settings=MaskSettings(mask_rate=0.5))
    with pytest.raises(CheckpointError, match="lr"):
        learn(teacher, target, Stream(), config, tmp_path, device=CPU, settings=MaskSettings(weight_rate=1e-3))
    with pytest.raises(CheckpointError, match="target"):
        learn(teacher, smaller(target, ffn=5), Stream(), config, tmp_path, device=CPU)


def test_evaluations_see_the_child(tmp_path: Path) -> None:
    teacher = decoder(depth=3)
    target = smaller(teacher.config, **SIZES)
    seen = []

    def evaluator(model: Decoder) -> dict[str, float]:
        seen.append(model.config)
        return {"bits": 2.0}

    learn(teacher, target, Stream(), settings(steps=4, eval_every=2), tmp_path, device=CPU, evaluator=evaluator)
    assert seen == [target, target]
    assert sum("evaluation" in row for row in read_metrics(tmp_path / "metrics.jsonl")) == 2


def test_rates_rise_and_fall_as_the_settings_say(tmp_path: Path) -> None:
    config = MaskSettings().run(settings(steps=3200))
    assert (config.lr, config.warmup_steps, config.schedule, config.weight_decay) == (1e-4, 320, "cosine", 0.0)
    assert config.min_lr == pytest.approx(1e-5)
    teacher = decoder()
    masked = MaskedDecoder(teacher, smaller(teacher.config, ffn=5))
    long, short = (MaskSettings().objective(masked, steps) for steps in (3200, 3199))
    assert (long.lambda_rate, short.lambda_rate, long.warmup_steps) == (1.0, 0.1, 640)
    assert [MaskSettings().objective(masked, steps).lambda_rate for steps in (300, 100, 10)] == [0.1, 0.3, 1.0]
    assert MaskSettings(lambda_rate=0.7).objective(masked, 10).lambda_rate == 0.7
    long.begin(masked, 320)
    assert long.ramp == 0.5
    weights, still, masks, lambdas = long.groups(masked, config)
    assert len(weights["params"]) + len(still["params"]) == len(list(teacher.parameters()))
    assert (masks["params"], masks["rate"]) == (list(masked.masks.values()), 1.0)
    assert lambdas["maximize"]
    assert lambdas["params"] == [masked.lambda1, masked.lambda2]
    with pytest.raises(TypeError):
        long.groups(teacher, config)


def test_masks_that_have_settled_are_told_from_those_that_have_not() -> None:
    teacher = decoder()
    masked = MaskedDecoder(teacher, smaller(teacher.config, ffn=5))
    assert unmet(masked) == {"ffn": pytest.approx(1, abs=0.01)}
    with torch.no_grad():
        masked.masks["ffn"].copy_(torch.tensor([concrete.HIGH] * 5 + [concrete.LOW] * 5))
    assert unmet(masked) == {}
    with torch.no_grad():
        masked.masks["ffn"][0].fill_(concrete.HIGH)  # one of the two layers keeps all
    assert unmet(masked) == {"ffn": pytest.approx(0.5, abs=0.05)}


def test_bf16_learns_masks_too(tmp_path: Path) -> None:
    teacher = decoder()
    target = smaller(teacher.config, width=8, ffn=5)
    learned = learn(teacher, target, Stream(), settings(steps=2, precision="bf16"), tmp_path, device=CPU)
    assert learned.child.config == target
    assert {parameter.dtype for parameter in learned.child.parameters()} == {torch.float32}


def test_multipliers_ascend_and_masks_are_clamped(tmp_path: Path) -> None:
    """While too much stays λ1 falls, which raises the sparsity; λ2 only rises."""
    teacher = decoder()
    target = smaller(teacher.config, ffn=3)
    config = settings(steps=6)
    log = learn(
        teacher, target, Stream(), config, tmp_path, device=CPU, settings=MaskSettings(sparsity_warmup=0)
    ).log
    one, two = ([row[name]["ffn"] for row in log] for name in ("lambda1", "lambda2"))
    assert one == sorted(one, reverse=True)
    assert two == sorted(two)
    assert one[0] < 0 < two[0]
    assert log[0]["size"]["ffn"] > log[-1]["size"]["ffn"]
    assert log[0]["target"]["ffn"] == 3


@pytest.mark.parametrize("name", ["mask_rate", "lambda_rate", "weight_rate", "sparsity_warmup", "rate_warmup", "end"])
def test_impossible_settings_are_refused(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        MaskSettings(**{name: -0.5})
    assert caught.value.where == f"masks.{name}"


def test_impossible_targets_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    teacher = decoder(depth=3)
    run = tmp_path / "run"
    for target, layers in ((smaller(teacher.config, depth=4), None), (smaller(teacher.config, depth=2), (0, 1, 2))):
        with pytest.raises(ModelError):
            learn(teacher, target, Stream(), settings(), run, device=CPU, layers=layers)
    assert not run.exists()


def test_the_need_for_memory_follows_what_is_cut() -> None:
    config = decoder(width=96, ffn=200, context=64).config
    whole, ffn, hidden = (
        mask_bytes(config, smaller(config, **sizes), 4) for sizes in ({}, {"ffn": 100}, {"ffn": 100, "width": 48})
    )
    assert step_bytes(config, 4) == whole < ffn < hidden
