"""Memory of a training step: predicted by lilliput.train.memory, and measured.

    python bench/train_memory.py [--only NAME] [--repeats 1] [--seed N --random K] [--jobs 1]
                                  [--out results/train_memory.json]

Each measurement is a fresh process with one thread: it imports the package, notes its peak memory, then builds the
model and runs three whole steps of `lilliput.train.engine` (random ids; gradients, clipping, AdamW). Measured is the
growth of the peak. On Linux that is VmHWM: `ru_maxrss` is the same number, except that a process begins with the peak
of the one that started it. Every case grows by at least 200 MB. `--random K` adds K shapes drawn from `--seed`.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lilliput.device import machine, peak_rss, versions
from lilliput.model.config import ModelConfig
from lilliput.train.memory import step_bytes

STEPS = 3
LEAST = 200e6
KEYS = ("vocab_size", "depth", "width", "heads", "kv_heads", "ffn", "context", "micro")
# (vocabulary, depth, width, heads, key-value heads, ffn, context, windows in a micro batch) and what differs.
CASES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "even": ((4096, 6, 256, 4, 4, 704, 512, 6), {}),
    "deep": ((2048, 20, 128, 4, 4, 352, 256, 8), {}),
    "very-deep": ((1024, 40, 96, 3, 3, 256, 256, 4), {}),
    "wide": ((4096, 2, 896, 14, 14, 2432, 128, 3), {}),
    "grouped": ((8192, 10, 448, 7, 1, 1216, 256, 2), {}),
    "long": ((2048, 3, 160, 5, 5, 448, 2048, 3), {}),
    "many-windows": ((1024, 4, 96, 3, 3, 264, 128, 64), {}),
    "large-vocabulary": ((40960, 3, 256, 4, 4, 704, 256, 6), {}),
    "untied": ((12288, 4, 384, 6, 6, 1024, 256, 3), {"tied": False}),
    "narrow-ffn": ((4096, 12, 320, 5, 5, 320, 256, 3), {}),
    "broad-ffn": ((4096, 4, 320, 5, 5, 1920, 256, 6), {}),
    "biased": ((4096, 8, 256, 8, 4, 768, 512, 3), {"attention_bias": True, "mlp_bias": True}),
    "small-batch": ((4096, 10, 576, 9, 9, 1536, 128, 1), {}),
    "pangu": ((4096, 6, 256, 4, 4, 704, 512, 4), {"family": "pangu"}),
    "shared-ffn": ((4096, 8, 256, 4, 4, 704, 512, 4), {"share": {"ffn": "all"}}),
    "shared-ffn-loras": ((4096, 6, 512, 8, 8, 1408, 256, 3), {"share": {"ffn": "interior", "lora": 64}}),
    "looped": ((4096, 8, 512, 8, 8, 1408, 256, 3), {"share": {"loops": 4}}),
    "looped-loras": ((2048, 12, 320, 5, 5, 880, 256, 4), {"share": {"loops": 3, "lora": 40}}),
    "three-passes": ((2048, 12, 128, 4, 4, 352, 256, 8), {"passes": 3}),
    "two-passes": ((4096, 6, 256, 4, 4, 704, 512, 4), {"passes": 2}),
    "bf16": ((4096, 6, 256, 4, 4, 704, 512, 8), {"precision": "bf16"}),
    "bf16-large-vocabulary": ((32768, 4, 256, 4, 4, 704, 256, 8), {"precision": "bf16"}),
    "compiled": ((4096, 6, 256, 4, 4, 704, 512, 6), {"compile": True}),
    "compiled-wide": ((8192, 3, 640, 10, 5, 1728, 256, 4), {"compile": True}),
    "compiled-bf16": ((4096, 6, 256, 4, 4, 704, 512, 8), {"compile": True, "precision": "bf16"}),
}


def case(numbers: tuple[int, ...], rest: dict[str, Any]) -> dict[str, Any]:
    """One case as plain values: the shape's, `micro` and the settings."""
    values = {**dict(zip(KEYS, numbers, strict=True)), **rest}
    return {"head_dim": values["width"] // values["heads"], "bos_id": 0, "eos_id": 1, **values}


def split(values: dict[str, Any]) -> tuple[ModelConfig, int, dict[str, Any]]:
    """(shape, windows in a micro batch, settings of `step_bytes`)."""
    rest = dict(values)
    micro = rest.pop("micro")
    settings = {name: rest.pop(name) for name in ("precision", "compile", "passes") if name in rest}
    return ModelConfig(**rest), micro, settings


def predicted(values: dict[str, Any]) -> int:
    """Bytes, by the formula."""
    shape, micro, settings = split(values)
    return step_bytes(shape, micro, **settings)


def peak() -> int:
    """Peak memory of this process in bytes."""
    status = Path("/proc/self/status")
    if not status.exists():
        return peak_rss()
    lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024


def grow(values: dict[str, Any]) -> int:
    """Run the steps in this process and return the growth of its peak memory in bytes."""
    import numpy as np
    import torch

    from lilliput.model import Decoder, initialise
    from lilliput.train.config import TrainConfig
    from lilliput.train.engine import Engine
    from lilliput.train.parallel import World

    shape, micro, settings = split(values)
    batch = micro * settings.pop("passes", 1)
    config = TrainConfig(
        steps=STEPS, batch_sequences=batch, micro_sequences=micro, context=shape.context, lr=1e-3, min_lr=1e-4,
        warmup_steps=1, threads=1, **settings,
    )  # fmt: skip
    before = peak()
    model = Decoder(shape)
    initialise(model, 0)
    engine = Engine(model, config, torch.device("cpu"), World())
    if config.compile:
        engine.compile(fresh=True)
    draw = np.random.default_rng(0)
    for step in range(STEPS):
        windows = draw.integers(0, shape.vocab_size, (batch, shape.context + 1))
        _, norm, _ = engine.gradients(windows, step, lambda: False)
        engine.update(config.lr, norm)
        engine.clear()
    return peak() - before


def measured(values: dict[str, Any]) -> int:
    """The growth in bytes of a fresh process."""
    command = [sys.executable, __file__, "--child", json.dumps(values)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return int(done.stdout)


def drawn(seed: int, number: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Random shapes whose step is predicted to take 250 MB to 1 GB."""
    draw = random.Random(seed)
    found = 0
    while found < number:
        head_dim, heads = draw.choice([16, 32, 64, 128]), draw.choice([1, 2, 3, 4, 6, 8, 12])
        width, context = heads * head_dim, draw.choice([64, 128, 256, 512, 1024, 2048])
        numbers = (
            round(2 ** draw.uniform(8, 15.8)), round(2 ** draw.uniform(0, 4.8)), width, heads,
            draw.choice([size for size in range(1, heads + 1) if heads % size == 0]),
            round(width * draw.uniform(1, 4)), context, max(1, round(2 ** draw.uniform(7.5, 14) / context)),
        )  # fmt: skip
        values = case(numbers, {"tied": draw.random() < 0.75})
        if 64 <= width <= 1024 and 250e6 < predicted(values) < 1e9:
            found += 1
            yield f"drawn-{seed}-{found}", values


def row(name: str, values: dict[str, Any], repeats: int) -> dict[str, Any]:
    """One line of the results; megabytes are 10⁶ bytes."""
    grown = [measured(values) for _ in range(repeats)]
    foreseen, middle = predicted(values), statistics.median(grown)
    found = f"{foreseen / 1e6:7.0f} MB predicted {middle / 1e6:7.0f} MB measured {foreseen / middle:6.3f}"
    print(f"{name:22} {found}", flush=True)
    shape, micro, settings = split(values)
    return {
        "name": name,
        "shape": asdict(shape),
        "parameters": shape.parameters(),
        "micro_sequences": micro,
        **settings,
        "predicted_mb": foreseen / 1e6,
        "measured_mb": [bytes_ / 1e6 for bytes_ in grown],
        "ratio": foreseen / middle,
        "enough": middle >= LEAST,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(CASES), help="default: all cases")
    parser.add_argument("--random", type=int, default=0, help="drawn shapes to add")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="measurements at once: memory does not mind")
    parser.add_argument("--out", help="write the results to this JSON file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(grow(json.loads(asked.child)))
        return
    cases = [(name, case(*CASES[name])) for name in asked.only or CASES]
    cases += list(drawn(asked.seed, asked.random))
    with ThreadPoolExecutor(asked.jobs) as workers:
        rows = list(workers.map(lambda one: row(*one, asked.repeats), cases))
    off = [abs(one["ratio"] - 1) for one in rows]
    print(f"off by {statistics.median(off):.1%} at the median, {max(off):.1%} at most, over {len(off)} shapes")
    if asked.out:
        report = {
            "command": shlex.join(["python", *sys.argv]),
            "machine": machine(),
            "versions": versions(),
            "protocol": {"steps": STEPS, "threads": 1, "repeats": asked.repeats},
            "off": {"median": statistics.median(off), "most": max(off)},
            "rows": rows,
        }
        Path(asked.out).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
