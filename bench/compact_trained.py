"""A model trained with all of LLaMA-2's pieces, cut down, and trained a little further.

    python bench/compact_trained.py --data DIR [--out results/compact-trained] [--seeds 3] [--bytes 10M] [KEY=VALUE ...]

DIR is the development data folder (default: $LILLIPUT_DATA). For each seed: a model with all 32,000 pieces (width 96,
4.1M parameters in all, 10 MB of childlike); its tokenizer and itself cut to a coverage of 97 %; and both, the cut and
the whole one, trained on for 5 % of the text it had seen. Bits per byte on childlike's dev split at each point. Every
training is a run of `make`, which goes on where it was killed; finished seeds are kept as cells. KEY=VALUE are settings
of every run (`train.threads=1`), for a smaller measurement; give it another --out.
"""

from __future__ import annotations

import argparse
import os
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lilliput.compaction import compact_folder
from lilliput.corpus.report import ReadReport
from lilliput.corpus.sources import read_source as read_text
from lilliput.evaluate.bits import bits_per_byte
from lilliput.evaluate.statistics import SeedVariance, compare, judge, pooled_seed_variance
from lilliput.export.hf import load_model_dir
from lilliput.lab.cells import dump, scores
from lilliput.pipeline import make
from lilliput.progress import say
from lilliput.recipe import SourceSpec, load_recipe, parse_size
from lilliput.results import up_to
from lilliput.store import canonical_hash, read_json, write_atomic, write_json
from lilliput.tokenizer.source import read_source

COVERAGE, FURTHER = 0.97, 0.05
BODY = ("budget.params=4.1M", "model.width=96")
BYTES = 10_000_000
# Further training's peak, as a share of the first run's; it falls by the same rule. Chosen among 0.035, 0.1 and 0.25 on
# the held-out part of the training text (seed 0: 1.8561, 1.8593, 1.8769 bits per byte; 1.8631 before).
FURTHER_RATE = 0.035
BEFORE, AFTER, LATER, CONTROL = ARMS = (
    "all pieces",
    "cut, right after",
    "cut, 5 % more text later",
    "all pieces, 5 % more text later",
)
# (arm, what it is held against, the share of the original's bits per byte that may be lost): METHODS' claims.
CLAIMS = (
    (AFTER, 0.06, "right after, at most 6 % is lost"),
    (LATER, 0.01, "5 % more text later, it is within 1 % of the original"),
)
# Beside the claims: what further training did by itself, and what the cut costs beside it.
BESIDE = ((CONTROL, BEFORE), (LATER, CONTROL))


@dataclass(frozen=True)
class Asked:
    """What is measured. size: bytes of text of the first training. extra: settings of every run."""

    data: Path
    size: int
    extra: tuple[str, ...]

    @property
    def settings(self) -> list[str]:
        return [*self.first, *self.extra]

    @property
    def first(self) -> list[str]:
        """Settings of the first training alone."""
        return [*BODY, f"train.bytes={self.size}"]

    @property
    def command(self) -> str:
        """The command without its folders."""
        size = [] if self.size == BYTES else ["--bytes", str(self.size)]
        return shlex.join(["python", "bench/compact_trained.py", *size, *self.extra])

    def text(self, split: str) -> Path:
        return self.data / "corpora" / f"childlike.{split}.jsonl.xz"


def run(asked: Asked, folder: Path, settings: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(results of one `make`, its model as an arm); found where it has finished."""
    texts = [f"corpus={asked.text('train')}", f"evaluate.text=[{asked.text('dev')}]"]
    made = make(load_recipe("small", [*texts, *settings, *asked.extra]), folder)
    found = read_json(folder / "documents.json")
    cost = {name: made["cost"][name] for name in ("tokens", "steps", "seconds")}
    return made, {**_arm(made["parameters"], made["tokenizer"]["vocab_size"], made["held_out"], found), "cost": cost}


def _arm(parameters: int, vocab_size: int, held_out: dict[str, Any], documents: dict[str, Any]) -> dict[str, Any]:
    return {
        "parameters": parameters,
        "vocab_size": vocab_size,
        "bits_per_byte": held_out["bits_per_byte"],
        "documents": {"text_hash": held_out["text_hash"], **documents},
    }


def cut(asked: Asked, folder: Path, out: Path) -> dict[str, Any]:
    """The model in `folder` cut to the pieces that cover its training text, written to `out` unless it is there."""
    if not (out / "report.json").exists():
        corpus = [SourceSpec(source=str(asked.text("train")))]
        compact_folder(read_source(folder), folder, out, COVERAGE, specs=corpus, labels=[None])
    return dict(read_json(out / "report.json"))


def score(asked: Asked, folder: Path, limit: int, title: str) -> dict[str, Any]:
    """An arm that no run has scored, on the text that the runs score."""
    model, tokenizer = load_model_dir(folder)
    dev = read_text(SourceSpec(source=str(asked.text("dev"))), ReadReport(), whole=True)
    bits = bits_per_byte(model, tokenizer, list(up_to(dev, limit)), title=title)
    held_out = {"bits_per_byte": bits.value, "text_hash": bits.text_hash}
    documents = {"nats": [round(float(value), 4) for value in bits.nats], "bytes": bits.bytes.tolist()}
    return _arm(model.config.parameters(), tokenizer.vocab_size, held_out, documents)


def measure(asked: Asked, seed: int, runs: Path) -> dict[str, Any]:
    """Every arm of one seed."""
    llama = f"tokenizer.from={asked.data / 'tokenizers' / 'llama2' / 'tokenizer.model'}"
    whole, before = run(asked, runs / f"whole-{seed}", [*asked.first, llama, f"seed={seed}"])
    folder, smaller = Path(whole["model"]), runs / f"cut-{seed}"
    report = cut(asked, folder, smaller)
    after = score(asked, smaller, whole["recipe"]["evaluate"]["bytes"], f"seed {seed}: {AFTER}")
    rate = FURTHER_RATE * float(whole["recipe"]["train"]["lr"])
    # The same bytes of text for both, whatever their tokens.
    further = [f"train.bytes={round(FURTHER * asked.size)}", f"train.lr={rate:.6g}", f"seed={seed + 100}"]
    _, later = run(asked, runs / f"cut-later-{seed}", [*further, f"from={smaller}"])
    _, control = run(asked, runs / f"whole-later-{seed}", [*further, f"from={folder}"])
    return {
        "seed": seed,
        "settings": asked.settings,
        "coverage": report["coverage"],
        "bytes_per_token": report["bytes_per_token"],
        "further_rate": rate,
        "machine": whole["machine"],
        "versions": whole["versions"],
        "arms": dict(zip(ARMS, (before, after, later, control), strict=True)),
    }


def table(asked: Asked, cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Every figure of the result: arms, changes with their intervals, verdicts."""
    found = {(arm, cell["seed"]): scores(cell["arms"][arm]) for cell in cells for arm in ARMS}
    variance = pooled_seed_variance({key: own.value for key, own in found.items()})
    changes = [change(cells, found, variance, arm, BEFORE, claim) for arm, *claim in CLAIMS]
    changes += [change(cells, found, variance, arm, beside, []) for arm, beside in BESIDE]
    arms = {arm: [cell["arms"][arm] for cell in cells] for arm in ARMS}
    return {
        "question": f"What does cutting a trained model's vocabulary to {COVERAGE:.0%} coverage cost?",
        "command": asked.command,
        "settings": asked.settings,
        "bytes": asked.size,
        "further": {"share": FURTHER, "bytes": round(FURTHER * asked.size), "rate_of_peak": FURTHER_RATE},
        "seeds": [cell["seed"] for cell in cells],
        "coverage": [cell["coverage"] for cell in cells],
        "bytes_per_token": [cell["bytes_per_token"] for cell in cells],
        "arms": [
            {
                "name": arm,
                "vocab_size": [one["vocab_size"] for one in own],
                "parameters": [one["parameters"] for one in own],
                "bits_per_byte": [one["bits_per_byte"] for one in own],
                "mean": float(np.mean([one["bits_per_byte"] for one in own])),
                "cost": [one.get("cost") for one in own],
            }
            for arm, own in arms.items()
        ],
        "changes": changes,
        "machine": cells[-1]["machine"],
        "versions": cells[-1]["versions"],
    }


def change(
    cells: list[dict[str, Any]], found: Any, variance: SeedVariance, arm: str, beside: str, claim: list[Any]
) -> dict[str, Any]:
    """How much worse `arm` is than `beside`, in % of its bits per byte; a verdict where something is claimed.

    The interval covers seeds (pooled over the arms) and the choice of documents, as in every study.
    """
    effect = compare(found, arm, beside, variance=variance)
    values = [[cell["arms"][name]["bits_per_byte"] for cell in cells] for name in (arm, beside)]
    level = float(np.mean(values[1]))
    percent = {
        "change": -100 * effect.gain / level,
        "low": -100 * effect.high / level,
        "high": -100 * effect.low / level,
        "by_seed": [100 * (one / two - 1) for one, two in zip(*values, strict=True)],
    }
    result = {"arm": arm, "beside": beside, "percent": percent, "effect": effect.to_dict()}
    if claim:
        bound, text = claim
        verdict = judge("non-inferiority", effect, bound * level)
        result |= {"claim": text, "bound_percent": 100 * bound, "verdict": verdict}
    return result


def write(out: Path, figures: dict[str, Any]) -> None:
    """`table.json`, and the page that people read."""
    write_json(out / "table.json", figures)
    head = ["| model | pieces | parameters | bits per byte | by seed |", "| --- | --- | --- | --- | --- |"]
    lines = ["| " + " | ".join(_row(arm)) + " |" for arm in figures["arms"]]
    said = "\n".join(f"- {_sentence(one)}" for one in figures["changes"])
    covered = ", ".join(f"{share:.2%}" for share in figures["coverage"])
    used = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    seen = figures["bytes"]
    here, arms = figures["machine"], "\n".join([*head, *lines])
    write_atomic(
        out / "README.md",
        f"""# A trained model, cut to {COVERAGE:.0%} coverage

A model with all of LLaMA-2's 32,000 pieces is trained on {seen:,} bytes of `childlike`; then tokenizer and model are
cut to the pieces that cover {COVERAGE:.0%} of the tokens of its training corpus (by seed: {covered}), and trained on
for {FURTHER:.0%} as much text. Beside it the whole model, trained further alike. Measured on the dev split of
`childlike`; seeds {", ".join(str(seed) for seed in figures["seeds"])}.

{arms}

{said}

Lower bits per byte are better; a change is in % of what stands beside it, positive where bits per byte rose. Intervals
cover seeds (pooled over the arms) and the choice of documents; with one seed only the documents. The last two lines
claim nothing: they tell what the further training does by itself, and what the cut costs beside it.

Recipe: `small` with `{" ".join(figures["settings"])}`, `tokenizer.from` LLaMA-2's `tokenizer.model`; further training
from {FURTHER_RATE} of the first run's peak rate (the best of three on held-out training text).
Command: `{figures["command"]}`.
Machine: {here["cpu"]}, {here["cores"]} cores. Versions: {used}.
""",
    )


def _row(arm: dict[str, Any]) -> list[str]:
    def span(name: str) -> str:
        return " to ".join(f"{value:,}" for value in sorted({min(arm[name]), max(arm[name])}))

    by_seed = ", ".join(f"{value:.4f}" for value in arm["bits_per_byte"])
    return [arm["name"], span("vocab_size"), span("parameters"), f"{arm['mean']:.4f}", by_seed]


def _sentence(found: dict[str, Any]) -> str:
    percent = found["percent"]
    by_seed = ", ".join(f"{value:+.2f}" for value in percent["by_seed"])
    interval = f"{percent['low']:+.2f} to {percent['high']:+.2f} %"
    told = f"{percent['change']:+.2f} %, 95 % interval {interval}; by seed {by_seed}"
    if "claim" in found:
        return f"**{found['verdict']}**: {found['claim']} ({told})"
    return f"{found['arm']}, beside {found['beside']}: {told}"


def main() -> None:
    """Measure the seeds that are missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("LILLIPUT_DATA"))
    parser.add_argument("--out", type=Path, default=Path("results/compact-trained"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bytes", type=parse_size, default=BYTES, help="text of the first training, e.g. 10M")
    parser.add_argument("--runs", type=Path, default=Path(tempfile.gettempdir(), "lilliput-compact-trained"))
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings of every run")
    given = parser.parse_args()
    if given.data is None:
        parser.error("name the data folder: --data DIR, or set LILLIPUT_DATA")
    if not isinstance(given.bytes, int):
        parser.error("--bytes takes a size: 10M, 300k")
    asked = Asked(given.data, given.bytes, tuple(given.settings))
    runs = given.runs / canonical_hash(asked.settings)[:12]
    cells = []
    for seed in range(given.seeds):
        file = given.out / "cells" / f"seed-{seed}.json"
        if not file.exists():
            write_atomic(file, dump(measure(asked, seed, runs)))
        cells.append(read_json(file))
        if cells[-1]["settings"] != asked.settings:
            parser.error(f"{file} was measured with other settings: give another --out")
        say(f"seed {seed}: measured")
        write(given.out, table(asked, cells))


if __name__ == "__main__":
    main()
