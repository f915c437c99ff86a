"""Benchmarks through `lm-eval`: it fetches them from the hub and writes the prompts by its own templates, and our model
answers. For tasks whose data is not here; needs the extra `eval` and the network.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from lilliput.device import versions
from lilliput.errors import UserError
from lilliput.evaluate.kinds import KINDS
from lilliput.evaluate.last_word import perplexity_of
from lilliput.evaluate.reader import Reader
from lilliput.evaluate.score import Score, parts_of
from lilliput.progress import say

if TYPE_CHECKING:
    from lilliput.tokenizer.load import Tokenizer


def installed() -> bool:
    """Whether the extra `eval` is here."""
    return find_spec("lm_eval") is not None


@dataclass
class HubTask:
    """A benchmark of `lm-eval`'s, fetched. said: what its file in tasks/ says. tasks: those of `lm-eval` that it is
    made of, by their names. chosen: of each, the numbers of the items that are asked; None: all. total: items in all.
    asked: the hash of what the last scoring asked."""

    name: str
    said: Mapping[str, Any]
    shots: int
    tasks: dict[str, Any]
    total: int
    chosen: dict[str, list[int]] | None = None
    asked: str = field(default="", init=False)

    def score(self, reader: Reader, title: str | None) -> Score:
        """Score every item. title: of the progress shown, None for none."""
        import lm_eval

        wanted = self.tasks if self.chosen is None else {name: self.tasks[name] for name in self.chosen}
        model = harness_model(reader, title)
        with _on_stderr():
            found = lm_eval.simple_evaluate(
                model=model, tasks=list(wanted.values()), num_fewshot=self.shots, samples=self.chosen,
                bootstrap_iters=0, log_samples=True,
            )  # fmt: skip
        samples = [(name, one) for name in wanted for one in _in_order(found["samples"][name])]
        digest = hashlib.sha256()
        for _, sample in samples:
            digest.update(json.dumps(sample["arguments"], ensure_ascii=False, default=str).encode() + b"\n")
        self.asked = digest.hexdigest()
        return replace(_scored(samples, self.said, list(self.tasks)), tokens=model.tokens, cut=model.cut)

    def row(self, score: Score, tokenizer: Tokenizer) -> dict[str, Any]:
        """As `Task.row`. data_hash: of the prompts and continuations."""
        from lilliput.evaluate.task import protocol

        count = len(score.results)
        return {
            **score.to_dict(),
            "kind": self.said["kind"],
            "of": self.total,
            "whole": count == self.total,
            **protocol(self.shots, tokenizer),
            "data": f"lm-eval: {', '.join(self.tasks)}" if len(self.tasks) < 3 else f"lm-eval: {self.name}",
            "data_hash": self.asked,
            "versions": versions() | {"lm_eval": _version()},
        }


def hub_task(name: str, said: Mapping[str, Any], *, shots: int = 0, limit: int | None = None) -> HubTask:
    """The task, fetched from the hub. limit: as for `open_task`.

    Raises UserError where `lm-eval` has no such task, or the hub cannot be reached.
    """
    if shots and not KINDS[said["kind"]].prompted:
        raise UserError(f"{name} takes no examples", where="--shots", mend="leave --shots out")
    say(f"{name}: lm-eval looks for its task and fetches the data")
    names = said["lm_eval"] if isinstance(said["lm_eval"], list) else [said["lm_eval"]]
    try:
        with _on_stderr():
            from lm_eval.tasks import TaskManager

            tasks = TaskManager().load(list(names))["tasks"]
            sizes = {one: len(task.eval_docs) for one, task in tasks.items()}
    # What a missing network, a set that is no longer there, and one that must be asked for raise.
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        mend = f"connect to the network, or put its rows in a folder DIR and add --data DIR: {said['source']}"
        raise UserError(f"{name} cannot be fetched: {reason}", where="lm-eval", mend=mend) from None
    total = sum(sizes.values())
    chosen = None if limit is None or limit >= total else _evenly(sizes, limit, total)
    return HubTask(name, said, shots, tasks, total, chosen)


def _evenly(sizes: Mapping[str, int], limit: int, total: int) -> dict[str, list[int]]:
    """So many items, evenly from all: of each task that has one, their numbers."""
    every = [(name, number) for name, size in sizes.items() for number in range(size)]
    chosen: dict[str, list[int]] = {}
    for at in range(limit):
        name, number = every[at * total // limit]
        chosen.setdefault(name, []).append(number)
    return chosen


def harness_model(reader: Reader, title: str | None) -> Any:
    """The model as `lm-eval` asks for one: an `LM` of its own, which begins each text with BOS. It counts the tokens
    scored and the texts cut."""
    from lm_eval.api.model import LM

    class Harness(LM):  # type: ignore[misc]
        tokens = cut = 0

        def loglikelihood(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
            found = reader.likelihoods([request.args for request in requests], title)
            self.tokens, self.cut = self.tokens + found.tokens, self.cut + found.cut
            return list(zip(found.log_p.tolist(), found.greedy.tolist(), strict=True))

        def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
            raise UserError("no text is scored as a whole this way", mend="lilliput evaluate MODEL --text FILE")

        def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
            raise UserError("lm-eval's tasks that ask for writing are not run", mend="take another task")

    return Harness()


def _in_order(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(samples, key=lambda sample: int(sample["doc_id"]))


def _scored(samples: Sequence[tuple[str, Mapping[str, Any]]], said: Mapping[str, Any], names: Sequence[str]) -> Score:
    """The score of `lm-eval`'s samples, each with the name of its task there."""
    right = np.array([bool(sample["acc"]) for _, sample in samples])
    parts = said.get("parts", KINDS[said["kind"]].parts)
    held = None
    if parts:
        groups = [_part(name, sample["doc"], said, parts, names) for name, sample in samples]
        own = [sample["doc"].get(parts.get("category", "")) for _, sample in samples]
        held = parts_of(groups, own, parts, said.get("categories", {}))
    if said["kind"] == "last-word":
        log_p = np.array([float(sample["filtered_resps"][0][0]) for _, sample in samples])
        return Score(right, values={"log_p": log_p}, figures=perplexity_of(log_p), parts=held)
    if said["kind"] == "pairs":
        return Score(right, parts=held)
    norm = [_right_per_byte(sample) for _, sample in samples]
    return Score(right, None if None in norm else np.array(norm, bool), parts=held)


def _right_per_byte(sample: Mapping[str, Any]) -> bool | None:
    """Whether the likeliest choice for each of its bytes is right; None where the sample does not say what is."""
    choices = [arguments[1].removeprefix(" ") for arguments in sample["arguments"]]
    sizes = np.array([len(choice.encode()) for choice in choices])
    if len(set(sizes.tolist())) == 1:
        return bool(sample["acc"])
    best = (np.array([float(answer[0]) for answer in sample["filtered_resps"]]) / sizes).argmax()
    target = sample["target"]
    if isinstance(target, str):
        try:
            target = ast.literal_eval(target)
        except (ValueError, SyntaxError):
            return None if target not in choices else bool(best == choices.index(target))
    return bool(best in (target if isinstance(target, list) else [target]))


def _part(
    name: str, doc: Mapping[str, Any], said: Mapping[str, Any], parts: Mapping[str, Any], names: Sequence[str]
) -> str:
    """A sample's part: what its row says, or else what sets its task's name apart from the others'."""
    given = doc.get(parts.get("field", ""))
    if isinstance(given, str):
        return given
    start = names[0]
    while not all(one.startswith(start) for one in names):
        start = start[:-1]
    # A common beginning ends with a whole word.
    own = name[start.rfind("_") + 1 :] if len(names) > 1 else name
    dashed = own.replace("_", "-")
    return dashed if any(dashed in held for held in said.get("categories", {}).values()) else own


@contextlib.contextmanager
def _on_stderr() -> Iterator[None]:
    """What `lm-eval` prints stands beside the result, and what it logs is kept to what went wrong."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(level)


def _version() -> str:
    from importlib.metadata import version

    return version("lm_eval")
