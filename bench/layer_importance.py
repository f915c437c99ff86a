"""Which layers of a model matter: Fig. 5 of PanGu-π Pro for a given model, and whether two rules of thumb hold for it.

    python bench/layer_importance.py MODEL --text FILE [--text FILE] [--bytes 200k] [--parts 20]
        [--out results/layer_importance.json]

One, two and three neighbouring layers at a time are replaced by the identity and bits per byte are measured on text the
model was not trained on; beside it the block influence and the angular distance (docs/inherit.md). The text is cut into
parts of whole documents, each measured alone; the figures are those of all parts together, by their bytes, and the
intervals come from parts drawn with replacement. Two claims are judged:

    ends        leaving out the first layer, or the last, costs at least 3 times the median of those between
    influence   Spearman's ρ of block influence and what leaving a layer out costs is at least 0.5; its interval is over
                layers drawn with replacement

Written are the figures as JSON and, beside it, the picture as SVG. Needs the extra `lab`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lilliput.corpus.report import ReadReport
from lilliput.corpus.sources import read_source
from lilliput.device import machine, versions
from lilliput.evaluate.correlation import judge_correlation, spearman
from lilliput.export.hf import load_model_dir
from lilliput.inherit.layers import LayerScores, score_layers
from lilliput.progress import say
from lilliput.recipe import SourceSpec, parse_size
from lilliput.report.inherit_layers import BITS, skip_chart
from lilliput.store import file_hash, write_atomic, write_json

TIMES, RHO = 3.0, 0.5
RESAMPLES = 10_000


def parts_of(files: Sequence[str], size: int, parts: int) -> list[list[str]]:
    """The first `size` bytes of the text, whole documents dealt to so many parts in turn."""
    dealt: list[list[str]] = [[] for _ in range(parts)]
    held = 0
    for file in files:
        for number, text in enumerate(read_source(SourceSpec(source=file), ReadReport(), whole=True)):
            if held >= size:
                break
            dealt[number % parts].append(text)
            held += len(text.encode())
    return [part for part in dealt if part]


def together(scores: Sequence[LayerScores], sizes: np.ndarray) -> LayerScores:
    """The figures of all parts, each by its bytes."""

    def mean(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
        return tuple(np.average(np.array(rows), axis=0, weights=sizes).tolist())

    first = scores[0]
    return LayerScores(
        {BITS: mean([[one.base[BITS]] for one in scores])[0]},
        {BITS: {span: mean([one.skips[BITS][span] for one in scores]) for span in first.skips[BITS]}},
        mean([one.influence for one in scores]),
        {span: mean([one.angular[span] for one in scores]) for span in first.angular},
    )


def interval(values: np.ndarray) -> list[float | None]:
    """The middle 95 %; null where a bound has no number."""
    return [float(bound) if np.isfinite(bound) else None for bound in np.quantile(values, [0.025, 0.975])]


def times_median(costs: np.ndarray) -> np.ndarray:
    """(…, 2): what the first and the last layer cost over the median of those between; infinite where that costs
    nothing."""
    middle = np.median(costs[..., 1:-1], axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(middle[..., None] > 0, costs[..., [0, -1]] / middle[..., None], np.inf)


def judged(scores: Sequence[LayerScores], whole: LayerScores, sizes: np.ndarray) -> dict[str, Any]:
    """The two claims, each with its figures and verdict."""
    by_part = np.array([one.importance() for one in scores])
    drawn = np.random.default_rng(0).integers(0, len(scores), (RESAMPLES, len(scores)))
    weights = sizes[drawn] / sizes[drawn].sum(1, keepdims=True)
    costs = np.einsum("rp,rpl->rl", weights, by_part[drawn])
    found, resampled = times_median(np.array(whole.importance())), times_median(costs)
    larger = interval(resampled.max(1))
    low, high = (np.inf if bound is None else bound for bound in larger)
    verdict = "supported" if low >= TIMES else "not supported" if high < TIMES else "inconclusive"
    rho = spearman(whole.influence, whole.importance())
    return {
        "cost": [
            {"layer": layer, "bits_per_byte": value, "interval": interval(costs[:, layer])}
            for layer, value in enumerate(whole.importance())
        ],
        "ends": {
            "claim": f"leaving out the first layer, or the last, costs at least {TIMES:g} times the median between",
            **{
                name: {"times": float(value) if np.isfinite(value) else None, "interval": interval(resampled[:, at])}
                for at, (name, value) in enumerate(zip(("first", "last"), found, strict=True))
            },
            "larger_interval": larger,
            "verdict": verdict,
        },
        "influence": {
            "claim": f"Spearman's ρ of block influence and cost is at least {RHO:g}",
            **rho.to_dict(),
            "verdict": judge_correlation("at_least", RHO, rho),
        },
    }


def measure(model: Path, files: Sequence[str], size: int, parts: int) -> dict[str, Any]:
    """Everything that is written."""
    decoder, tokenizer = load_model_dir(model, torch.device("cpu"))
    depth = decoder.config.depth
    dealt = parts_of(files, size, parts)
    if depth < 4 or len(dealt) < 4:
        sys.exit("the model needs four layers, and the text four documents, for anything to be said")
    sizes = np.array([sum(len(text.encode()) for text in part) for part in dealt], float)
    began, scores = time.perf_counter(), []
    for number, part in enumerate(dealt, 1):
        say(f"part {number} of {len(dealt)}: {len(part)} documents")
        scores.append(score_layers(decoder, tokenizer, part))
    whole = together(scores, sizes)
    named = " ".join(f"--text {Path(file).name}" for file in files)
    return {
        # Without the places of this machine.
        "command": f"python bench/layer_importance.py MODEL {named} --bytes {size} --parts {parts}",
        "model": {"name": model.parent.name if model.name == "model" else model.name,
                  "shape": decoder.config.identity(), "weights": file_hash(model / "model.safetensors")},
        "text": {"files": [Path(file).name for file in files], "bytes": int(sizes.sum()),
                 "documents": sum(map(len, dealt)), "parts": len(dealt)},
        "seconds": round(time.perf_counter() - began, 1),
        "machine": machine(),
        "versions": versions(),
        "scores": whole.to_dict(),
        **judged(scores, whole, sizes),
    }  # fmt: skip


def main() -> None:
    """Measure, write, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a model directory")
    parser.add_argument("--text", action="append", required=True, metavar="FILE")
    parser.add_argument("--bytes", type=lambda text: int(str(parse_size(text))), default=200_000)
    parser.add_argument("--parts", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("results/layer_importance.json"))
    asked = parser.parse_args()
    found = measure(asked.model, asked.text, asked.bytes, asked.parts)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(asked.out, found)
    write_atomic(asked.out.with_suffix(".svg"), f"{skip_chart(found['scores'], title='Layers left out')}\n")
    print(json.dumps({name: found[name] for name in ("ends", "influence")}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
