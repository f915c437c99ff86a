"""What a masked run ends in: the loss on held-out text, examples, the model directory, `results.json`, the report."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lilliput import device as machine
from lilliput.corpus.documents import Documents
from lilliput.corpus.report import ReadReport
from lilliput.corpus.sources import read_source, source_identity
from lilliput.evaluate.masked import guesses, masked_loss, windows_of
from lilliput.export.encoder_dir import fill_encoder, save_encoder
from lilliput.model.encoder import Encoder
from lilliput.model.encoder_config import EncoderConfig
from lilliput.progress import say
from lilliput.recipe import Recipe, SourceSpec
from lilliput.report.encoder_page import encoder_card, encoder_page
from lilliput.results import places, up_to
from lilliput.store import Stage, Store, write_atomic, write_json
from lilliput.tokenizer.load import Tokenizer
from lilliput.tokenizer.special import Specials, for_encoder
from lilliput.train.metrics import read_metrics

_SCORES_FORMAT = 2
WINDOWS = "windows.json"
_EXAMPLES = 6


@dataclass(frozen=True)
class MadeEncoder:
    """A trained encoder and all that is known of how it was made."""

    folder: Path
    key: str
    asked: Recipe
    settled: Recipe
    notes: list[str]
    corpus: Stage
    tokenizer: Tokenizer
    special: Specials
    bytes_per_token: float
    shape: EncoderConfig
    weights: Stage


def finish_encoder(made: MadeEncoder, store: Store, device: torch.device) -> dict[str, Any]:
    """Score the encoder and put everything where people look for it."""
    model = Encoder(made.shape)
    fill_encoder(model, made.weights.path)
    model.to(device).eval()
    report = ReadReport()
    texts = list(up_to(_held_out(made, report), made.asked.evaluate.bytes))
    report.warn()
    score = _score(made, store, model, texts)
    results: dict[str, Any] = {
        "name": made.asked.name,
        **places(made.folder),
        "parameters": made.shape.parameters(),
        # No likelihood of text, so there are no bits per byte.
        "bits_per_byte": None,
        "masked_loss": score["value"],
        "held_out": {"text": made.asked.evaluate.text or "held-out part of the corpus", **score},
        "baselines": {},
        "samples": [],
        "guesses": guesses(model, made.tokenizer, made.special, texts, _EXAMPLES),
        "shape": {"family": made.shape.family, **asdict(made.shape)},
        "corpus": made.corpus.manifest,
        "tokenizer": {
            "vocab_size": made.tokenizer.vocab_size,
            "bytes_per_token": made.bytes_per_token,
            "hash": made.tokenizer.hash,
        },
        "cost": made.weights.manifest["cost"],
        "notes": made.notes,
        "recipe": made.settled.to_dict(),
        "machine": machine.machine(),
        "versions": machine.versions(),
        "key": made.key,
    }
    info = {name: value for name, value in results.items() if name not in ("model", "run", "report", "key")}
    readable, _ = for_encoder(made.tokenizer, masks_in_text=True)
    save_encoder(made.folder / "model", model, readable, info, encoder_card(results))
    write_atomic(made.folder / "report.html", encoder_page(results, read_metrics(made.folder / "metrics.jsonl")))
    # Last, since a run counts as finished once it is there.
    write_json(made.folder / "results.json", results)
    return results


def _held_out(made: MadeEncoder, report: ReadReport) -> Iterable[str]:
    files = made.asked.evaluate.text
    if not files:
        return Documents(made.corpus.path, "dev")
    return (text for file in files for text in read_source(SourceSpec(source=file), report, whole=True))


def _score(made: MadeEncoder, store: Store, model: Encoder, texts: list[str]) -> dict[str, Any]:
    """The masked loss, kept in the store; window by window it goes to the run's folder too."""
    rate = made.asked.masked.rate

    def build(folder: Path) -> dict[str, Any]:
        say("scoring")
        windows = windows_of(texts, made.tokenizer, made.special, made.shape.context)
        score = masked_loss(model, windows, made.special, rate)
        each = {"text_hash": score.hash, "nats": score.nats.round(3).tolist(), "masked": score.counts.tolist()}
        write_json(folder / WINDOWS, each)
        return score.to_dict()

    key = {
        "format": _SCORES_FORMAT,
        "masked": rate,
        "weights": made.weights.hash,
        "text": [source_identity(SourceSpec(source=file)) for file in made.asked.evaluate.text] or made.corpus.hash,
        "bytes": made.asked.evaluate.bytes,
    }
    stage = store.stage("scores", key, build)
    shutil.copyfile(stage.path / WINDOWS, made.folder / WINDOWS)
    return stage.manifest
