"""The stages of `make`, in order: corpus, tokenizer (trained, taken or cut down), shards, plan, init, train,
evaluate, model directory.

Stages that other runs can share (corpus, tokenizer, shards, finished weights, scores) live in the store,
found by the hash of what made them. What belongs to one run (its settled recipe, checkpoints, metrics, model,
report) lives in the run directory, so a killed run goes on from there with or without the same store.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lilliput.corpus.documents import Documents
from lilliput.corpus.shards import Shards
from lilliput.corpus.unit_shards import UnitShards
from lilliput.distillation import distil_objective, distillation, teacher_flops
from lilliput.encoding import EncoderRun
from lilliput.export.hf import read_config
from lilliput.export.weights import WEIGHTS, read_weights, write_weights
from lilliput.inheritance import inherit_stage
from lilliput.model.build import build
from lilliput.model.config import ModelConfig
from lilliput.model.decoder import Decoder
from lilliput.model.init import initialise
from lilliput.plan.rules import describe
from lilliput.plan.search import derive_shape
from lilliput.progress import say
from lilliput.recipe import Recipe
from lilliput.results import Made, finish, score_on_the_way
from lilliput.run import Run
from lilliput.settle import read_notes, settle, training_identity
from lilliput.store import Stage, Store, file_hash, locked, write_atomic, write_json
from lilliput.texts import Texts, tell
from lilliput.tokenizer.load import Tokenizer
from lilliput.tokenizer.units import UnitTokenizer
from lilliput.train.config import FREE_KEYS, TrainConfig
from lilliput.train.derive import derive, flops
from lilliput.train.exits import exit_flops
from lilliput.train.forgetting import scoring_cost
from lilliput.train.further import trained
from lilliput.train.loop import Evaluator, train
from lilliput.train.objectives import Objective
from lilliput.train.replay import FOLDER as ROUNDS
from lilliput.train.rounds import first_reading

# Raised when the weights change for the same settings, so that older ones are not taken for them.
_WEIGHTS_FORMAT = 1

# Text scored at each evaluation on the way, as a share of the text trained on: ten of them, each reading most text
# twice (sliding windows) at a third of training's cost, then add about 5 % to the run.
_EVALUATION_SHARE = 0.0075


def make(recipe: Recipe, out: Path | str, store: Store | None = None, *, device: str = "auto") -> dict[str, Any]:
    """Make one model: a run directory `out` with the model in it, and what was measured.

    The same call goes on where a killed one stopped and answers at once when it has finished. Under
    `torchrun` the main process returns the results and the others an empty dict. Raises UserError before any
    work where the request cannot be met.
    """
    kind = EncoderRun if recipe.objective == "masked" else DecoderRun
    run = kind.prepare(recipe, Path(out), store or Store(), device)
    main = run.world.main
    with locked(run.folder / ".lock", str(run.folder)) if main else nullcontext():
        # One process looks and decides for all: files appear while the others look.
        found = run.finished() if main else None
        if run.decide(found is not None):
            return found or {}
        return run.make()


class DecoderRun(Run):
    """A causal language model."""

    def make(self) -> dict[str, Any]:
        """Run every stage that is missing."""
        if self.world.main:
            write_json(self.folder / "run.json", training_identity(self.asked, self.inputs))
        settled = self._settled() if self.decide((self.folder / "recipe.yaml").exists()) else None
        texts = Texts(self.asked, self.inputs, self._stage, settled)
        corpus = texts.corpus()
        compacted = texts.compacted(corpus)
        tokenizer = texts.tokenizer(corpus, compacted)
        packed = texts.shards(corpus, tokenizer)
        kind = UnitShards if isinstance(tokenizer, UnitTokenizer) else Shards
        shards = kind(packed.path, "train", tokenizer.hash)
        child = self._child(texts, corpus, compacted, shards)
        base = child.path if child else self._base(compacted)
        shape, config, notes = self._plan(shards, tokenizer, base, settled)
        seen = config.tokens * packed.manifest["text_bytes"] / packed.manifest["tokens"]
        limit = min(self.asked.evaluate.during, int(_EVALUATION_SHARE * seen))
        evaluator = score_on_the_way(tokenizer, Documents(corpus.path, "dev"), limit)

        def objective() -> Objective | None:
            cut, work = compacted.path if compacted else None, self.folder / "answers"
            return distil_objective(self.asked, tokenizer, shape, first_reading(config), shards, cut, work, self.device)

        weights = self._weights(packed.hash, shards, shape, config, evaluator, base, objective)
        if weights is None:
            return {}
        made = Made(
            folder=self.folder,
            key=self._key(),
            asked=self.asked,
            settled=self._settled(),
            notes=notes,
            corpus=corpus,
            tokenizer=tokenizer,
            bytes_per_token=packed.manifest["text_bytes"] / packed.manifest["tokens"],
            shape=shape,
            weights=weights,
            child=child,
            config=config,
            shards=shards,
        )
        return finish(made, self.store, self.device)

    def _child(self, texts: Texts, corpus: Stage, compacted: Stage | None, shards: Shards) -> Stage | None:
        """The model carved out of a bigger one, where that is asked."""
        if self.asked.inherit.teacher is None:
            return None
        return inherit_stage(texts, corpus, compacted, lambda: shards, self.folder / "masks", self.device)

    def _base(self, compacted: Stage | None) -> Path | None:
        """The model that training goes on from, cut down where that is asked; None for a new one."""
        if self.asked.source is None:
            return None
        return compacted.path if compacted else Path(self.asked.source).expanduser()

    def _plan(
        self, shards: Shards, tokenizer: Tokenizer, base: Path | None, settled: Recipe | None
    ) -> tuple[ModelConfig, TrainConfig, list[str]]:
        """Settle shape and training once; a resumed run takes what its `recipe.yaml` says."""
        recipe = self.asked
        if settled:
            # The speed was met when the shape was settled; another timing of the machine must not refuse it now.
            recipe = settled.model_copy(update={"budget": settled.budget.model_copy(update={"speed": None})})
        if base is not None:
            shape = read_config(base / "config.json")
        else:
            shape = derive_shape(recipe, tokenizer.vocab_size)
        shape = replace(
            shape,
            vocab_size=max(shape.vocab_size, tokenizer.vocab_size),
            bos_id=tokenizer.bos_id,
            eos_id=tokenizer.eos_id,
        )
        source = self.asked.source
        before = trained(Path(source).expanduser(), shape.parameters()) if source is not None else None
        size = int(shards.bytes.sum(dtype="u8"))
        config, notes = derive(
            recipe.train, shape, len(shards.tokens), size, self.asked.seed, self.device, before, recipe.rounds
        )
        say(f"plan       {describe(shape)}")
        if settled:
            say(f"training   as settled before in {self.folder / 'recipe.yaml'}")
            return shape, config, read_notes(self.folder / "recipe.yaml")
        for note in notes:
            say(f"           {note}")
        if self.world.main:
            text = settle(self.asked, shape, config)
            header = "".join(f"#   {note}\n" for note in notes)
            write_atomic(self.folder / "recipe.yaml", f"# Settled for this run:\n{header}{text}")
        self.world.wait()
        return shape, config, notes

    def _weights(
        self,
        data: str,
        shards: Shards,
        shape: ModelConfig,
        config: TrainConfig,
        evaluator: Evaluator,
        base: Path | None,
        objective: Callable[[], Objective | None],
    ) -> Stage | None:
        """The finished weights: found, or trained here (None in all but the main process)."""
        key = {
            "format": _WEIGHTS_FORMAT,
            "tokens": data,
            "from": self.inputs["from"],
            **self._lineage(base),
            "shape": shape.identity(),
            # Sums taken by more processes differ in their last bits.
            "processes": self.world.size,
            "train": {name: value for name, value in config.to_dict().items() if name not in FREE_KEYS},
        }
        found = self.store.find("weights", key) if self.world.main else None
        if self.decide(found is not None):
            if found is not None:
                tell("weights", found, f"{shape.parameters():,} parameters")
                shutil.copyfile(found.path / "metrics.jsonl", self.folder / "metrics.jsonl")
            return found
        torch.set_num_threads(config.threads)
        model = self._initial(shape, base)
        done = train(
            model, shards, config, self.folder, device=self.device, evaluator=evaluator, objective=objective()
        )
        if not self.world.main:
            return None

        def publish(folder: Path) -> dict[str, Any]:
            write_weights(folder / WEIGHTS, model)
            shutil.copyfile(self.folder / "metrics.jsonl", folder / "metrics.jsonl")
            own = flops(shape, config.tokens) + exit_flops(shape, config.exits, config.steps, config.tokens)
            cost = {"flops": own + teacher_flops(self.asked, config), **done.to_dict()}
            if config.rounds is not None:
                shutil.copytree(self.folder / ROUNDS, folder / ROUNDS)
                cost["scoring"] = scoring_cost(shape, config, shards, folder / ROUNDS)
                cost["flops"] += cost["scoring"]["flops"]
            return {"cost": cost, "weights": file_hash(folder / WEIGHTS)}

        return self.store.stage("weights", key, publish)

    def _lineage(self, base: Path | None) -> dict[str, Any]:
        """What else decides the weights of a child."""
        if base is None or self.asked.inherit.teacher is None:
            return {}
        teacher = self.inputs["teacher"] if self.asked.inherit.distil else None
        return {"child": base.name, "distil": distillation(self.asked), "teacher": teacher}

    def _initial(self, shape: ModelConfig, base: Path | None) -> Decoder:
        if base is not None:
            return read_weights(base, shape)
        model = build(shape)
        initialise(model, self.asked.seed)
        return model
