"""The work that settles a ladder: tokenizers, shapes of equal parameters, the horizon in bytes, the rule's learning
rates, and which held-out text chooses and which one judges. Everything heavy is a stage of the store, which the arms
then find.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from lilliput.corpus.documents import Documents
from lilliput.corpus.shards import Shards
from lilliput.corpus.split import fingerprint
from lilliput.errors import CorpusError
from lilliput.lab.grid import TEACHER, fill_in
from lilliput.lab.ladder.ask import Ask, bare
from lilliput.lab.ladder.plan import (
    ARCHITECTURE,
    BASE,
    COMPACT,
    FOLDER,
    INHERITANCE,
    PLANNER,
    ROUNDS,
    Arm,
    Plan,
)
from lilliput.lab.ladder.shapes import (
    SMALLER,
    base_shape,
    best_shape,
    compact_size,
    dimensions,
    planned_shape,
    shallow_shape,
    teacher_shape,
)
from lilliput.lab.spec import setting
from lilliput.lineage import check_choice
from lilliput.model.config import ModelConfig
from lilliput.plan.rules import table_share
from lilliput.recipe import Recipe, RoundSettings
from lilliput.settle import identify, known_size
from lilliput.store import Stage, Store, atomic_dir, write_atomic
from lilliput.texts import Texts
from lilliput.train.derive import TOKENS_PER_PARAMETER, derive, flops

_LEAST_DOCUMENTS = 2
_WHERE = "the ladder's recipe"


@dataclass(frozen=True)
class _Packed:
    """The corpus as one tokenizer's tokens. tokens, bytes: of one pass."""

    pieces: int
    tokens: int
    bytes: int

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / self.tokens


@dataclass(frozen=True)
class Settling:
    """Settles the ladder that `ask` wants in the folder `out`, which `$LADDER` stands for."""

    ask: Ask
    out: Path
    store: Store
    device: torch.device

    @property
    def recipe(self) -> Recipe:
        return self.ask.recipe

    def plan(self) -> Plan:
        """The plan; its files lie in `out`. Raises UserError where no ladder can be made."""
        corpus = self._texts({}).corpus()
        planned = planned_shape(self.recipe, compact_size(self.recipe))
        source, whole = self._big(corpus, planned)
        asked = self.recipe.tokenizer.compact
        small = self._packed(corpus, source, asked if isinstance(asked, float) else planned.vocab_size)
        if small.pieces != planned.vocab_size:
            planned = planned_shape(self.recipe, small.pieces)
        base = base_shape(planned, whole, whole=self.recipe.tokenizer.source is not None)
        cut = base.vocab_size if base.vocab_size < whole else None
        big = self._packed(corpus, source, cut)
        choose, judge = self._held_out(corpus)
        shapes = {BASE: base, COMPACT: shallow_shape(planned, base.depth), ARCHITECTURE: planned}
        best = best_shape(self.recipe, planned, whole)
        bigger = teacher_shape(self.recipe, planned, self.ask.teacher_size)
        # The arms that inherit could be refused only when the teacher is trained.
        check_choice(fill_in(self.recipe, _WHERE, {TEACHER: TEACHER}), bigger, planned)
        tokenizers: dict[str, tuple[_Packed, int | None]] = {BASE: (big, cut)}
        if best != planned:
            shapes[PLANNER] = best
            tokenizers[PLANNER] = (self._packed(corpus, source, best.vocab_size), best.vocab_size)
        make = _Arms(self.ask, self.device, self._horizon(small, planned), self._named(source))
        arms = {
            name: make.own(shape, *tokenizers.get(name, (small, small.pieces))) for name, shape in shapes.items()
        }
        arms |= {name: make.inherited(planned, small, name) for name in (INHERITANCE, ROUNDS)}
        teacher = make.teacher(bigger, small)
        return Plan(
            recipe=yaml.safe_dump(make.common(), sort_keys=False, allow_unicode=True),
            bytes=make.bytes,
            pieces={"big": big.pieces, "compact": small.pieces, "source": whole},
            bytes_per_token={"big": big.bytes_per_token, "compact": small.bytes_per_token},
            arms=arms,
            teacher=teacher,
            planner=PLANNER if PLANNER in shapes else ARCHITECTURE,
            choose=choose,
            judge=judge,
            notes=[*self.ask.notes, *self._notes(base, whole, best == planned)],
        )

    def _texts(self, tokenizer: dict[str, Any], **model: int) -> Texts:
        values = bare(self.recipe).to_dict()
        asked = Recipe.model_validate({**values, "tokenizer": tokenizer, "model": model})
        asked = fill_in(asked, _WHERE)
        return Texts(asked, identify(asked), self.store.stage)

    def _big(self, corpus: Stage, planned: ModelConfig) -> tuple[str, int]:
        """(the big tokenizer as recipes name it, its pieces): the one that is asked, else one that is trained to the
        base's size."""
        named = self.recipe.tokenizer.source
        if named is not None:
            return named, known_size(self._texts(self._named(named)).asked) or 0
        size = base_shape(planned, None).vocab_size
        name = f"tokenizer-{corpus.hash[:8]}-{size}"
        # The shape is said because it is asked for; the tokenizer does not depend on it.
        tokenizer = self._texts({"vocab_size": size}, depth=1, width=64).tokenizer(corpus, None)
        with atomic_dir(self.out / name) as folder:
            tokenizer.save(folder)
        if SMALLER * tokenizer.vocab_size < planned.vocab_size:
            raise CorpusError(
                f"too little text for two tokenizers: it gives {tokenizer.vocab_size:,} pieces, the base wants "
                f"{size:,} and the compact one has {planned.vocab_size:,}",
                where="corpus",
                mend="give more text, or a smaller budget.params or tokenizer.compact",
            )
        return f"${FOLDER}/{name}", tokenizer.vocab_size

    def _named(self, source: str) -> dict[str, Any]:
        """The big tokenizer as a recipe's `tokenizer`."""
        asked = self.recipe.tokenizer
        return {"from": source, "pattern": asked.pattern, "special": asked.special}

    def _packed(self, corpus: Stage, source: str, compact: int | float | None) -> _Packed:
        """The corpus under a tokenizer, whole or cut down."""
        texts = self._texts({**self._named(source), "compact": compact})
        tokenizer = texts.tokenizer(corpus, texts.compacted(corpus))
        shards = Shards(texts.shards(corpus, tokenizer).path, "train", tokenizer.hash)
        return _Packed(tokenizer.vocab_size, len(shards.tokens), int(shards.bytes.sum(dtype="u8")))

    def _horizon(self, small: _Packed, planned: ModelConfig) -> int:
        """UTF-8 bytes that every arm reads: what the recipe's horizon is with the compact tokenizer."""
        train = self.recipe.train
        if train.bytes is not None:
            return train.bytes
        if train.epochs is not None:
            return round(train.epochs * small.bytes)
        tokens = train.tokens or TOKENS_PER_PARAMETER * planned.parameters()
        return round(tokens * small.bytes_per_token)

    def _held_out(self, corpus: Stage) -> tuple[list[str], list[str]]:
        """(files that learning rates are chosen by, files that judge): the held-out part and the texts named, or, where
        none are, the held-out part in two by the hash of each document. Nothing where nothing is chosen."""
        if self.recipe.evaluate.text or len(self.ask.rates) == 1:
            return [], list(self.recipe.evaluate.text)
        name = f"held-out-{corpus.hash[:8]}"
        halves: dict[str, list[str]] = {"choose": [], "judge": []}
        for raw in Documents(corpus.path, "dev").iterate_raw():
            halves["choose" if fingerprint(raw).fraction < 0.5 else "judge"].append(raw.decode())
        if min(map(len, halves.values())) < _LEAST_DOCUMENTS:
            raise CorpusError(
                "the held-out part is too small to choose learning rates by one half and judge by the other",
                where="corpus",
                mend="give more text, texts to judge by (evaluate.text=FILE), or --rates 1",
            )
        for half, texts in halves.items():
            rows = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
            write_atomic(self.out / name / f"{half}.jsonl", rows)
        return [f"${FOLDER}/{name}/choose.jsonl"], [f"${FOLDER}/{name}/judge.jsonl"]

    def _notes(self, base: ModelConfig, whole: int, same: bool) -> list[str]:
        found = [f"the base: {table_share(base):.0%} of its parameters are tables, half of the planned depth"]
        if base.vocab_size < whole:
            cut = f"from {whole:,} pieces to {base.vocab_size:,}"
            found.append(f"the base's tokenizer is cut {cut}, so that its tables take the paper's share")
        if same:
            found.append("the planner's best without inheritance and rounds is the rung + architecture: one cell")
        if self.recipe.evaluate.text:
            found.append("learning rates are chosen by the held-out part, arms are judged by evaluate.text")
        elif len(self.ask.rates) > 1:
            found.append("learning rates are chosen by half of the held-out part (by hash), arms judged by the rest")
        return found


@dataclass(frozen=True)
class _Arms:
    """Makes the arms. bytes: what each reads. tokenizer: the big one, as a recipe names it."""

    ask: Ask
    device: torch.device
    bytes: int
    tokenizer: dict[str, Any]

    def common(self, **train: Any) -> dict[str, Any]:
        """What all arms share: the recipe without tokenizer, shape, teacher and rounds, its horizon in bytes."""
        values = bare(self.ask.recipe).to_dict()
        values["train"] |= {"tokens": None, "epochs": None, "bytes": self.bytes, **train}
        values["evaluate"] |= {"text": []}
        for name in ("tokenizer", "budget", "model", "rounds"):
            values.pop(name, None)
        return values

    def own(self, shape: ModelConfig, packed: _Packed, compact: int | None) -> Arm:
        """An arm that begins from nothing."""
        return self._arm(shape, packed, self._settings(shape, compact), None)

    def teacher(self, shape: ModelConfig, packed: _Packed) -> Arm:
        """The teacher: the rule's own learning rate, and its own share of text."""
        size = round(self.bytes * self.ask.teacher_bytes)
        settings = [*self._settings(shape, packed.pieces), setting("train.bytes", size), "train.lr=null"]
        return self._arm(shape, packed, settings, None, bytes=size, lr=None)

    def inherited(self, shape: ModelConfig, packed: _Packed, name: str) -> Arm:
        """The planned shape carved out of the teacher; the last rung is also trained in rounds."""
        recipe = self.ask.recipe
        values = {f"model.{key}": getattr(shape, key) for key in ("depth", "width", "heads", "ffn")}
        if shape.kv_heads != shape.heads:
            values["model.kv_heads"] = shape.kv_heads
        values |= _flat("inherit", recipe.inherit.model_dump(exclude_defaults=True))
        rounds: RoundSettings | None = None
        if name == ROUNDS:
            rounds = recipe.rounds
            values |= _flat("rounds", rounds.model_dump(exclude_defaults=True))
        return self._arm(shape, packed, _as_settings(values), rounds)

    def _settings(self, shape: ModelConfig, compact: int | None) -> list[str]:
        asked = {**self.tokenizer, "compact": compact}
        values = {f"tokenizer.{name}": value for name, value in asked.items() if value}
        return _as_settings(values | dimensions(shape, self.ask.recipe.model))

    def _arm(
        self, shape: ModelConfig, packed: _Packed, settings: list[str], rounds: RoundSettings | None, **train: Any
    ) -> Arm:
        """An arm with what the run will derive; ConfigError for what it would refuse."""
        asked = Recipe.model_validate(self.common(**train)).train
        named, seed = replace(shape, vocab_size=packed.pieces), self.ask.recipe.seed
        config, _ = derive(asked, named, packed.tokens, packed.bytes, seed, self.device, rounds=rounds)
        return Arm(settings, named, config.lr, config.tokens, flops(named, config.tokens))


def _as_settings(values: dict[str, Any]) -> list[str]:
    return [setting(key, value) for key, value in values.items()]


def _flat(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(f"{prefix}.{key}", value) if isinstance(value, dict) else {f"{prefix}.{key}": value}
    return found
