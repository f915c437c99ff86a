"""One carving: which layers, heads, neurons and channels of a teacher stay, and the child made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lilliput.corpus.documents import Documents
from lilliput.corpus.shards import Shards
from lilliput.export.teacher import Teacher
from lilliput.inherit.cost import Cost
from lilliput.inherit.judging import judging_flops, task_measures, text_bytes
from lilliput.inherit.layers import LayerScores, choose_layers, measured_by, score_layers
from lilliput.inherit.masks import Learned, MaskSettings, learn
from lilliput.inherit.neurons import Scores, choose, scores_of
from lilliput.inherit.taylor import calibration, check_enough, taylor
from lilliput.lineage import layers_how, tasks_of
from lilliput.model.carve import Kept, carve, child_config
from lilliput.model.config import ModelConfig
from lilliput.model.decoder import Decoder
from lilliput.model.group import group_model
from lilliput.plan.child import before_grouping
from lilliput.progress import count, say
from lilliput.recipe import InheritSettings, Recipe, TrainSettings
from lilliput.results import up_to
from lilliput.train.derive import derive, flops
from lilliput.train.order import permute

# Tokens of a window at most, for Taylor scores and masks: what matters shows in them, and memory and time stay small.
_LONGEST = 1024
# Steps and windows a step where the masks' text is not set. The paper took 3200 steps of 32 × 4096 tokens (2310.06694);
# tiny models settle sooner (docs/inherit.md).
_MASK_STEPS, _MASK_WINDOWS = 400, 8


@dataclass(frozen=True, eq=False)
class Carved:
    """A child and how it was chosen.

    child: in the type that the teacher is stored in. kept: by the teacher's numbers. scores: of the layers, None where
    these were not measured. masks: a row for each logged step (`lagrangian.log_rows`), None where none were learned.
    """

    child: Decoder
    kept: Kept
    scores: LayerScores | None
    masks: list[dict[str, Any]] | None


@dataclass(frozen=True)
class Carving:
    """One carving: `run` chooses and carves. cost and notes: filled on the way."""

    asked: Recipe
    teacher: Teacher
    shape: ModelConfig
    corpus: Path
    shards: Callable[[], Shards]
    work: Path
    device: torch.device
    cost: Cost = field(default_factory=Cost)
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
    def in_memory(self) -> bool:
        """Whether the whole teacher has been read."""
        return "model" in self.__dict__

    @property
    def plain(self) -> ModelConfig:
        """The child before its key-value heads are put together."""
        return before_grouping(self.teacher.config, self.shape)

    def run(self) -> Carved:
        """Choose what stays and carve it out."""
        layers, scores = self._layers()
        rows = None
        if self.how.neurons == "learned" and self._something_to_learn(layers):
            learned = self._learned(layers)
            child, kept, rows = learned.child, learned.kept, learned.log
        else:
            kept = self._chosen(layers or tuple(range(self.teacher.config.depth)))
            with self.cost.of("carve"):
                child = self._carved(kept)
        if self.shape.kv_heads != child.config.kv_heads:
            child = group_model(child, self.shape.kv_heads, self.how.group, self.asked.seed)
            told = f"{self.plain.kv_heads} key-value heads put together to {self.shape.kv_heads} by {self.how.group}"
            self.notes.append(told)
        return Carved(child.to(self.teacher.dtype), kept, scores, rows)

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
        depth, size, how = self.teacher.config.depth, self.shape.depth, layers_how(self.how)
        if how == "learned":
            return None, None
        measure = measured_by(how)
        if measure is None or size == depth:
            return choose_layers("first" if measure else how, depth, size), None
        scores = self._layer_scores()
        return choose_layers(how, depth, size, scores.importance(measure)), scores

    def _layer_scores(self) -> LayerScores:
        config, tokenizer = self.teacher.config, self.teacher.tokenizer
        texts, tasks = self._sample(text_bytes(config)), tasks_of(self.asked, config)
        with self.cost.of("layers"):
            scores = score_layers(self.model, tokenizer, texts, also=task_measures(tasks, tokenizer))
        self.notes.extend(f"layers were judged by {len(task.items):,} items of {task.name}, too" for task in tasks)
        tokens = sum(len(ids) for ids in map(tokenizer.encode, texts))
        self.cost.flops["layers"] = judging_flops(config, tokens, tasks)
        return scores

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
        how, seed, config = self.how.neurons, self.asked.seed, self.teacher.config
        if how != "taylor":
            how = "l2" if how == "learned" else how  # nothing to choose: every score keeps all
            # A power and a sum for each weight.
            self.cost.flops["scores"] = 0.0 if how == "random" else 2.0 * config.parameters()
            return scores_of(self.teacher.tensors(), config, how, seed)
        documents, context = Documents(self.corpus, "train"), min(_LONGEST, config.context)
        windows = calibration(self.teacher.tokenizer, documents, context, self.how.sequences, seed)
        self.cost.flops["scores"] = flops(config, sum(window.numel() - 1 for window in windows))
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
