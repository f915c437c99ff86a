"""The ladder: what each of PanGu-π Pro's four components buys, at equal parameters and equal training bytes.

    base → + compact tokenizer → + architecture → + inheritance → + several rounds      (arXiv 2402.02791, Fig. 1)

A ladder is settled once (`settle`), tunes each arm's learning rate alike (`rates`), measures its arms as
an ordinary study, times each shape, and ends in `report.html` and `ladder.json`. Every step finds what was done before,
so that the same command goes on, in one process or in several that share the folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lilliput import device as machine
from lilliput.errors import ConfigError
from lilliput.evaluate.statistics import t_quantile
from lilliput.evaluate.task import open_task
from lilliput.lab.grid import fill_path
from lilliput.lab.ladder.ask import Ask
from lilliput.lab.ladder.plan import FOLDER, TEACHER, Plan, known_folder
from lilliput.lab.ladder.rates import tune
from lilliput.lab.ladder.settle import Settling
from lilliput.lab.ladder.speed import measure_speeds
from lilliput.lab.ladder.studies import unfinished, write_studies
from lilliput.lab.ladder.sum import Facts, answer
from lilliput.lab.ladder.work import Work, announce, open_with, pending
from lilliput.lab.study import refuse_torchrun, run_study
from lilliput.progress import say
from lilliput.report.ladder_page import ladder_page
from lilliput.settle import difference
from lilliput.store import Store, locked, read_json, write_atomic, write_json

_STATE = "ladder.json"
# What lies in a folder whose plan is not settled yet, or was refused.
_BEGUN = (".", "held-out-", "tokenizer-")
_IGNORED = "# Made again where they are missing.\nheld-out-*/\ntokenizer-*/\n.locks/\n"


def run_ladder(ask: Ask, out: Path, store: Store | None = None, *, device: str = "auto") -> dict[str, Any]:
    """Make the ladder in the folder `out` and return its answer (`sum.answer`) with `report` and `folder`.

    A finished one answers at once. Raises UserError before any work where none can be made, TrainingError where an arm
    would not train.
    """
    t_quantile(0.975, 1)  # the intervals need SciPy: say so before hours of work, not after
    refuse_torchrun()
    ladder = _Ladder(ask, out.expanduser().absolute(), store or Store(), device, machine.pick_device(device))
    with known_folder(ladder.out):
        return ladder.run()


@dataclass(frozen=True)
class _Ladder:
    """One call of `run_ladder`."""

    ask: Ask
    out: Path
    store: Store
    device: str
    chosen: torch.device

    def run(self) -> dict[str, Any]:
        request = self.ask.request()
        state = self._state(request)
        extent = self.ask.extent()
        if state.get("extent") == extent:
            say(f"finished before: {self.out}")
            return self._placed(state["answer"])
        if self.ask.tasks and "picks" not in state:
            self._check_tasks()
        announce(self.ask)
        plan = self._settled(request, state)
        work = Work(self.ask, plan, self._left(plan, state), self._taught(), self.chosen)
        open_with(self.ask, plan, work, str(self.out))
        picks = state.get("picks") or tune(self.ask, plan, self.out, self.store, self.device, work.told)
        self._keep(request, picks=picks)
        study = write_studies(self.ask, plan, picks, self.out)
        summary = run_study(
            self.out / "study.yaml",
            results=self.out.parent,
            store=self.store,
            device=self.device,
            folder=self.out,
            told=work.told,
        )
        speeds = measure_speeds(self.ask, plan, self.out, self.device)
        found = answer(Facts(self.ask, plan, picks, study, summary, speeds, self.out))
        write_atomic(self.out / "report.html", ladder_page(found))
        self._keep(request, extent=extent, answer=found)
        return self._placed(found)

    def _state(self, request: dict[str, Any]) -> dict[str, Any]:
        """What is known of this ladder in its folder; ConfigError where that holds something else."""
        if self.out.exists() and not self.out.is_dir():
            raise ConfigError("there is a file of that name", where=str(self.out), mend="give another --out")
        file = self.out / _STATE
        if not file.is_file():
            names = [path.name for path in self.out.iterdir()] if self.out.is_dir() else []
            if any(not name.startswith(_BEGUN) for name in names):
                reason = "this folder is not empty and holds no ladder"
                raise ConfigError(reason, where=str(self.out), mend="give another --out")
            return {}
        state: dict[str, Any] = read_json(file)
        if changed := difference(state["request"], request):
            raise ConfigError(
                f"this folder holds a ladder with another {changed.removeprefix('recipe.')}",
                where=str(self.out),
                mend="give another --out, or remove the folder",
            )
        return state

    def _check_tasks(self) -> None:
        """Raise UserError for tasks that cannot be had: now, and not when the learning rates have been tried."""
        folder = Path(fill_path(str(self.ask.data), "--data")).expanduser()
        for name in self.ask.tasks:
            open_task(name, folder)

    def _settled(self, request: dict[str, Any], state: dict[str, Any]) -> Plan:
        """The plan, settled now or before; what it names lies in the folder."""
        settling = Settling(self.ask, self.out, self.store, self.chosen)
        with locked(self.out / ".locks" / "plan.lock", f"the plan of {self.out.name}"):
            known = (read_json(self.out / _STATE) if (self.out / _STATE).is_file() else state).get("plan")
            if known is None:
                plan = settling.plan()
                write_atomic(self.out / ".gitignore", _IGNORED)
                self._keep(request, plan=plan.to_dict())
                return plan
            plan = Plan.from_dict(known)
            if not all(path.exists() for path in self._files(plan)):
                settling.plan()
        return plan

    def _files(self, plan: Plan) -> list[Path]:
        """What the arms' settings name in the ladder's folder."""
        words = [word for arm in plan.arms.values() for word in arm.settings] + plan.choose + plan.judge
        names = {word.partition(f"${FOLDER}/")[2] for word in words}
        return [self.out / name for name in names if name]

    def _left(self, plan: Plan, state: dict[str, Any]) -> list[tuple[str, int, bool]]:
        picks = state.get("picks")
        left = None if picks is None else unfinished(write_studies(self.ask, plan, picks, self.out), self.out)
        return pending(self.ask, plan, self.out, left)

    def _taught(self) -> bool:
        """Whether the teacher has been trained."""
        return any((folder / "cells" / f"{TEACHER}-seed0.json").is_file() for folder in (self.out, self.out / "rates"))

    def _keep(self, request: dict[str, Any], **known: Any) -> None:
        """Add to what is known of this ladder; the last to write has the newest of each part."""
        with locked(self.out / ".locks" / "state.lock", f"the ladder {self.out.name}"):
            file = self.out / _STATE
            before = read_json(file) if file.is_file() else {}
            write_json(file, {**before, "request": request, **known})

    def _placed(self, found: dict[str, Any]) -> dict[str, Any]:
        """The answer with absolute paths: the folder, its report, and each rung's model where it is still at hand."""
        rungs = [{**rung, "model": self._model(rung["cell"])} for rung in found["rungs"]]
        return {**found, "rungs": rungs, "folder": str(self.out), "report": str(self.out / "report.html")}

    def _model(self, cell: str | None) -> str | None:
        place = self.store.root / "cells" / str(cell)[:24] / "model"
        return str(place) if cell and place.is_dir() else None
