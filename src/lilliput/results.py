"""What a run ends in: scores on held-out text, samples, the model directory, `results.json`, the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lilliput import device as machine
from lilliput.corpus.documents import Documents
from lilliput.corpus.report import ReadReport
from lilliput.corpus.shards import Shards
from lilliput.corpus.sources import read_source, source_identity
from lilliput.evaluate.baselines import uniform, xz
from lilliput.evaluate.bits import bits_per_byte
from lilliput.export.hf import save_model_dir
from lilliput.export.weights import read_weights
from lilliput.model.config import ModelConfig
from lilliput.model.continued import continued
from lilliput.model.decoder import Decoder
from lilliput.model.sharing import unrolled
from lilliput.plan.cost import decode_flops
from lilliput.plan.rules import describe
from lilliput.progress import say
from lilliput.recipe import Recipe, SourceSpec
from lilliput.report.card import model_card
from lilliput.report.page import run_page
from lilliput.store import Stage, Store, write_atomic, write_json
from lilliput.tokenizer.load import Tokenizer
from lilliput.train.config import TrainConfig
from lilliput.train.forgetting import told
from lilliput.train.metrics import read_metrics
from lilliput.train.replay import FOLDER as ROUNDS

# What a run directory comes to hold, each written whole or not at all.
FILES = ("run.json", "recipe.yaml", "model", "documents.json", "report.html", "results.json")
_SCORES_FORMAT = 1
_ROUNDS_FORMAT = 1
# Of the results what a model directory does not hold: places here, and text of the corpus.
_NOT_SHIPPED = ("model", "run", "report", "key", "rounds")
_SAMPLE_TOKENS = 120
_SAMPLES = 3
_PROMPT_CHARACTERS = 60


@dataclass(frozen=True)
class Made:
    """A trained model and all that is known of how it was made."""

    folder: Path
    key: str
    asked: Recipe
    settled: Recipe
    notes: list[str]
    corpus: Stage
    tokenizer: Tokenizer
    bytes_per_token: float
    shape: ModelConfig
    weights: Stage
    config: TrainConfig
    shards: Shards
    """What was trained on, and how."""
    child: Stage | None = None
    """Where the weights began, if they were carved out of a bigger model."""


def score_on_the_way(tokenizer: Tokenizer, held_out: Documents, limit: int) -> Callable[[Decoder], dict[str, float]]:
    """An evaluator for the training loop: bits per byte on the first `limit` bytes of held-out text."""
    texts = list(up_to(held_out, limit))

    def evaluate(model: Decoder) -> dict[str, float]:
        return {"bits_per_byte": bits_per_byte(model, tokenizer, texts, title=None).value}

    return evaluate


def up_to(documents: Iterable[str], limit: int) -> Iterator[str]:
    """Documents until `limit` UTF-8 bytes are reached (at least one)."""
    seen = 0
    for text in documents:
        yield text
        seen += len(text.encode())
        if seen >= limit:
            return


def places(folder: Path) -> dict[str, str]:
    """Where a run's results lie, as absolute paths."""
    return {"model": str(folder / "model"), "run": str(folder), "report": str(folder / "report.html")}


def finish(made: Made, store: Store, device: torch.device) -> dict[str, Any]:
    """Score the model, let it write, and put everything where people look for it."""
    model = read_weights(made.weights.path, made.shape).to(device)
    report = ReadReport()
    texts = list(up_to(_held_out(made, report), made.asked.evaluate.bytes))
    report.warn()
    scores = _scores(made, store, model, texts)
    bits = scores["bits"]
    results: dict[str, Any] = {
        "name": made.asked.name,
        **places(made.folder),
        "parameters": made.shape.parameters(),
        # A head that is no likelihood has no bits per byte to be compared.
        "bits_per_byte": None if bits.get("pseudo") else bits["value"],
        **({"pseudo_bits_per_byte": bits["value"]} if bits.get("pseudo") else {}),
        "held_out": {
            "bits_per_byte": bits["value"],
            "text": made.asked.evaluate.text or "held-out part of the corpus",
            **{name: value for name, value in bits.items() if name != "value"},
        },
        "baselines": scores["baselines"],
        "samples": _samples(model, made, texts),
        "shape": _shape(made.shape),
        "corpus": made.corpus.manifest,
        "tokenizer": {
            "vocab_size": made.tokenizer.vocab_size,
            "bytes_per_token": made.bytes_per_token,
            "hash": made.tokenizer.hash,
        },
        "cost": made.weights.manifest["cost"],
        **({"inherit": _inherited(made.child)} if made.child else {}),
        **({"unshared": _unshared(made.shape)} if made.shape.share else {}),
        **_rounds(made, store, model, device),
        "notes": made.notes,
        "recipe": made.settled.to_dict(),
        "machine": machine.machine(),
        "versions": machine.versions(),
        "key": made.key,
    }
    info = {name: value for name, value in results.items() if name not in _NOT_SHIPPED}
    save_model_dir(made.folder / "model", model, made.tokenizer, info, model_card(results))
    write_atomic(made.folder / "report.html", run_page(results, read_metrics(made.folder / "metrics.jsonl")))
    write_json(made.folder / "documents.json", scores["documents"])
    # Last, since a run counts as finished once it is there.
    write_json(made.folder / "results.json", results)
    return results


def _shape(shape: ModelConfig) -> dict[str, Any]:
    """The fields and a line of words; what layers share, and which are routed, only where that is so: plain shapes read
    as ever."""
    plain = {"share"} if shape.capacity else {"share", "capacity", "routed_every"}
    fields = {name: value for name, value in asdict(shape).items() if name not in plain}
    if shape.share:
        fields["share"] = asdict(shape)["share"]
    return {"summary": describe(shape), **fields}


def _inherited(child: Stage) -> dict[str, Any]:
    """Of what the carving told, all but the long lists."""
    told = child.manifest
    kept = {name: told["neurons"][name] for name in ("how", "kept")}
    short = {name: told[name] for name in ("teacher", "layers", "bits_per_byte", "cost", "notes")}
    return {**short, "neurons": kept}


def _unshared(shape: ModelConfig) -> dict[str, float]:
    """What layers that share weights cost to compute, and the parameters of a plain network of this cost."""
    return {"parameters": unrolled(shape).parameters(), "flops_per_token": decode_flops(shape, shape.context // 2)}


def _rounds(made: Made, store: Store, model: Decoder, device: torch.device) -> dict[str, Any]:
    """What came of the rounds, where there were any, kept in the store."""
    if made.config.rounds is None:
        return {}

    def build(folder: Path) -> dict[str, Any]:
        return told(made.config, made.shards, made.weights.path / ROUNDS, model, made.tokenizer, device)

    key = {"format": _ROUNDS_FORMAT, "weights": made.weights.hash}
    manifest = store.stage("rounds", key, build).manifest
    return {"rounds": {name: manifest[name] for name in ("steps", "forgetting", "drawn")}}


def _held_out(made: Made, report: ReadReport) -> Iterable[str]:
    files = made.asked.evaluate.text
    if not files:
        return Documents(made.corpus.path, "dev")
    return (text for file in files for text in read_source(SourceSpec(source=file), report, whole=True))


def _scores(made: Made, store: Store, model: Decoder, texts: list[str]) -> dict[str, Any]:
    """Bits per byte of the model and of the baselines on the same text, kept in the store."""

    def build(folder: Path) -> dict[str, Any]:
        bits = bits_per_byte(model, made.tokenizer, texts, title="evaluating")
        return {
            "bits": bits.to_dict(),
            "baselines": {"uniform": uniform(), "xz": xz(texts)},
            "documents": {
                "nats": [round(float(value), 4) for value in bits.nats],
                "bytes": [int(value) for value in bits.bytes],
            },
        }

    key = {
        "format": _SCORES_FORMAT,
        "weights": made.weights.hash,
        "text": [source_identity(SourceSpec(source=file)) for file in made.asked.evaluate.text] or made.corpus.hash,
        "bytes": made.asked.evaluate.bytes,
    }
    return store.stage("scores", key, build).manifest


def _prompts(texts: list[str]) -> list[str]:
    """The starts of a few held-out documents, cut at a word."""
    starts = (text.strip()[:_PROMPT_CHARACTERS].rsplit(" ", 1)[0] for text in texts)
    return [start for start in starts if start][:_SAMPLES]


def _samples(model: Decoder, made: Made, texts: list[str]) -> list[dict[str, str]]:
    """What the model writes after each prompt, at temperature 0.8."""
    say("sampling")
    tokenizer = made.tokenizer
    written = []
    for prompt in made.asked.evaluate.prompts or _prompts(texts):
        ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
        how: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95, "seed": made.asked.seed}
        new = list(continued(model, tokenizer, ids, _SAMPLE_TOKENS, (tokenizer.eos_id,), **how))
        both = tokenizer.decode([i for i in ids[1:] + new if i != tokenizer.eos_id])
        written.append({"prompt": prompt, "text": both.removeprefix(prompt)})
    return written
