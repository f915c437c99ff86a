"""A model trained with all of LLaMA-2's pieces, cut down, and trained a little further.

    python bench/compact_trained.py --data DIR [--out results/compact-trained] [--seeds 3]

DIR is the development data folder (default: $LILLIPUT_DATA). For each seed: a model with all 32,000 pieces (width 96,
4.1M parameters in all, 10 MB of childlike); its tokenizer and itself cut to a coverage of 97 %; and both, the cut and
the whole one, trained on for 5 % of the tokens it had seen. Bits per byte on childlike's dev split at each point. Runs
go through the store, so an interrupted measurement goes on where it stopped; finished seeds are kept as cells.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from lilliput.compaction import compact_folder
from lilliput.corpus.report import ReadReport
from lilliput.corpus.sources import read_source as read_text
from lilliput.device import machine, versions
from lilliput.evaluate.bits import bits_per_byte
from lilliput.evaluate.statistics import Scores, compare, judge, pooled_seed_variance
from lilliput.export.hf import load_model_dir
from lilliput.pipeline import make
from lilliput.progress import say
from lilliput.recipe import SourceSpec, load_recipe
from lilliput.store import Store, read_json, write_atomic, write_json
from lilliput.tokenizer.source import read_source

COVERAGE, FURTHER = 0.97, 0.05
BODY = ("budget.params=4.1M", "model.width=96", "train.bytes=10M")
# Further training begins at a quarter of the first run's peak rate and falls by the same rule; it was not tuned.
FURTHER_RATE = 0.25
ARMS = ("all pieces", "cut, right after", "cut, 5 % later", "all pieces, 5 % later")


def measure(data: Path, seed: int, runs: Path) -> dict[str, Any]:
    """Every arm of one seed."""
    corpus = f"corpus={data / 'corpora' / 'childlike.train.jsonl.xz'}"
    dev = data / "corpora" / "childlike.dev.jsonl.xz"
    text = f"evaluate.text=[{dev}]"
    store = Store()
    llama = f"tokenizer.from={data / 'tokenizers' / 'llama2' / 'tokenizer.model'}"
    whole = make(load_recipe("small", [corpus, text, llama, *BODY, f"seed={seed}"]), runs / f"whole-{seed}", store)
    folder = Path(whole["model"])
    specs = [SourceSpec(source=str(data / "corpora" / "childlike.train.jsonl.xz"))]
    cut = compact_folder(read_source(folder), folder, runs / f"cut-{seed}", COVERAGE, specs=specs, labels=[None])
    rate = FURTHER_RATE * float(whole["recipe"]["train"]["lr"])
    # The same bytes of text for both, whatever their tokens.
    further = [corpus, text, f"train.bytes={round(FURTHER * 10_000_000)}", f"train.lr={rate:.6g}", f"seed={seed + 100}"]
    settings = {"cut": [f"from={folder}", f"tokenizer.compact={COVERAGE}"], "whole": [f"from={folder}"]}
    later = {
        name: make(load_recipe("small", [*further, *own]), runs / f"{name}-later-{seed}", store)
        for name, own in settings.items()
    }
    places = (folder, cut["out"], later["cut"]["model"], later["whole"]["model"])
    texts = list(read_text(SourceSpec(source=str(dev)), ReadReport(), whole=True))
    cell: dict[str, Any] = {"seed": seed, "coverage": cut["coverage"], "rate": rate, "arms": {}}
    for arm, place in zip(ARMS, places, strict=True):
        model, tokenizer = load_model_dir(place)
        bits = bits_per_byte(model, tokenizer, texts, title=f"seed {seed}: {arm}")
        cell["arms"][arm] = {
            "parameters": model.config.parameters(),
            "vocab_size": tokenizer.vocab_size,
            "bits_per_byte": bits.value,
            "nats": [round(float(value), 4) for value in bits.nats],
            "bytes": bits.bytes.tolist(),
            "text_hash": bits.text_hash,
        }
    return cell


def scores(cells: list[dict[str, Any]]) -> dict[tuple[str, int], Scores]:
    return {
        (arm, cell["seed"]): Scores(np.array(found["nats"]), np.array(found["bytes"], float), found["text_hash"])
        for cell in cells
        for arm, found in cell["arms"].items()
    }


def verdicts(cells: list[dict[str, Any]]) -> list[str]:
    """METHODS' claims: at most 6 % lost right after, within 1 % after 5 % of the tokens."""
    found = scores(cells)
    variance = pooled_seed_variance({key: score.bits_per_byte for key, score in found.items()})
    before = float(np.mean([cell["arms"][ARMS[0]]["bits_per_byte"] for cell in cells]))
    lines = []
    for arm, bound, said in (
        (ARMS[1], 0.06, "right after, at most 6 % is lost"),
        (ARMS[2], 0.01, "5 % of the text later, it is within 1 % of the original"),
    ):
        effect = compare(found, arm, ARMS[0], variance=variance)
        verdict = judge("non-inferiority", effect, bound * before)
        share, low, high = (-100 * value / before for value in (effect.gain, effect.high, effect.low))
        lines.append(f"**{verdict}**: {said} ({share:+.2f} %, 95 % interval {low:+.2f} to {high:+.2f} %)")
    return lines


def write(out: Path, cells: list[dict[str, Any]]) -> None:
    lines = ["| model | pieces | parameters | bits per byte | by seed |", "| --- | --- | --- | --- | --- |"]
    for arm in ARMS:
        own = [cell["arms"][arm] for cell in cells]
        values = [found["bits_per_byte"] for found in own]
        by_seed = ", ".join(f"{value:.4f}" for value in values)
        size = f"{own[0]['vocab_size']:,} | {own[0]['parameters']:,}"
        lines.append(f"| {arm} | {size} | {np.mean(values):.4f} | {by_seed} |")
    said = "\n".join(f"- {line}" for line in verdicts(cells)) if len(cells) > 1 else "- it takes two seeds"
    here, table = machine(), "\n".join(lines)
    used = ", ".join(f"{name} {version}" for name, version in versions().items())
    write_atomic(
        out / "README.md",
        f"""# A trained model, cut to {COVERAGE:.0%} coverage

A model with all of LLaMA-2's 32,000 pieces is trained on 10 MB of `childlike`; then it is cut to the pieces that cover
{COVERAGE:.0%} of its training text, and trained further on 5 % as much text. Beside it the whole model, trained further
alike. Measured on the dev split of `childlike`.

{table}

{said}

Recipe: `small` with `{" ".join(BODY)}`, `tokenizer.from` LLaMA-2's `tokenizer.model`; further training from
{FURTHER_RATE} of the first run's peak rate, not tuned. Command: `python bench/compact_trained.py`.
Machine: {here["cpu"]}, {here["cores"]} cores. Versions: {used}.
""",
    )


def main() -> None:
    """Measure the seeds that are missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("LILLIPUT_DATA"))
    parser.add_argument("--out", type=Path, default=Path("results/compact-trained"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path(tempfile.gettempdir(), "lilliput-compact-trained"))
    asked = parser.parse_args()
    if asked.data is None:
        parser.error("name the data folder: --data DIR, or set LILLIPUT_DATA")
    cells = []
    for seed in range(asked.seeds):
        file = asked.out / "cells" / f"seed-{seed}.json"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, measure(asked.data, seed, asked.runs))
        say(f"seed {seed}: measured")
        cells.append(read_json(file))
        write(asked.out, cells)


if __name__ == "__main__":
    main()
