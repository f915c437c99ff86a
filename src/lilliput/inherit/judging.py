"""What layers are judged by: how much text, and how many items of tasks, so that the work stays bounded.

Every layer is left out in turn, alone and with its neighbours; all are compared on the same text, so little of it tells
much. A large teacher is therefore judged by less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lilliput.evaluate.reader import CausalReader
from lilliput.evaluate.task import Task, open_task
from lilliput.inherit.layers import SPANS
from lilliput.train.derive import flops

if TYPE_CHECKING:
    from lilliput.model.config import ModelConfig
    from lilliput.model.decoder import Decoder
    from lilliput.tokenizer.load import Tokenizer

# Work that leaving layers out may cost, FLOPs, for the text and for each task: about a minute on two cores.
_FLOPS = 6e12
_LEAST_BYTES, _MOST_BYTES = 4096, 65_536
_LEAST_ITEMS, _MOST_ITEMS = 100, 500
# Of an item, roughly: a pair of sentences has 20, a question with four answers 100.
_ITEM_TOKENS = 50
# A token is about three bytes or more.
_TOKEN_BYTES = 3
# A sliding window reads most tokens of a text twice.
_READ = 2


def evaluations(config: ModelConfig) -> int:
    """How often the model is measured: whole, and with so many layers left out from each on."""
    return 1 + sum(max(0, config.depth - span + 1) for span in SPANS if span < config.depth)


def _affordable(config: ModelConfig) -> float:
    """Tokens that may be read at each evaluation, of which there are about three for a layer. A forward pass is a third
    of a step of training."""
    return _FLOPS / (flops(config, 1) / 3 * len(SPANS) * config.depth)


def text_bytes(config: ModelConfig) -> int:
    """Bytes of text to judge layers by."""
    return int(min(_MOST_BYTES, max(_LEAST_BYTES, _TOKEN_BYTES * _affordable(config) / _READ)))


def open_tasks(names: Sequence[str], folder: Path | None, config: ModelConfig) -> list[Task]:
    """The tasks to judge layers by, so many items of each, evenly from all. Raises UserError as `open_task` does."""
    items = int(min(_MOST_ITEMS, max(_LEAST_ITEMS, _affordable(config) / _ITEM_TOKENS)))
    return [open_task(name, folder, limit=items) for name in dict.fromkeys(names)]


def task_measures(tasks: Sequence[Task], tokenizer: Tokenizer) -> Mapping[str, Callable[[Decoder], float]]:
    """Of each task its figure (accuracy, where it has one) as a measure of a model."""

    def measure(task: Task) -> Callable[[Decoder], float]:
        def figure(model: Decoder) -> float:
            score = task.score(CausalReader(model, tokenizer), None)
            return score.mean(score.results)[0]

        return figure

    return {task.name: measure(task) for task in tasks}


def judging_flops(config: ModelConfig, tokens: int, tasks: Sequence[Task]) -> float:
    """What judging layers by `tokens` tokens of text and by these tasks costs; the latter as reckoned above."""
    read = _READ * tokens + _ITEM_TOKENS * sum(len(task.items) for task in tasks)
    return flops(config, read) / 3 * evaluations(config)
