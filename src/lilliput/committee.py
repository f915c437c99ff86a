"""`committee`: classifiers that know nothing of one another, and what they say together (the TLM paper's headline).

Each member has its own seed, and where a recipe makes it its own pre-training too; all have one tokenizer, since they
are saved and served as one model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lilliput import device as machine
from lilliput.classify import Prepared, baseline, odd_sizes, prepare, scores, speak
from lilliput.corpus.layouts import Labelled
from lilliput.encoding import EncoderRun
from lilliput.errors import ConfigError
from lilliput.evaluate.tfidf import NAME, check_baseline
from lilliput.evaluate.together import latency
from lilliput.evaluate.votes import by_size, committee_scores
from lilliput.export.committee_dir import VOTES, save_committee
from lilliput.model.encoder import Classifier
from lilliput.pipeline import make
from lilliput.progress import say
from lilliput.recipe import Recipe
from lilliput.report.classifier_card import committee_card
from lilliput.store import Stage, Store, canonical_hash, check_replaceable, locked, read_json, write_json
from lilliput.tokenizer.load import Tokenizer
from lilliput.tuning import LOGITS, Start, Tuning, encode, fine_tune, load_tuned

# Raised when the same call gives another committee.
_FORMAT = 2
_TIMED = 64


@dataclass(frozen=True)
class Members:
    """Where members come from: a recipe that is made once for each, or encoders that are there. scratch: take their
    shape and tokenizer, never their weights. seeds: one for each member."""

    recipe: Recipe | None
    encoders: tuple[Path, ...]
    seeds: tuple[int, ...]
    scratch: bool = False

    def identity(self) -> list[Any]:
        """What of them decides the committee."""
        if self.recipe is not None:
            # With what the recipe reads, by content: text may change where it lies.
            return [self.recipe.to_dict(), EncoderRun.identify(self.recipe), list(self.seeds), self.scratch]
        begun = [Start.read(folder, scratch=self.scratch).identity() for folder in self.encoders]
        return [begun, list(self.seeds), self.scratch]

    def shared(self) -> bool:
        """Whether several members come from one pre-training."""
        return self.recipe is None and not self.scratch and len(set(self.encoders)) < len(self.seeds)

    def starts(self, out: Path, store: Store, device: str) -> list[Start]:
        """What each member is fine-tuned from; pre-trained here where that is asked. Raises ConfigError where their
        tokenizers differ."""
        if self.recipe is not None:
            folders: list[Path] = []
            for seed in self.seeds:
                say(f"member {len(folders) + 1} of {len(self.seeds)}: pre-training, seed {seed}")
                recipe = self.recipe.model_copy(update={"seed": seed})
                folders.append(Path(make(recipe, out / "members" / str(seed), store, device=device)["model"]))
        else:
            folders = [self.encoders[at % len(self.encoders)] for at in range(len(self.seeds))]
        starts = [Start.read(folder, scratch=self.scratch) for folder in folders]
        if len({start.tokenizer.hash for start in starts}) > 1:
            raise ConfigError(
                "the members have several tokenizers, and so cannot be one model",
                where="committee",
                mend="pre-train them with one: tokenizer.from=FILE",
            )
        return starts


def committee(
    members: Members,
    data: Labelled,
    tuning: Tuning,
    vote: str,
    out: Path,
    store: Store,
    device: str,
) -> dict[str, Any]:
    """Train, test and save a committee in `out/model`. vote: how the saved model sums, one of VOTES; both are measured.

    The same call goes on where a killed one stopped. Returns what `results.json` holds. Raises UserError.
    """
    check_baseline()
    if vote not in VOTES:
        raise ConfigError(f"no way to vote is called {vote!r}", where="--vote", mend=f"one of {', '.join(VOTES)}")
    prepared = prepare(data)
    key = canonical_hash([_FORMAT, members.identity(), prepared.task.identity(), asdict(tuning), vote])
    check_replaceable(out, ("model", "members", "seeds", "results.json", ".*"), set(), members.encoders)
    with locked(out / ".lock", str(out)):
        if (out / "results.json").is_file():
            found = read_json(out / "results.json")
            if found.get("key") != key:
                raise ConfigError("this folder holds another committee", where=str(out), mend="give another --out")
            say(f"finished before: {out}")
            return {**found, "model": str(out / "model"), "run": str(out)}
        starts = members.starts(out, store, device)
        told = prepared.told + odd_sizes(prepared, starts[0], tuning)
        speak(told, data.notes)
        place, stages = machine.pick_device(device), []
        for at, (start, seed) in enumerate(zip(starts, members.seeds, strict=True), 1):
            say(f"member {at} of {len(starts)}: fine-tuning, seed {seed}")
            # All learn from the same rows: with rows of its own each, a committee would know more labels than a member.
            work, draw = out / "seeds" / str(seed), members.seeds[0]
            stages.append(fine_tune(start, prepared.task, tuning, seed, work, store, place, draw))
        labels = len(prepared.task.labels)
        models = [load_tuned(start, stage, labels) for start, stage in zip(starts, stages, strict=True)]
        results = {
            "model": str(out / "model"),
            "run": str(out),
            "data": data.name,
            **_measured(prepared, tuning, starts[0].tokenizer, stages, models),
            "baseline": {"name": NAME, **_baseline(prepared, tuning, members.seeds[0], store)},
            "vote": vote,
            "seeds": list(members.seeds),
            "shared_pretraining": members.shared(),
            "scratch": members.scratch,
            "tuning": {**asdict(tuning), "lr": stages[0].manifest["lr"]},
            "told": told,
            "machine": machine.machine(),
            "versions": machine.versions(),
            "key": key,
        }
        info = {name: value for name, value in results.items() if name not in ("model", "run", "key")}
        card = committee_card(results, prepared.names)
        save_committee(out / "model", models, starts[0].tokenizer, prepared.names, vote, info, card)
        # Last, since the work counts as finished once it is there.
        write_json(out / "results.json", results)
        return results


def _measured(
    prepared: Prepared, tuning: Tuning, tokenizer: Tokenizer, stages: Sequence[Stage], models: Sequence[Classifier]
) -> dict[str, Any]:
    """What the members say together, and how long they take."""
    task = prepared.task
    votes = np.stack([np.load(stage.path / LOGITS) for stage in stages]).astype(np.float64)
    # Members may differ in shape: what is timed has to fit them all.
    narrowest = min((model.config for model in models), key=lambda config: config.context)
    ids, _ = encode(tokenizer, narrowest, task.test.texts[:_TIMED], tuning.length)
    return {
        **committee_scores(votes, task.truth),
        "by_size": by_size(votes, task.truth),
        "latency": latency(models, ids),
        "rows": {"train": len(task.train), "test": len(task.test), "labels": len(task.labels)},
        "parameters": sum(parameter.numel() for model in models for parameter in model.parameters()),
    }


def _baseline(prepared: Prepared, tuning: Tuning, seed: int, store: Store) -> dict[str, Any]:
    return scores(prepared.task, [baseline(prepared.task, tuning, seed, store)])
