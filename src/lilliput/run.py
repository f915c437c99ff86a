"""One call of `make`, whatever it makes: the request checked, the run's folder looked at, the store asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from lilliput import device as machine
from lilliput.errors import ConfigError
from lilliput.progress import configure, say
from lilliput.recipe import Recipe, build_recipe
from lilliput.results import FILES, places
from lilliput.settle import FREE_SETTINGS, check_request, difference, identify, training_identity
from lilliput.store import Stage, Store, canonical_hash, clear_abandoned, read_json
from lilliput.train import parallel


@dataclass
class Run:
    """One call of `make`. asked: the recipe as given. inputs: content hashes of all it reads."""

    asked: Recipe
    inputs: dict[str, Any]
    folder: Path
    store: Store
    device: torch.device
    world: parallel.World

    @classmethod
    def prepare(cls, recipe: Recipe, out: Path, store: Store, device: str) -> Run:
        """Check the request; nothing is written yet."""
        chosen = machine.pick_device(device)
        cls.check(recipe)
        if out.exists() and not out.is_dir():
            raise ConfigError("the run directory is a file", where=str(out), mend="give another --out")
        world = parallel.start(chosen)
        if world.size > 1 and (recipe.inherit.distil or recipe.inherit.neurons == "learned"):
            reason = "masks and distillation are learned in one process"
            mend = "start it without torchrun, or `lilliput inherit` first and then from=CHILD"
            raise ConfigError(reason, where="inherit", mend=mend)
        if not world.main:
            configure(quiet=True)
        return cls(recipe, cls.identify(recipe), out.absolute(), store, chosen, world)

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """Refuse what cannot be made. Raises UserError."""
        check_request(recipe)

    @classmethod
    def identify(cls, recipe: Recipe) -> dict[str, Any]:
        """Content hashes of everything the run reads."""
        return identify(recipe)

    def make(self) -> dict[str, Any]:
        """Run every stage that is missing; the results."""
        raise NotImplementedError

    def decide(self, flag: bool) -> bool:
        """The main process's `flag`, in every process."""
        return self.world.total([float(flag and self.world.main)], self.device)[0] > 0

    def finished(self) -> dict[str, Any] | None:
        """The results of this very run, if it has finished here; ConfigError if the folder holds another."""
        begun = self.folder / "run.json"
        visible = [path for path in self.folder.iterdir() if not path.name.startswith(".")]
        if begun.exists():
            changed = difference(read_json(begun), training_identity(self.asked, self.inputs))
            if changed:
                raise ConfigError(
                    f"this folder holds a run with another {changed}",
                    where=str(self.folder),
                    mend="give another --out, or remove the folder",
                )
        elif visible:
            raise ConfigError(
                "this folder is not empty and holds no run", where=str(self.folder), mend="give another --out"
            )
        for name in FILES:
            clear_abandoned(self.folder / name)
        results = self.folder / "results.json"
        if results.exists() and (found := read_json(results))["key"] == self._key():
            say(f"finished before: {self.folder}")
            # The folder may have been moved since.
            return {**found, **places(self.folder)}
        return None

    def _key(self) -> str:
        return canonical_hash({"asked": self.asked.to_dict(), "inputs": self.inputs})

    def _settled(self) -> Recipe:
        """The settled recipe; what the weights do not depend on may have been asked anew."""
        text = (self.folder / "recipe.yaml").read_text(encoding="utf-8")
        values = yaml.safe_load(text)
        asked = self.asked.to_dict()["train"]
        values["train"] |= {name: asked[name] for name in FREE_SETTINGS if asked[name] is not None}
        return build_recipe(values, where=str(self.folder / "recipe.yaml"))

    def _stage(self, name: str, key: dict[str, Any], build: Any) -> Stage:
        """A stage of the store; under torchrun the main process builds and the others then find it."""
        if self.world.main:
            stage = self.store.stage(name, key, build)
            self.world.wait()
            return stage
        self.world.wait()
        found = self.store.find(name, key)
        if found is None:
            raise ConfigError(
                "the processes do not share one store",
                where=str(self.store.root),
                mend="set LILLIPUT_STORE to a folder that all of them see",
            )
        return found
