"""Decoding speed by the protocol of PanGu-π Pro (2402.02791 §2.2).

Two ids of prefix, 510 new ones, greedy, at batch 20 and 1; two runs to warm up, then the median of five. The clock
runs from the prefix's entry to the last new id; the writer's preparation (`Generator`) counts as loading. Nothing
stops at an end-of-text id, so that every run does the same work.

A speed belongs to a process of its own (`measure_apart`): its peak memory is then the model's, and its threads are
those asked for, whatever the caller has done before.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lilliput import progress
from lilliput.device import pick_device
from lilliput.device import threads as usual_threads
from lilliput.errors import ConfigError
from lilliput.evaluate.apart import call_apart, memory_mark, memory_since
from lilliput.model import Decoder, ModelConfig, initialise
from lilliput.model.generate import Generator

BATCHES, PREFIX, NEW, WARMUPS, REPEATS = (1, 20), 2, 510, 2, 5
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Speed:
    """How fast a model writes.

    batch: texts written at once. prefix, new: ids read first, ids written, each text. seconds: median of `runs`, the
    seconds of each timed run. per_sequence, total: ids a second of one text, and of all. first_token_ms: median time
    from the prefix's entry to the first new id. peak_mb: growth of the process's peak memory (on a GPU: of the
    allocated memory) over what it was before the model was loaded, in 10⁶ bytes; None where not known.
    rewinds: how often a run filled the context and read its last half again.
    """

    batch: int
    prefix: int
    new: int
    seconds: float
    per_sequence: float
    total: float
    first_token_ms: float
    peak_mb: float | None
    device: str
    dtype: str
    threads: int
    runs: tuple[float, ...]
    rewinds: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"runs": list(self.runs)}


def rewinds(context: int, prefix: int, new: int) -> int:
    """How often writing `new` ids after `prefix` fills a context and begins again with its last half."""
    return sum(start == 0 for start, _ in feeds(context, prefix, new)) - 1


def feeds(context: int, prefix: int, new: int) -> Iterator[tuple[int, int]]:
    """(position, length) of every piece that the writer takes in while it writes `new` ids, as `generate` does."""
    position, length = 0, min(prefix, context)
    for _ in range(new):
        if position + length > context:
            position, length = 0, max(1, context // 2)
        yield position, length
        position, length = position + length, 1


def write(writer: Generator, prompt_BT: Tensor, new: int) -> Iterator[Tensor]:
    """The (B,) most likely ids after a prompt, `new` times: what `generate` yields at temperature 0, by a writer
    that is used again."""
    batch, prefix = prompt_BT.shape
    ids_BT = torch.cat((prompt_BT, prompt_BT.new_zeros(batch, new)), dim=1)
    writer.rewind()
    for end, (position, length) in enumerate(feeds(writer.config.context, prefix, new), prefix):
        if position == 0:
            writer.rewind()
        new_B = writer.feed(ids_BT[:, end - length : end]).argmax(-1)
        ids_BT[:, end] = new_B
        yield new_B


@torch.inference_mode()
def measure_speed(
    model: Decoder,
    *,
    batch: int = 1,
    prefix: int = PREFIX,
    new: int = NEW,
    warmups: int = WARMUPS,
    repeats: int = REPEATS,
    seed: int = 0,
    title: str | None = None,
) -> Speed:
    """Measure a model here and now, with the threads this process has; `peak_mb` is None on a CPU.

    seed: draws the prefix. title: names the progress shown; None shows none. Where prefix + new is more than the
    context, the writer reads the last half of it again and goes on, as `generate` does (`Speed.rewinds`).
    Raises ConfigError for a count below what can be measured.
    """
    check_protocol(batch=batch, prefix=prefix, new=new, warmups=warmups, repeats=repeats)
    weight = model.head_weight()
    prompt_BT = _prompt(model.config, batch, prefix, seed).to(weight.device)
    writer = Generator(model, batch)
    runs, firsts = [], []
    with progress.Progress(title or "", (warmups + repeats) * new, "tokens") as bar:
        for run in range(warmups + repeats):
            begin = first = _now(weight.device)
            for made, _ in enumerate(write(writer, prompt_BT, new), 1):
                if made == 1:
                    first = _now(weight.device)
                if title:
                    bar.update(run * new + made)
            if run >= warmups:
                runs.append(_now(weight.device) - begin)
                firsts.append(first - begin)
    seconds = statistics.median(runs)
    return Speed(
        batch=batch,
        prefix=prefix,
        new=new,
        seconds=seconds,
        per_sequence=new / seconds,
        total=batch * new / seconds,
        first_token_ms=1e3 * statistics.median(firsts),
        peak_mb=None,
        device=str(weight.device),
        dtype=next((name for name, kind in DTYPES.items() if kind == weight.dtype), str(weight.dtype)),
        threads=torch.get_num_threads(),
        runs=tuple(runs),
        rewinds=rewinds(model.config.context, prefix, new),
    )


def measure_apart(
    build: Callable[[], Decoder],
    *,
    device: str = "auto",
    dtype: str = "fp32",
    threads: int | None = None,
    title: str | None = None,
    **protocol: int,
) -> Speed:
    """Measure the model that `build()` gives, in a fresh process: `measure_speed` with the peak memory.

    build: a function of a module, or a `partial` of one, so that another process can call it. threads: None takes
    those usual here. protocol: `batch`, `prefix`, `new`, `warmups`, `repeats` and `seed` of `measure_speed`.
    Raises ConfigError for a request that cannot be measured, and what `build` raises.
    """
    check_protocol(**protocol)
    check_dtype(dtype, pick_device(device))
    count = usual_threads() if threads is None else threads
    speed: Speed = call_apart(partial(_measure_here, build, device, dtype, count, title, protocol))
    return speed


def speed_of_shape(shape: ModelConfig, **how: Any) -> Speed:
    """The speed of a shape with random weights, in a fresh process; `how` as `measure_apart` takes it."""
    return measure_apart(partial(random_model, shape, int(how.get("seed", 0))), **how)


def random_model(shape: ModelConfig, seed: int = 0) -> Decoder:
    """A decoder with the starting weights of a run."""
    model = Decoder(shape)
    initialise(model, seed)
    return model


def check_protocol(**counts: int) -> None:
    """ConfigError for a count below what can be measured."""
    for name, value in counts.items():
        least = 0 if name in ("warmups", "seed") else 1
        if value < least:
            raise ConfigError(f"{name} is {value}", where=name, mend=f"give {least} or more")


def check_dtype(dtype: str, device: torch.device) -> None:
    """ConfigError for a type that is unknown or that the device does not compute."""
    if dtype not in DTYPES:
        raise ConfigError(f"no such dtype: {dtype}", where="dtype", mend=" or ".join(DTYPES))
    if dtype == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError("this GPU does not compute in bf16", where="dtype", mend="fp32")


def _measure_here(
    build: Callable[[], Decoder], device: str, dtype: str, threads: int, title: str | None, protocol: dict[str, int]
) -> Speed:
    """In the fresh process: load, measure, and add the peak memory."""
    torch.set_num_threads(threads)
    place = pick_device(device)
    _touch_libraries(place, DTYPES[dtype], protocol.get("batch", 1))
    mark = memory_mark(place)
    model = build().to(place, DTYPES[dtype])
    found = measure_speed(model, title=title, **protocol)
    return Speed(**asdict(found) | {"peak_mb": memory_since(mark, place) / 1e6})


def _touch_libraries(device: torch.device, dtype: torch.dtype, batch: int) -> None:
    """Run every operator once on next to nothing: some 25 MB of library code are loaded when first used, which is
    no model's doing."""
    shape = ModelConfig(
        vocab_size=32, depth=1, width=16, heads=2, kv_heads=1, head_dim=8, ffn=32, bos_id=0, eos_id=0, context=8
    )
    for _ in write(Generator(random_model(shape).to(device, dtype), batch), _prompt(shape, batch, 2, 0).to(device), 12):
        continue


def _prompt(shape: ModelConfig, batch: int, prefix: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(shape.vocab_size, (batch, prefix), generator=random)


def _now(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
