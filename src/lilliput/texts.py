"""The first stages of `make`, from sources of text to shards: corpus, tokenizer (trained, taken, cut down), packing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lilliput.compaction import compact_for_run, read_recipe_source, tokenizer_place
from lilliput.corpus.build import build_corpus
from lilliput.corpus.documents import Documents
from lilliput.corpus.shards import pack
from lilliput.corpus.unit_shards import pack_units
from lilliput.export.hf import read_config
from lilliput.lineage import teacher_of
from lilliput.model.byte_pool_config import BytePoolConfig
from lilliput.plan.search import derive_shape
from lilliput.progress import count, say
from lilliput.recipe import Recipe
from lilliput.store import Stage
from lilliput.tokenizer.load import Tokenizer
from lilliput.tokenizer.source import forget
from lilliput.tokenizer.train import train_tokenizer
from lilliput.tokenizer.units import UnitTokenizer

# Raised when a stage's output changes for the same settings, so that older outputs are not taken for it.
_FORMATS = {"corpus": 1, "tokenizer": 1, "compact": 1, "shards": 1}

Build = Callable[[Path], dict[str, Any]]


@dataclass(frozen=True)
class Texts:
    """asked: the recipe. inputs: content hashes of all it reads. stage: (name, key, build) → the stage, found or
    built. settled: the recipe as a run that goes on has settled it before; None for a new one."""

    asked: Recipe
    inputs: dict[str, Any]
    stage: Callable[[str, dict[str, Any], Build], Stage]
    settled: Recipe | None = None

    def corpus(self) -> Stage:
        """All documents, duplicates dropped, some held out."""
        def build(folder: Path) -> dict[str, Any]:
            return build_corpus(self.asked.corpus, folder)

        key = {"format": _FORMATS["corpus"], "sources": self.inputs["corpus"]}
        stage = self.stage("corpus", key, build)
        documents, size = stage.manifest["documents"], stage.manifest["bytes"]
        held_out = size["dev"] / (size["train"] + size["dev"])
        tell(
            "corpus",
            stage,
            f"{count(size['train'])}B of text in {documents['train']:,} documents; "
            f"{count(size['dev'])}B in {documents['dev']:,} held out ({held_out:.1%})",
        )
        return stage

    def compacted(self, corpus: Stage) -> Stage | None:
        """The tokenizer, or the model with it, cut down to what the corpus uses; None where that is not asked."""
        if self.asked.tokenizer.compact is None:
            return None

        def build(folder: Path) -> dict[str, Any]:
            return compact_for_run(self.asked, Documents(corpus.path, "train"), folder)

        asked = self.asked.to_dict()
        key = {
            "format": _FORMATS["compact"],
            "corpus": corpus.hash,
            "tokenizer": self.inputs["definition"],
            "from": self.inputs["from"] or self.inputs.get("teacher"),
            "compact": asked["tokenizer"]["compact"],
            # By the rule the size follows from the body.
            "body": [asked["budget"], asked["model"]] if asked["tokenizer"]["compact"] == "rule" else None,
        }
        stage = self.stage("compact", key, build)
        found = stage.manifest
        told = f"{found['vocab_size']:,} pieces of {found['before']:,}, {found['coverage']:.2%} of the tokens covered"
        tell("compact", stage, told)
        for note in found["notes"]:
            say(f"           {note}")
        return stage

    def tokenizer(self, corpus: Stage, compacted: Stage | None) -> Tokenizer:
        """Cut down, taken as it is, or trained on the corpus."""
        if compacted is not None:
            return Tokenizer.load(compacted.path)
        if units := self._units():
            say(f"units      of at most {units.limit} bytes, cut by a pattern")
            return units
        if self.asked.inherit.teacher:
            tokenizer = teacher_of(self.asked).tokenizer
            say(f"tokenizer  {tokenizer.vocab_size:,} pieces, the teacher's")
            return tokenizer
        if self.asked.tokenizer.source or self.asked.source:
            tokenizer = Tokenizer.of(read_recipe_source(self.asked))
            say(f"tokenizer  {tokenizer.vocab_size:,} pieces, from {tokenizer_place(self.asked)}")
            return tokenizer
        # What was planned once stays: where a speed is asked, another timing could plan otherwise.
        planned = self.settled.tokenizer.vocab_size if self.settled else None
        vocab_size = planned or derive_shape(self.asked).vocab_size

        def build(folder: Path) -> dict[str, Any]:
            trained = train_tokenizer(Documents(corpus.path, "train"), vocab_size)
            trained.save(folder)
            return {"vocab_size": trained.vocab_size}

        key = {"format": _FORMATS["tokenizer"], "corpus": corpus.hash, "vocab_size": vocab_size}
        stage = self.stage("tokenizer", key, build)
        tell("tokenizer", stage, f"{stage.manifest['vocab_size']:,} pieces of byte-level BPE")
        return Tokenizer.load(stage.path)

    def _units(self) -> UnitTokenizer | None:
        """What cuts text into units, where the model is byte-pooled: as asked, or the base model's own."""
        if self.asked.source is not None:
            base = Path(self.asked.source).expanduser()
            return UnitTokenizer.open(base) if isinstance(read_config(base / "config.json"), BytePoolConfig) else None
        if self.asked.model.family != "byte-pool":
            return None
        shape = derive_shape(self.settled or self.asked)
        return UnitTokenizer(shape.unit, self.asked.tokenizer.pattern) if isinstance(shape, BytePoolConfig) else None

    def shards(self, corpus: Stage, tokenizer: Tokenizer) -> Stage:
        """The training text as token numbers."""
        # Whatever tokenizer the recipe names has been read for the last time.
        forget()
        weights = [spec.weight for spec in self.asked.corpus]

        def build(folder: Path) -> dict[str, Any]:
            train = Documents(corpus.path, "train")
            if isinstance(tokenizer, UnitTokenizer):
                return pack_units(
                    train,
                    tokenizer.units,
                    limit=tokenizer.limit,
                    tokenizer_hash=tokenizer.hash,
                    out=folder,
                    split="train",
                    weights=weights,
                )
            return pack(
                train,
                tokenizer.encode_arrays,
                bos=tokenizer.bos_id,
                eos=tokenizer.eos_id,
                vocab_size=tokenizer.vocab_size,
                tokenizer_hash=tokenizer.hash,
                out=folder,
                split="train",
                weights=weights,
            )

        key = {"format": _FORMATS["shards"], "corpus": corpus.hash, "tokenizer": tokenizer.hash, "weights": weights}
        stage = self.stage("shards", key, build)
        tokens, size = stage.manifest["tokens"], stage.manifest["text_bytes"]
        kind = "unit" if isinstance(tokenizer, UnitTokenizer) else "token"
        tell("shards", stage, f"{count(tokens)} {kind}s, {size / tokens:.3f} bytes a {kind}")
        return stage


def tell(name: str, stage: Stage, text: str) -> None:
    """Say what a stage came to, and whether it was found."""
    say(f"{name:<10} {text}{'' if stage.fresh else '  (found)'}")
