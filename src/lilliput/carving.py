"""One carving: which layers, heads, neurons and channels of a teacher stay, the child made of them, and its scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lilliput.corpus.documents import Documents
from lilliput.corpus.shards import Shards
from lilliput.device import total_memory
from lilliput.evaluate.bits import Bits, bits_per_byte
from lilliput.export.hf import save_model_dir
from lilliput.export.teacher import Teacher
from lilliput.inherit.layers import LayerScores, choose_layers, score_layers
from lilliput.inherit.masks import Learned, MaskSettings, learn
from lilliput.inherit.neurons import Scores, choose, scores_of
from lilliput.inherit.taylor import calibration, check_enough, taylor
from lilliput.lineage import layers_how
from lilliput.model.carve import Kept, carve, child_config
from lilliput.model.config import ModelConfig
from lilliput.model.decoder import Decoder
from lilliput.model.group import group_model
from lilliput.plan.child import before_grouping
from lilliput.progress import count, say
from lilliput.recipe import InheritSettings, Recipe, TrainSettings
from lilliput.results import up_to
from lilliput.store import file_hash
from lilliput.train.derive import derive, flops
from lilliput.train.order import permute

# Text that layers are judged by, and that teacher and child are scored on.
_LAYER_BYTES = 65_536
_SCORED_BYTES = 500_000
# Work that leaving layers out may cost, FLOPs: about a minute on two cores. Layers are compared on the same text, so
# little of it tells much.
_LAYER_FLOPS = 6e12
_LEAST_BYTES = 4096
# Share of the machine's memory that a whole teacher may take.
_ROOM = 0.5
# Tokens of a window at most, for Taylor scores and masks: what matters shows in them, and memory and time stay small.
_LONGEST = 1024
# Steps and windows a step where the masks' text is not set. The paper took 3200 steps of 32 × 4096 tokens (2310.06694);
# tiny models settle sooner (docs/inherit.md).
_MASK_STEPS, _MASK_WINDOWS = 400, 8


@dataclass
class _Cost:
    """Seconds and FLOPs by part of the work."""

    seconds: dict[str, float] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Add what the block takes to `name`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


@dataclass(frozen=True)
class Carving:
    """One carving: `build` writes the child."""

    asked: Recipe
    teacher: Teacher
    shape: ModelConfig
    corpus: Path
    shards: Callable[[], Shards]
    work: Path
    device: torch.device
    cost: _Cost = field(default_factory=_Cost)
    notes: list[str] = field(default_factory=list)

    @property
    def how(self) -> InheritSettings:
        return self.asked.inherit

    @cached_property
    def model(self) -> Decoder:
        """The whole teacher, fp32. Only what runs it asks for it."""
        size = count(4 * self.teacher.config.parameters())
        say(f"reading the whole teacher: {size}B of memory, and what its work takes")
        return self.teacher.model(self.device)

    @property
    def plain(self) -> ModelConfig:
        """The child before its key-value heads are put together."""
        return before_grouping(self.teacher.config, self.shape)

    def build(self, folder: Path) -> dict[str, Any]:
        """Choose, carve, score and write; returns the report."""
        layers, scores = self._layers()
        if self.how.neurons == "learned" and self._something_to_learn(layers):
            learned = self._learned(layers)
            child, kept, rows = learned.child, learned.kept, learned.log
        else:
            kept, rows = self._chosen(layers or tuple(range(self.teacher.config.depth))), None
            with self.cost.of("carve"):
                child = self._carved(kept)
        if self.shape.kv_heads != child.config.kv_heads:
            child = group_model(child, self.shape.kv_heads, self.how.group, self.asked.seed)
            told = f"{self.plain.kv_heads} key-value heads put together to {self.shape.kv_heads} by {self.how.group}"
            self.notes.append(told)
        # Scored as it is written: rounded, where the teacher's type is narrower.
        child.to(self.teacher.dtype)
        report = self._report(kept, scores, rows, child)
        info = {"inherit": {name: report[name] for name in ("teacher", "layers", "neurons", "bits_per_byte", "cost")}}
        model = folder / "model"
        save_model_dir(model, child.to(self.teacher.dtype), self.teacher.tokenizer, info, beside=self.teacher.beside())
        for file in model.iterdir():
            file.rename(folder / file.name)
        model.rmdir()
        return {**report, "weights": file_hash(folder / "model.safetensors")}

    def _something_to_learn(self, layers: tuple[int, ...] | None) -> bool:
        """Whether the child is smaller in anything that masks choose."""
        plain, parent = self.plain, self.teacher.config
        same = (plain.width, plain.ffn, plain.kv_heads) == (parent.width, parent.ffn, parent.kv_heads)
        if same and (layers is not None or plain.depth == parent.depth):
            self.notes.append("nothing was left for masks to choose: all heads, neurons and channels stay")
            return False
        return True

    def _layers(self) -> tuple[tuple[int, ...] | None, LayerScores | None]:
        """(the layers to keep, None where the masks choose; how much each matters, None where that was not asked)."""
        depth, count_, how = self.teacher.config.depth, self.shape.depth, layers_how(self.how)
        if how == "learned":
            return None, None
        if how != "importance" or count_ == depth:
            return choose_layers(how if how != "importance" else "first", depth, count_), None
        texts = self._sample(self._layer_bytes())
        with self.cost.of("layers"):
            scores = score_layers(self.model, self.teacher.tokenizer, texts)
        # A forward pass is a third of a step; sliding windows read most tokens twice.
        tokens = sum(len(ids) for ids in map(self.teacher.tokenizer.encode, texts))
        self.cost.flops["layers"] = 2 / 3 * flops(self.teacher.config, tokens) * (1 + 3 * (depth - 1))
        return choose_layers(how, depth, count_, scores.importance()), scores

    def _layer_bytes(self) -> int:
        """Bytes of text to judge layers by: fewer for a large teacher, whose every layer is left out in turn."""
        config = self.teacher.config
        each = flops(config, 1) / 3 * 2  # forward alone; sliding windows read most tokens twice
        affordable = _LAYER_FLOPS / (each * 3 * config.depth)  # tokens, of about three bytes or more
        return int(min(_LAYER_BYTES, max(_LEAST_BYTES, 3 * affordable)))

    def _sample(self, size: int) -> list[str]:
        """Training documents in a random order that follows from the seed, `size` bytes of them."""
        documents = Documents(self.corpus, "train")
        order = permute(np.arange(len(documents)), len(documents), self.asked.seed)
        return list(up_to((documents[int(index)] for index in order), size))

    def _chosen(self, layers: tuple[int, ...]) -> Kept:
        """What to keep by scores."""
        plain, parent = self.plain, self.teacher.config
        with self.cost.of("scores"):
            scores = self._scores()
        return choose(scores, parent, layers, hidden=plain.width, ffn=plain.ffn, kv_heads=plain.kv_heads)

    def _scores(self) -> Scores:
        how, seed = self.how.neurons, self.asked.seed
        if how != "taylor":
            how = "l2" if how == "learned" else how  # nothing to choose: every score keeps all
            return scores_of(self.teacher.tensors(), self.teacher.config, how, seed)
        documents, context = Documents(self.corpus, "train"), min(_LONGEST, self.teacher.config.context)
        windows = calibration(self.teacher.tokenizer, documents, context, self.how.sequences, seed)
        self.cost.flops["scores"] = flops(self.teacher.config, sum(window.numel() - 1 for window in windows))
        return taylor(self.model, windows, self.how.taylor)

    def _carved(self, kept: Kept) -> Decoder:
        """The child's weights, read from the teacher's files one tensor at a time."""
        child = Decoder(child_config(self.teacher.config, kept))
        own = child.state_dict()
        for name, tensor in carve(self.teacher.tensors(), self.teacher.config, kept):
            own[name].copy_(tensor)
        return child

    def _learned(self, layers: tuple[int, ...] | None) -> Learned:
        """Learned masks; interrupted learning goes on in `work`."""
        asked, shards, config = self.how.masks, self.shards(), self.teacher.config
        settings = MaskSettings(mask_rate=asked.lr, lambda_rate=asked.penalty_lr, weight_rate=asked.weight_lr)
        length = min(_LONGEST, config.context)
        check_enough(shards.windows(length), f" of {length} tokens")
        batch = asked.batch_tokens or _MASK_WINDOWS * length
        how = {name: getattr(self.asked.train, name) for name in ("compile", "precision", "threads")}
        tokens = asked.tokens or _MASK_STEPS * batch
        train = TrainSettings(tokens=tokens, batch_tokens=batch, lr=asked.weight_lr, **how)
        total, size = len(shards.tokens), int(shards.bytes.sum(dtype="u8"))
        run, _ = derive(train, replace(config, context=length), total, size, self.asked.seed, self.device)
        epochs = run.tokens / total
        say(f"masks      {count(run.tokens)} tokens in {run.steps} steps, {epochs:.2g} passes over the corpus")
        self.cost.flops["masks"] = flops(config, run.tokens)
        with self.cost.of("masks"):
            return learn(
                self.model, self.plain, shards, run, self.work, device=self.device, settings=settings, layers=layers
            )

    def _report(
        self, kept: Kept, scores: LayerScores | None, rows: list[dict[str, Any]] | None, child: Decoder
    ) -> dict[str, Any]:
        texts = list(up_to(Documents(self.corpus, "dev"), scored_bytes(self.asked)))
        with self.cost.of("evaluate"):
            after = self._bits(child.float().to(self.device), texts, "child")
            before = self._bits(self.model, texts, "teacher") if self._fits() else None
        parent = self.teacher.config
        return {
            "teacher": {
                "name": _name(self.asked), "kind": self.teacher.kind,
                "parameters": parent.parameters(), "shape": parent.identity(),
            },
            "child": {"parameters": self.shape.parameters(), "shape": self.shape.identity()},
            "parameters": self.shape.parameters(),
            "layers": {
                "how": "all" if self._all_layers() else layers_how(self.how),
                "kept": list(kept.layers),
                "scores": scores.to_dict() if scores else None,
            },
            "neurons": {
                "how": self.how.neurons,
                "kept": {"hidden": len(kept.hidden), "ffn": len(kept.ffn[0]), "kv_heads": len(kept.kv_head[0])},
                "hidden": list(kept.hidden),
                "heads": [list(members) for members in kept.kv_head],
            },
            "held_out": {"documents": len(texts), "bytes": sum(len(text.encode()) for text in texts)},
            "masks": {"rows": rows, "steps": rows[-1]["step"]} if rows else None,
            "bits_per_byte": {"teacher": before.to_dict() if before else None, "child": after.to_dict()},
            "cost": {
                "seconds": {name: round(value, 2) for name, value in self.cost.seconds.items()},
                "flops": self.cost.flops,
            },
            "notes": self.notes,
        }  # fmt: skip

    def _all_layers(self) -> bool:
        return self.shape.depth == self.teacher.config.depth

    def _fits(self) -> bool:
        """Whether the whole teacher, fp32, has room here."""
        if "model" in self.__dict__:
            return True
        need, room = 4 * self.teacher.config.parameters(), _ROOM * (total_memory() or 8 << 30)
        if need <= room:
            return True
        self.notes.append(f"the teacher was not scored: it takes {count(need)}B of memory")
        return False

    def _bits(self, model: Decoder, texts: list[str], title: str) -> Bits:
        return bits_per_byte(model, self.teacher.tokenizer, texts, title=f"evaluating the {title}")


def _name(recipe: Recipe) -> str:
    """The teacher's name: the folder it lies in, or that one's where it is a run's `model`; no path of this machine."""
    place = Path(str(recipe.inherit.teacher)).expanduser()
    return place.parent.name if place.name == "model" else place.name


def scored_bytes(asked: Recipe) -> int:
    """Held-out text that teacher and child are scored on, at most."""
    return min(_SCORED_BYTES, asked.evaluate.bytes)
