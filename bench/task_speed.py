"""Scoring tasks: ours and lm-eval's own model class, measured in one run.

    python bench/task_speed.py --data DIR [MODEL] [--items 1000] [--batch 8] [--batch 64] [--repeats 3] [--out FILE]

Both get the same model, the same (context, continuation) pairs of BLiMP and HellaSwag (DIR as for `lilliput evaluate`)
and score them from text to log-probabilities, tokenizing included, in fp32 with the same threads. lm-eval's HFLM is
first tried at each batch size on a part of the items; then ours and HFLM at the quickest of them take turns, and each
turn gives one ratio. The answers are compared too. Without MODEL: random weights, 8 layers of width 192, a vocabulary
of 4096 learned from the items, context 256. Needs the extra `eval`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lilliput.device import machine, pick_device, threads, versions
from lilliput.evaluate.likelihood import Request, likelihoods
from lilliput.evaluate.task import Task, open_task
from lilliput.export.hf import load_model_dir, save_model_dir
from lilliput.model import Decoder, ModelConfig, initialise
from lilliput.tokenizer.train import train_tokenizer

TASKS = ("blimp", "hellaswag")
BATCHES = (1, 8, 16, 32, 64, 128, 256)


def requests_of(task: Task, items: int) -> list[list[Request]]:
    """The texts of each of so many items, evenly from all parts of the task, neighbours staying neighbours."""
    block = 50
    blocks = [task.items[begin : begin + block] for begin in range(0, len(task.items), block)]
    every = max(1, len(blocks) * block // max(items, 1))
    held = [item for part in blocks[::every] for item in part][:items]
    if task.kind == "pairs":
        return [[("", item.good), ("", item.bad)] for item in held]
    return [[(item.query, f" {choice}") for choice in item.choices] for item in held]


def random_model(folder: Path, texts: list[str]) -> Path:
    """A model directory with random weights and a tokenizer of these texts."""
    tokenizer = train_tokenizer(texts, 4096)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, depth=8, width=192, heads=6, kv_heads=6, head_dim=32, ffn=512, context=256,
        bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id,
    )  # fmt: skip
    model = Decoder(config)
    initialise(model, 0)
    return save_model_dir(folder / "model", model, tokenizer, {})


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    found = work()
    return time.perf_counter() - begin, found


class Theirs:
    """lm-eval's HFLM on the model directory."""

    def __init__(self, place: Path, device: str) -> None:
        from lm_eval.models.huggingface import HFLM

        self.model = HFLM(
            pretrained=str(place), tokenizer=str(place), device=device, dtype="float32", add_bos_token=True
        )

    def score(self, requests: list[Request], batch: int) -> np.ndarray:
        """Σ log p of each request."""
        from lm_eval.api.instance import Instance

        self.model.batch_size_per_gpu = batch
        asked = [Instance("loglikelihood", {}, request, at) for at, request in enumerate(requests)]
        return np.array([value for value, _ in self.model.loglikelihood(asked, disable_tqdm=True)])


def measure(
    place: Path, items: list[list[Request]], batches: list[int], repeats: int, device: str
) -> dict[str, Any]:
    """Seconds of both, their ratio in each turn, and how far the answers agree."""
    decoder, tokenizer = load_model_dir(place, device)
    theirs = Theirs(place, device)
    requests = [request for item in items for request in item]
    part = requests[: max(1, len(requests) // 4)]
    theirs.score(part[:50], 8)
    tried = {batch: timed(lambda batch=batch: theirs.score(part, batch))[0] for batch in batches}
    best = min(tried, key=lambda batch: tried[batch])
    likelihoods(decoder, tokenizer, part[:50], title=None)
    turns = []
    for _ in range(repeats):
        ours_s, ours = timed(lambda: likelihoods(decoder, tokenizer, requests, title=None).log_p)
        theirs_s, expected = timed(lambda: theirs.score(requests, best))
        turns.append((ours_s, theirs_s))
    ends = np.cumsum([len(item) for item in items])[:-1]
    choices = [[part.argmax() for part in np.split(values, ends)] for values in (ours, expected)]
    return {
        "items": len(items),
        "texts": len(requests),
        "ours_s": [ours_s for ours_s, _ in turns],
        "lm_eval_s": [theirs_s for _, theirs_s in turns],
        "lm_eval_batch": best,
        "lm_eval_tried_s": tried,
        "times_lm_eval": statistics.median(theirs_s / ours_s for ours_s, theirs_s in turns),
        "same_choice": float(np.mean(np.equal(*choices))),
        "largest_difference_nats": float(np.abs(ours - expected).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, help="a model directory (default: random weights)")
    parser.add_argument("--data", type=Path, required=True, help="the folder with the rows of blimp and hellaswag")
    parser.add_argument("--items", type=int, default=1000, help="of each task")
    parser.add_argument("--batch", type=int, action="append", help=f"for lm-eval (default: {BATCHES})")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", help="write the results to this JSON file")
    asked = parser.parse_args()
    torch.set_num_threads(threads())
    device = str(pick_device(asked.device))
    held = {name: requests_of(open_task(name, asked.data), asked.items) for name in TASKS}
    report: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": machine(),
        "versions": {**versions(), "lm_eval": _version()},
        "device": device,
        "tasks": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        texts = ["".join(request) for items in held.values() for item in items for request in item]
        place = asked.model or random_model(Path(folder), texts)
        report["parameters"] = load_model_dir(place)[0].config.parameters()
        for name, items in held.items():
            row = report["tasks"][name] = measure(place, items, asked.batch or list(BATCHES), asked.repeats, device)
            ours_s, theirs_s = (statistics.median(row[field]) for field in ("ours_s", "lm_eval_s"))
            print(
                f"{name:10} ours {ours_s:7.2f} s  lm-eval {theirs_s:7.2f} s (batch {row['lm_eval_batch']})"
                f"  {row['times_lm_eval']:5.2f} x lm-eval  the same choice in {row['same_choice']:.2%},"
                f" {row['largest_difference_nats']:.1e} nats apart at most",
                flush=True,
            )
    if asked.out:
        Path(asked.out).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _version() -> str:
    from importlib.metadata import version

    return version("lm_eval")


if __name__ == "__main__":
    main()
