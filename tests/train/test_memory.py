"""Predicted memory of a training step: against real steps in fresh processes, and what it must obey."""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from train_support import SHAPE

from lilliput.model import Decoder, ModelConfig, gemm, initialise
from lilliput.train.memory import _layer, activation_bytes, step_bytes

BENCH = Path(__file__).resolve().parents[2] / "bench" / "train_memory.py"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux")


def bench():
    """The benchmark's module, whose cases and measurement these are."""
    spec = importlib.util.spec_from_file_location("train_memory", BENCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MEMORY = bench()


@LINUX
def test_a_real_step_grows_by_what_is_predicted() -> None:
    values = MEMORY.case(*MEMORY.CASES["grouped"])
    grown = MEMORY.measured(values)
    assert grown > MEMORY.LEAST
    assert MEMORY.predicted(values) == pytest.approx(grown, rel=0.15)


@LINUX
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", list(MEMORY.CASES))
def test_every_case_grows_by_what_is_predicted(name: str) -> None:
    values = MEMORY.case(*MEMORY.CASES[name])
    grown = MEMORY.measured(values)
    assert grown > MEMORY.LEAST
    assert MEMORY.predicted(values) == pytest.approx(grown, rel=0.15)


@st.composite
def shapes(draw: st.DrawFn) -> ModelConfig:
    """Small shapes of both families."""
    heads = draw(st.sampled_from([1, 2, 4]))
    pangu = draw(st.booleans())
    return ModelConfig(
        vocab_size=draw(st.integers(8, 300)),
        depth=draw(st.integers(1, 4)),
        width=heads * draw(st.sampled_from([8, 16, 24])),
        heads=heads,
        kv_heads=draw(st.sampled_from([k for k in (1, 2, 4) if heads % k == 0])),
        head_dim=draw(st.sampled_from([8, 16, 32])),
        ffn=draw(st.integers(8, 100)),
        bos_id=0,
        eos_id=1,
        tied=draw(st.booleans()),
        context=draw(st.sampled_from([16, 64])),
        family="pangu" if pangu else "llama",
        shortcut=draw(st.sampled_from([0, 8])) if pangu else 0,
        series=2 if pangu else 1,
    )


def kept(shape: ModelConfig, windows: int) -> int:
    """Bytes that autograd keeps of the layers of a real pass, parameters apart, each block of memory once."""
    model = Decoder(shape)
    initialise(model, 0)
    body = model.model
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    blocks: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            blocks[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = body.embed_tokens(torch.zeros(windows, shape.context, dtype=torch.int64))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        for layer in body.layers:
            x = layer(x, body.cos, body.sin)
    return sum(blocks.values())


@given(shape=shapes(), windows=st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_what_a_layer_keeps_is_what_autograd_keeps(shape: ModelConfig, windows: int) -> None:
    layer = _layer(shape, windows * shape.context, "fp32", False)
    assert shape.depth * (layer.activations + layer.copies) == kept(shape, windows)


@given(shape=shapes(), windows=st.integers(1, 8), more=st.integers(1, 8))
@settings(max_examples=50, deadline=None)
def test_more_work_takes_more_memory(shape: ModelConfig, windows: int, more: int) -> None:
    least = step_bytes(shape, windows)
    assert least > 16 * shape.parameters()
    assert step_bytes(shape, windows + more) > least
    assert step_bytes(replace(shape, depth=shape.depth + more), windows) > least
    assert step_bytes(shape, windows, passes=2) >= least
    assert step_bytes(shape, windows, compile=True) > 0
    assert activation_bytes(shape, "bf16") < activation_bytes(shape)


def test_libraries_are_the_least_a_step_takes() -> None:
    """A tiny model's step takes what torch brings in, and hardly more."""
    assert 40e6 < step_bytes(SHAPE, 1) < 80e6


def test_products_keep_the_same_by_either_library(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = replace(SHAPE, context=64)
    here = kept(shape, 2)
    monkeypatch.setattr(gemm, "ONEDNN", not gemm.ONEDNN and torch.backends.mkldnn.is_available())
    assert kept(shape, 2) == here


@LINUX
@pytest.mark.slow
def test_the_benchmark_runs_alone(tmp_path: Path) -> None:
    out = tmp_path / "memory.json"
    command = [sys.executable, str(BENCH), "--only", "grouped", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"ratio"' in out.read_text(encoding="utf-8")
