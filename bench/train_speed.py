"""Our training step, transformers' step and the rate of the matrix products, measured in one run.

    python bench/train_speed.py [--shape S] [--shape M] [--repeats 9] [--out results/train_speed.json]

Each arm lives in a process of its own with all cores and does one whole step (forward, backward, clipping,
AdamW) when asked; the arms take turns, so that a slower or faster spell of the machine meets all of them, and
each repeat gives one ratio. Arms:

    ours          the step of `lilliput make` with the layers compiled, as it runs where that repays
    ours_eager    the same without the compiler
    transformers  LlamaForCausalLM with SDPA (its fastest attention), fused AdamW, clip_grad_norm_
    matmul        torch.mm on every product of the step, forward and backward: the model's GEMM rate
    product       the same by lilliput.model.gemm

The share of the GEMM rate is 6 FLOPs for each matrix parameter and token (head included, look-up and attention
not) over the step's time, divided by matmul's rate.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from lilliput.device import machine, peak_rss, threads, versions
from lilliput.model import Decoder, ModelConfig, initialise
from lilliput.model.gemm import linear, multiply, weight_gradient

SHAPES = {
    "S": {"depth": 4, "width": 256, "heads": 4, "ffn": 688, "context": 256, "vocab_size": 4096, "batch": 16},
    "M": {"depth": 8, "width": 512, "heads": 8, "ffn": 1376, "context": 512, "vocab_size": 16384, "batch": 8},
}
ARMS = ("ours", "ours_eager", "transformers", "matmul", "product")
WARM_UP = 3


def shape(name: str) -> tuple[ModelConfig, int]:
    """(model, sequences in a batch)."""
    values = dict(SHAPES[name])
    batch = values.pop("batch")
    head_dim = values["width"] // values["heads"]
    return ModelConfig(**values, kv_heads=values["heads"], head_dim=head_dim, bos_id=0, eos_id=1), batch


def windows(config: ModelConfig, batch: int) -> np.ndarray:
    """Random ids, (batch, context + 1)."""
    return np.random.default_rng(0).integers(0, config.vocab_size, (batch, config.context + 1))


def ours(config: ModelConfig, batch: int, compiled: bool) -> Callable[[], None]:
    """One step of the training room's engine."""
    from lilliput.train.config import TrainConfig
    from lilliput.train.engine import Engine
    from lilliput.train.parallel import World

    settings = TrainConfig(
        steps=10_000,
        batch_sequences=batch,
        micro_sequences=batch,
        context=config.context,
        lr=1e-4,
        min_lr=1e-5,
        warmup_steps=0,
        compile=compiled,
        threads=threads(),
    )
    model = Decoder(config)
    initialise(model, 0)
    engine = Engine(model, settings, torch.device("cpu"), World())
    if compiled:
        engine.compile(fresh=False)
    data = windows(config, batch)

    def step() -> None:
        _, norm, _ = engine.gradients(data, 0, lambda: False)
        engine.update(settings.lr, norm)
        engine.clear()

    return step


def theirs(config: ModelConfig, batch: int) -> Callable[[], None]:
    """One step of transformers' Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig.from_dict({**config.to_hf(), "attn_implementation": "sdpa"})).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    ids_BT = torch.from_numpy(windows(config, batch)[:, :-1].copy())

    def step() -> None:
        model(input_ids=ids_BT, labels=ids_BT, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def products(config: ModelConfig, batch: int, by_torch: bool) -> Callable[[], None]:
    """Every matrix product of one step, forward and both backward ones, on random numbers."""
    width, rows = config.width, batch * config.context
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    layer = [(width, q), (width, kv), (width, kv), (q, width)]
    layer += [(width, config.ffn), (width, config.ffn), (config.ffn, width)]
    every = layer * config.depth + [(width, config.vocab_size)]
    arrays: dict[tuple[int, int], tuple[torch.Tensor, ...]] = {}
    for inside, outside in set(every):
        sizes = ((rows, inside), (outside, inside), (rows, outside))
        outputs = ((rows, outside), (rows, inside), (outside, inside))
        arrays[inside, outside] = (*map(torch.randn, sizes), *map(torch.empty, outputs))

    def step() -> None:
        for size in every:
            x, w, g, y, dx, dw = arrays[size]
            if by_torch:
                torch.mm(x, w.t(), out=y)
                torch.mm(g, w, out=dx)
                torch.mm(g.t(), x, out=dw)
            else:
                linear(x, w)
                multiply(g, w.t())
                weight_gradient(g, x)

    return step


def work(connection: Connection, arm: str, name: str) -> None:
    """An arm's process: build it, then one timed step for each request."""
    torch.set_num_threads(threads())
    config, batch = shape(name)
    if arm.startswith("ours") or arm == "product":
        from lilliput.model.heap import keep_freed_memory

        keep_freed_memory()
    step = {
        "ours": lambda: ours(config, batch, compiled=True),
        "ours_eager": lambda: ours(config, batch, compiled=False),
        "transformers": lambda: theirs(config, batch),
        "matmul": lambda: products(config, batch, by_torch=True),
        "product": lambda: products(config, batch, by_torch=False),
    }[arm]()
    with torch.no_grad() if arm in ("matmul", "product") else torch.enable_grad():
        for _ in range(WARM_UP):
            step()
        connection.send(0.0)
        while connection.recv():
            begin = time.perf_counter()
            step()
            connection.send((time.perf_counter() - begin, peak_rss()))


def measure(name: str, arms: list[str], repeats: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """(seconds of each arm's steps, its peak memory in bytes); the arms take turns."""
    context = multiprocessing.get_context("spawn")
    talks: dict[str, Connection] = {}
    workers = []
    for arm in arms:
        here, there = context.Pipe()
        worker = context.Process(target=work, args=(there, arm, name), daemon=True)
        worker.start()
        there.close()
        here.recv()
        talks[arm] = here
        workers.append(worker)
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    peaks: dict[str, int] = {}
    for _ in range(repeats):
        for arm, talk in talks.items():
            talk.send(True)
            taken, peaks[arm] = talk.recv()
            seconds[arm].append(taken)
    for talk in talks.values():
        talk.send(False)
    for worker in workers:
        worker.join()
    return seconds, peaks


def summary(name: str, seconds: dict[str, list[float]], peaks: dict[str, int]) -> dict[str, Any]:
    """Medians, paired ratios and shares of the GEMM rate."""
    config, batch = shape(name)
    tokens = batch * config.context
    flops = 6 * config.matrix_parameters() * tokens
    result: dict[str, Any] = {"shape": SHAPES[name], "parameters": config.parameters(), "arms": {}}
    for arm, taken in seconds.items():
        middle = statistics.median(taken)
        row: dict[str, Any] = {"seconds": taken, "median_s": middle, "gflops": flops / middle / 1e9}
        if arm not in ("matmul", "product"):
            row["tokens_per_s"] = tokens / middle
            row["peak_mb"] = peaks[arm] / 1e6
        for peer, key in (("transformers", "times_transformers"), ("matmul", "share_of_gemm_rate")):
            if peer in seconds and arm != peer:
                pairs = zip(seconds[peer], taken, strict=True)
                row[key] = statistics.median(other / own for other, own in pairs)
        result["arms"][arm] = row
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", action="append", choices=SHAPES, help="S, M (default: both)")
    parser.add_argument("--arm", action="append", choices=ARMS, help="default: all")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", help="write the results to this JSON file")
    asked = parser.parse_args()
    report: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": machine(),
        "versions": versions(),
        "repeats": asked.repeats,
        "shapes": {},
    }
    for name in asked.shape or SHAPES:
        seconds, peaks = measure(name, asked.arm or list(ARMS), asked.repeats)
        result = report["shapes"][name] = summary(name, seconds, peaks)
        print(f"{name}: {result['parameters']:,} parameters, {result['shape']}")
        for arm, row in result["arms"].items():
            print(
                f"  {arm:13} {row['median_s']:7.3f} s  {row['gflops']:5.0f} GFLOP/s"
                f"  {row.get('tokens_per_s', 0):7.0f} tok/s  {row.get('peak_mb', 0):6.0f} MB"
                f"  {row.get('times_transformers', 1):5.2f} x transformers"
                f"  {row.get('share_of_gemm_rate', 1):6.1%} of torch.mm's rate",
                flush=True,
            )
    if asked.out:
        with open(asked.out, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
