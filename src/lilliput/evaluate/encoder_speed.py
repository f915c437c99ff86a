"""How long an encoder takes to read: the median milliseconds of a batch, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lilliput.device import threads as all_threads
from lilliput.evaluate.together import BATCHES, timed
from lilliput.model.encoder import Classifier, initialise_encoder
from lilliput.model.encoder_config import EncoderConfig

Ids = npt.NDArray[np.int64]


def texts_of(vocab: int, size: int, length: int) -> Ids:
    """Texts of random pieces, none of them padded: (size, length)."""
    rng = np.random.default_rng(0)
    return rng.integers(0, vocab, (size, length))


def latency(
    read: Callable[[Ids], Any], vocab: int, length: int, sizes: Sequence[int] = BATCHES
) -> list[dict[str, float | int]]:
    """For each batch size {batch, ms, low, high}: the median of twenty calls of `read` after three, and the quartiles.

    length: positions of each text."""
    rows: list[dict[str, float | int]] = []
    for size in sizes:
        ids = texts_of(vocab, size, length)
        rows.append({"batch": size, **timed(lambda ids=ids: read(ids))})  # type: ignore[misc]
    return rows


def latency_of_shape(config: EncoderConfig, members: int = 1) -> list[dict[str, float | int]]:
    """`latency` of so many classifiers of a shape, one after another with all threads, their weights random."""
    models = [Classifier(config, 2).eval() for _ in range(members)]
    for seed, model in enumerate(models):
        initialise_encoder(model, seed)

    def read(ids: Ids) -> None:
        for model in models:
            model(torch.from_numpy(ids))

    before = torch.get_num_threads()
    torch.set_num_threads(all_threads())
    try:
        with torch.inference_mode():
            return latency(read, config.vocab_size, config.context)
    finally:
        torch.set_num_threads(before)
