"""Layers are judged by text and tasks that stay bounded, whatever the teacher's size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lilliput.inherit.judging import evaluations, judging_flops, open_tasks, task_measures, text_bytes
from lilliput.inherit.layers import score_layers
from lilliput.model import Decoder, ModelConfig, initialise
from lilliput.tokenizer.train import train_tokenizer

TEXT = ["the cat sat on the mat and the dog sat on the log"] * 20
SHAPE = ModelConfig(
    vocab_size=320, depth=4, width=16, heads=2, kv_heads=2, head_dim=8, ffn=32, context=32, bos_id=0, eos_id=0
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(TEXT, 300)


def test_a_large_teacher_is_judged_by_less(tmp_path: Path) -> None:
    rows = [{"query": "the cat", "choices": ["sat", "log"], "gold": 0}] * 700
    (tmp_path / "sat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    large = replace(SHAPE, depth=24, width=1024, heads=128, kv_heads=128, ffn=4096)
    assert text_bytes(SHAPE) == 65_536
    assert text_bytes(large) == 4096
    assert [len(open_tasks(["sat", "sat"], tmp_path, shape)[0].items) for shape in (SHAPE, large)] == [500, 100]
    assert len(open_tasks(["sat", "sat"], tmp_path, SHAPE)) == 1


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_cost_and_figures_are_of_what_is_done(depth: int, tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"query": "the cat", "choices": ["sat", "log"], "gold": 0}] * 3
    (tmp_path / "sat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model = Decoder(replace(SHAPE, depth=depth))
    initialise(model, 0)
    done = 0

    def counted(_: Decoder) -> float:
        nonlocal done
        done += 1
        return 0.0

    tasks = open_tasks(["sat"], tmp_path, model.config)
    measures = {**task_measures(tasks, tokenizer), "counted": counted}
    found = score_layers(model, tokenizer, TEXT[:2], also=measures)
    assert done == evaluations(model.config)
    assert found.base["sat"] in (0.0, 1.0)
    assert judging_flops(model.config, 10, tasks) > judging_flops(model.config, 10, []) > 0
    if 1 in found.skips["sat"]:
        costs = [found.base["sat"] - value for value in found.skips["sat"][1]]
        assert list(found.importance("sat")) == costs
