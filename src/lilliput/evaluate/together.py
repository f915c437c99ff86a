"""How long a committee takes: its members one after another with all threads, or side by side with one thread each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lilliput.device import threads
from lilliput.model.encoder import Classifier

_WARM, _TIMES = 3, 20
BATCHES = (1, 32)


def latency(members: Sequence[Classifier], ids_NS: npt.NDArray[Any]) -> list[dict[str, Any]]:
    """Median milliseconds for a batch of 1 and of 32 texts, on the CPU: of one member, of all members one after
    another, and of all at once in threads; with the quartiles. ids_NS: int32 rows of ids, PAD behind them."""
    models = [member.cpu().eval() for member in members]
    before = torch.get_num_threads()
    all_threads, rows = threads(), []
    try:
        for size in BATCHES:
            batch = torch.from_numpy(np.resize(ids_NS, (size, ids_NS.shape[1])).astype(np.int64))
            torch.set_num_threads(all_threads)
            one = timed(lambda batch=batch: _read(models[0], batch))  # type: ignore[misc]
            turns = timed(lambda batch=batch: [_read(model, batch) for model in models])  # type: ignore[misc]
            with ThreadPoolExecutor(len(models), initializer=lambda: torch.set_num_threads(1)) as pool:
                beside = timed(lambda batch=batch, pool=pool: list(pool.map(lambda m: _read(m, batch), models)))  # type: ignore[misc]
            rows.append({"batch": size, "one_member": one, "one_after_another": turns, "in_parallel": beside})
    finally:
        torch.set_num_threads(before)
    return rows


def _read(model: Classifier, batch: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(batch)
        return logits


def timed(work: Callable[[], Any]) -> dict[str, float]:
    """Milliseconds: median and quartiles of twenty calls, after three that do not count."""
    for _ in range(_WARM):
        work()
    found = []
    for _ in range(_TIMES):
        begin = time.perf_counter()
        work()
        found.append(1000 * (time.perf_counter() - begin))
    low, middle, high = np.quantile(found, [0.25, 0.5, 0.75])
    return {"ms": round(float(middle), 3), "low": round(float(low), 3), "high": round(float(high), 3)}
