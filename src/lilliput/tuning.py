"""Fine-tuning: an encoder, or only its shape, becomes a classifier; and a classifier's guesses."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lilliput.corpus.labelled import Rows
from lilliput.device import threads
from lilliput.errors import ConfigError
from lilliput.export.encoder_dir import fill_encoder, read_encoder_config, write_encoder
from lilliput.export.weights import WEIGHTS
from lilliput.model.encoder import PAD, Classifier, initialise_encoder
from lilliput.model.encoder_config import EncoderConfig
from lilliput.progress import Progress
from lilliput.store import Stage, Store, canonical_hash, file_hash
from lilliput.tokenizer.load import Tokenizer
from lilliput.train.config import FREE_KEYS, TrainConfig
from lilliput.train.derive import ROWS, activation_room
from lilliput.train.derive_encoder import row_bytes, tuning_rate
from lilliput.train.labels import Examples, TellLabels
from lilliput.train.loop import train
from lilliput.train.order import mix

# Raised when the weights change for the same settings, so that older ones are not taken for them.
_FORMAT = 1
_BATCH = 64
WARMUP = 0.1
LOGITS = "logits.npy"
# Root mean square of the pieces' table when an encoder is fine-tuned. [D] Measured: docs/encoders.md.
TABLES = 0.01

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Start:
    """What is fine-tuned. folder: of the encoder. scratch: take its shape and tokenizer, never its weights."""

    folder: Path
    config: EncoderConfig
    tokenizer: Tokenizer
    scratch: bool

    @classmethod
    def read(cls, folder: Path, *, scratch: bool = False) -> Start:
        """The encoder in `folder`. Raises ModelError, TokenizerError."""
        config, tokenizer, _ = read_encoder_config(folder)
        return cls(folder, config, tokenizer, scratch)

    def identity(self) -> dict[str, Any]:
        """What of it decides a classifier's weights."""
        files = [] if self.scratch else sorted(self.folder.glob("*.safetensors"))
        weights = {file.name: file_hash(file) for file in files}
        return {"shape": self.config.identity(), "tokenizer": self.tokenizer.hash, "weights": weights}


@dataclass(frozen=True)
class Tuning:
    """How it is fine-tuned; fixed beforehand, never chosen by a test split. length: positions at most; lr: None for the
    rate of the encoder's width (`tuning_rate`). balanced: rows weigh by how rare their label is."""

    epochs: float = 10.0
    batch: int = 32
    lr: float | None = None
    length: int = 128
    balanced: bool = False
    per_label: int | None = None


@dataclass(frozen=True)
class Task:
    """Rows with the numbers of their labels. labels: as they stand in the data, in order. truth: of the test rows, −1
    for a label that training knows not."""

    train: Rows
    test: Rows
    labels: list[str]
    known: Array
    truth: Array

    def identity(self) -> str:
        """Tells one task from another."""
        rows = [self.train.texts, self.train.labels, self.test.texts, self.test.labels]
        return canonical_hash(rows)


def sample(task: Task, per_label: int | None, seed: int) -> Array:
    """The training rows of this seed, as numbers: all of them, or `per_label` of each label, drawn anew for each seed,
    so that the spread over seeds is also that of the rows."""
    if per_label is None:
        return np.arange(len(task.known))
    chosen = []
    for number in range(len(task.labels)):
        rows = np.flatnonzero(task.known == number)
        rng = np.random.Generator(np.random.PCG64(mix(seed, number)))
        chosen.append(rng.permutation(rows)[:per_label])
    return np.sort(np.concatenate(chosen))


def encode(tokenizer: Tokenizer, config: EncoderConfig, texts: Sequence[str], length: int) -> tuple[Array, int]:
    """(int32 ids (texts, positions) between [CLS] and [SEP], PAD behind them, no wider than the longest needs; how many
    texts were cut)."""
    room = min(length, config.context) - 2
    if room < 1:
        raise ConfigError(f"{length} positions hold no text between [CLS] and [SEP]", where="--length", mend="128")
    found = tokenizer.encode_arrays(list(texts)) if texts else []
    longest = max((len(ids) for ids in found), default=0)
    rows = np.full((len(found), min(room, longest) + 2), PAD, dtype=np.int32)
    for row, ids in zip(rows, found, strict=True):
        kept = ids[:room]
        row[0], row[1 : 1 + len(kept)], row[1 + len(kept)] = config.cls_id, kept, config.sep_id
    return rows, sum(len(ids) > room for ids in found)


def settings(start: Start, tuning: Tuning, rows: int, context: int, seed: int, device: torch.device) -> TrainConfig:
    """The run's settings: AdamW with a linear warm-up over a tenth and a cosine to zero."""
    batch = min(tuning.batch, rows)
    steps = max(1, round(tuning.epochs * rows / batch))
    fit = max(1, int(activation_room(device) / row_bytes(replace(start.config, context=context))))
    lr = tuning.lr or tuning_rate(start.config.width)
    return TrainConfig(
        steps=steps,
        batch_sequences=batch,
        micro_sequences=math.ceil(batch / math.ceil(batch / fit)),
        context=context,
        lr=lr,
        min_lr=0.0,
        warmup_steps=round(WARMUP * steps),
        weight_decay=0.01,
        beta2=0.999,
        seed=seed,
        objective="labels",
        precision="bf16" if device.type == "cuda" else "fp32",
        threads=threads(),
        save_every=max(1, round(steps / tuning.epochs)),
        log_every=max(1, steps // ROWS),
    )


def fine_tune(
    start: Start,
    task: Task,
    tuning: Tuning,
    seed: int,
    work: Path,
    store: Store,
    device: torch.device,
    draw: int | None = None,
) -> Stage:
    """Train all weights to the last epoch; the classifier's weights and its logits on the test rows, kept in the store.

    work: where checkpoints lie meanwhile, in a folder for each key, so that a killed run is never taken for another's
    beginning: the loop knows its data and settings, not the weights it began with. The result depends on the seed
    alone: rows drawn, new weights, their order; with `draw` the rows follow from that, so that several seeds can learn
    from the same ones.
    """
    chosen = sample(task, tuning.per_label, seed if draw is None else draw)
    ids, _ = encode(start.tokenizer, start.config, [task.train.texts[at] for at in chosen], tuning.length)
    config = settings(start, tuning, len(chosen), ids.shape[1], seed, device)
    key = {
        "format": _FORMAT,
        "start": start.identity(),
        "task": task.identity(),
        "tuning": {"balanced": tuning.balanced, "per_label": tuning.per_label, "length": tuning.length},
        "train": {name: value for name, value in config.to_dict().items() if name not in FREE_KEYS},
        **({} if draw in (None, seed) else {"draw": draw}),
        **({} if start.scratch else {"tables": TABLES}),
    }
    own = work / canonical_hash(key)[:16]

    def build(folder: Path) -> dict[str, Any]:
        model = Classifier(start.config, len(task.labels))
        torch.set_num_threads(config.threads)
        initialise_encoder(model, seed)
        if not start.scratch:
            fill_encoder(model, start.folder, body=True)
            scale_tables(model)
        known = task.known[chosen]
        weights = _weights(known, len(task.labels)) if tuning.balanced else None
        done = train(model, Examples(ids, known), config, own, device=device, objective=TellLabels(weights))
        write_encoder(folder / WEIGHTS, model)
        tests, cut = encode(start.tokenizer, start.config, task.test.texts, tuning.length)
        np.save(folder / LOGITS, logits_of(model, tests))
        shutil.copyfile(own / "metrics.jsonl", folder / "metrics.jsonl")
        return {"rows": len(chosen), "cut_test": cut, "lr": config.lr, "seconds": done.seconds, "loss": done.final_loss}

    stage = store.stage("classifier", key, build)
    # The checkpoints have served.
    shutil.rmtree(work, ignore_errors=True)
    return stage


def scale_tables(model: Classifier) -> None:
    """Bring the root mean square of the pieces' table down to `TABLES`, positions and types by the same factor.

    The norm behind them takes the factor out again (its ε aside), so the model computes what it did; but a step of
    Adam, whose size knows no scale, now turns a piece's row as far as it does in an encoder that starts from scratch.
    In place; what is smaller already stays."""
    tables = model.bert.embeddings
    with torch.no_grad():
        factor = TABLES / float(tables.word_embeddings.weight.square().mean().sqrt())
        if factor < 1:
            for table in (tables.word_embeddings, tables.position_embeddings, tables.token_type_embeddings):
                table.weight.mul_(factor)


def _weights(known: Array, labels: int) -> list[float]:
    """n / (labels · rows of the label): their mean over the rows is one."""
    counts = np.bincount(known, minlength=labels)
    return [float(len(known) / (labels * count)) for count in counts]


@torch.inference_mode()
def logits_of(model: Classifier, ids_NS: Array, *, title: str | None = None) -> npt.NDArray[np.float32]:
    """float32 (rows, labels), in evaluation mode; rows of like length go together, so little padding is read."""
    model.eval()
    device = next(model.parameters()).device
    lengths = (ids_NS >= 0).sum(1)
    out = np.zeros((len(ids_NS), model.labels), np.float32)
    order = np.argsort(lengths, kind="stable")
    with Progress(title or "", len(order), "texts") as progress:
        for begin in range(0, len(order), _BATCH):
            rows = order[begin : begin + _BATCH]
            batch = torch.from_numpy(ids_NS[rows, : lengths[rows].max()].astype(np.int64)).to(device)
            out[rows] = model(batch).cpu().numpy()
            if title:
                progress.update(begin + len(rows))
    return out


def load_tuned(start: Start, stage: Stage, labels: int) -> Classifier:
    """The classifier that `fine_tune` made."""
    model = Classifier(start.config, labels)
    fill_encoder(model, stage.path)
    return model.eval()
