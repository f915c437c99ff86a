"""What came of the rounds: how the loss of what was read first changed since, and which text was read again.

PanGu-π Pro's Fig. 9 shows the loss of each part of the first round under the model that ended it; here it stands beside
the loss of the same windows under the final model. The windows are those of a tenth of the run, evenly spread.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lilliput.progress import Progress
from lilliput.train.derive import forward_flops
from lilliput.train.likelihood import window_losses
from lilliput.train.order import Windows, reading
from lilliput.train.replay import Scores, draw_file, read_draw, read_scores, scores_file
from lilliput.train.rounds import Plan

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lilliput.model.config import ModelConfig
    from lilliput.tokenizer.load import Tokenizer
    from lilliput.train.config import TrainConfig

_TEXTS, _CHARACTERS = 10, 240


class Told:
    """The rounds of a finished run, from what its `rounds/` folder holds.

    Raises CheckpointError where files of that folder are damaged or gone.
    """

    def __init__(self, config: TrainConfig, plan: Plan, shards: Windows, folder: Path) -> None:
        self.config, self.plan, self.shards = config, plan, shards
        self.corpus = shards.windows(config.context)
        later = range(1, plan.rounds.count)
        self.scores = {n: read_scores(scores_file(folder, n)) for n in later if plan.scored(n, self.corpus)}
        self.draws = {n: read_draw(draw_file(folder, n)) for n in later if plan.rounds.replays}

    def windows(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The windows at places of the first round's reading."""
        return reading(places, self.corpus, self.plan.seed, self.config.round)

    def forgetting(self, model: nn.Module, device: torch.device) -> list[dict[str, Any]]:
        """For each part: first, the mean loss under the weights that ended the first round; last, under `model`; error,
        the standard error of their difference over windows. Nats a token."""
        places = self.plan.followed()
        windows = self.windows(places)
        first, last = self.scores[1].of(windows), self._losses(model, windows, device)
        part_of = self.plan.part_of(places)
        rows = []
        for part in range(self.plan.rounds.parts):
            here = (part_of == part) & np.isfinite(first) & np.isfinite(last)
            found: dict[str, Any] = {"part": part + 1, "windows": int(here.sum())}
            if here.any():
                change = last[here] - first[here]
                error = float(change.std(ddof=1) / np.sqrt(here.sum())) if here.sum() > 1 else None
                found |= {"first": float(first[here].mean()), "last": float(last[here].mean()), "error": error}
            rows.append(found)
        return rows

    def _losses(
        self, model: nn.Module, windows: NDArray[np.int64], device: torch.device
    ) -> NDArray[np.float64]:
        once, back = np.unique(windows, return_inverse=True)
        losses, size = np.empty(len(once)), self.config.micro_sequences
        with Progress("scoring the first round again", len(once) * self.config.context, "tokens") as progress:
            for begin in range(0, len(once), size):
                batch = self.shards.batch(once[begin : begin + size], self.config.context)
                losses[begin : begin + size] = window_losses(model, batch, self.config.precision, device)
                progress.update((begin + len(batch)) * self.config.context)
        return losses[back]

    def drawn(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """What was read again: of each round how much and how high its loss was, and the texts that were drawn most
        often, those with the highest loss first: there a person sees noise."""
        rounds = [self._round(number) for number in self.draws]
        plan = self.plan
        return {"unit": plan.rounds.unit, "units": plan.units, "rounds": rounds, "most": self._most(tokenizer)}

    def _round(self, number: int) -> dict[str, Any]:
        """evenness: exp(entropy) of the chances over the number of units, mean over parts; 1 where all are alike."""
        plan, units = self.plan, self.draws[number]
        found: dict[str, Any] = {"round": number + 1, "drawn": len(units)}
        if plan.rounds.by_loss:
            losses = self._unit_losses(self.scores[number])
            left = np.setdiff1d(np.arange(plan.units), units)
            found |= {"loss_drawn": _mean(losses[units]), "loss_left": _mean(losses[left])}
            if plan.rounds.weighting == "loss":
                found["evenness"] = _evenness(losses, plan.parts, plan.rounds.temperature)
        return found

    def _unit_losses(self, scores: Scores) -> NDArray[np.float64]:
        plan = self.plan
        places = np.arange(plan.units * plan.unit, dtype=np.int64)
        losses: NDArray[np.float64] = scores.of(self.windows(places)).reshape(plan.units, plan.unit).mean(1)
        return losses

    def _most(self, tokenizer: Tokenizer) -> list[dict[str, Any]]:
        """Of the windows that were scored: those drawn most often, and of these the ones of the highest loss."""
        if not self.draws or 1 not in self.scores:
            return []
        size = self.plan.unit
        places = np.concatenate([(units[:, None] * size + np.arange(size)).ravel() for units in self.draws.values()])
        windows, at, times = np.unique(self.windows(places), return_index=True, return_counts=True)
        losses = self.scores[1].of(windows)
        known = np.flatnonzero(np.isfinite(losses))
        order = known[np.lexsort((-losses[known], -times[known]))][:_TEXTS]
        parts = self.plan.part_of(places[at])
        return [
            {
                "part": int(parts[i]) + 1,
                "times": int(times[i]),
                "loss": float(losses[i]),
                "text": self._text(int(windows[i]), tokenizer),
            }
            for i in order
        ]

    def _text(self, window: int, tokenizer: Tokenizer) -> str:
        """The start of a window as a person reads it: ⏎ for a new line, ¶ where a document begins."""
        ids = self.shards.batch(np.array([window]), self.config.context)[0].tolist()
        pieces: list[list[int]] = [[]]
        for number in ids:
            if number == tokenizer.bos_id:
                pieces.append([])
            else:
                pieces[-1].append(number)
        text = " ¶ ".join(tokenizer.decode(piece) for piece in pieces).replace("\n", " ⏎ ")
        text = " ".join(text.split())
        return text if len(text) <= _CHARACTERS else text[:_CHARACTERS].rstrip() + " …"


def _mean(losses: NDArray[np.float64]) -> float | None:
    known = losses[np.isfinite(losses)]
    return float(known.mean()) if len(known) else None


def _evenness(losses: NDArray[np.float64], parts: NDArray[np.int64], temperature: float) -> float:
    shares = []
    for begin, end in pairwise(parts.tolist()):
        known = losses[begin:end][np.isfinite(losses[begin:end])]
        if len(known):
            p = np.exp((known - known.max()) / temperature)
            p = p[p > 0] / p.sum()
            shares.append(float(np.exp(-(p * np.log(p)).sum())) / len(known))
    return float(np.mean(shares)) if shares else 1.0


def told(
    config: TrainConfig, shards: Windows, folder: Path, model: nn.Module, tokenizer: Tokenizer, device: torch.device
) -> dict[str, Any]:
    """`rounds` of a run's results, nothing for a run without. folder: where its `rounds/` files lie.

    model: the final one, on `device`. Raises CheckpointError where the files are damaged or gone.
    """
    plan = Plan.of(config)
    if plan is None:
        return {}
    found = Told(config, plan, shards, folder)
    return {
        "forgetting": found.forgetting(model, device),
        "drawn": found.drawn(tokenizer) if plan.rounds.replays else None,
        "steps": [int(length) for length in np.diff([0, *plan.ends])],
    }


def scoring_cost(shape: ModelConfig, config: TrainConfig, shards: Windows, folder: Path) -> dict[str, float]:
    """What the scoring of a run with rounds took: tokens, FLOPs and seconds. folder: its `rounds/`."""
    plan = Plan.of(config)
    if plan is None:
        return {"tokens": 0, "flops": 0.0, "seconds": 0.0}
    held = Told(config, plan, shards, folder).scores.values()
    tokens = config.context * sum(len(scores.windows) for scores in held)
    seconds = sum(scores.seconds for scores in held)
    return {"tokens": tokens, "flops": forward_flops(shape, tokens), "seconds": round(seconds, 2)}
