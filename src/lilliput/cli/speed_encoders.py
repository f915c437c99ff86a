"""`lilliput speed` of encoders: how long they take to read, by PyTorch and by ONNX Runtime, in one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lilliput.cli import options
from lilliput.cli.outcome import Answer

if TYPE_CHECKING:
    from lilliput.export.onnx import Readable


class Read(NamedTuple):
    """An encoder that is timed. name: as the row shows it."""

    name: str
    model: Readable
    given: bool


def find_encoder(name: str) -> Read | None:
    """The encoder, classifier or committee that a person means, or a recipe of one; None for anything else.

    An encoder without a head of labels is timed with one of two, since that is how it is used. Of a recipe the shape is
    taken, with random weights, and as many pieces as it plans.
    """
    from lilliput.export.committee_dir import is_committee
    from lilliput.export.encoder_dir import is_encoder
    from lilliput.export.onnx import Readable, open_readable
    from lilliput.model.encoder import Classifier, Encoder, initialise_encoder
    from lilliput.plan.encoder import encoder_shape
    from lilliput.recipe import load_recipe, shipped

    path = options.model_folder(Path(name))
    if (path / "config.json").is_file():
        if not is_encoder(path) and not is_committee(path):
            return None
        model = open_readable(path)
        first = model.members[0]
        if isinstance(first, Encoder):
            head = Classifier(first.config, 2)
            initialise_encoder(head, 0)
            head.bert.load_state_dict(first.bert.state_dict(), strict=False)
            model = Readable([head])
        return Read(str(path.absolute()), model, True)
    if not path.is_file() or path.suffix not in (".yaml", ".yml") or name in shipped():
        return None
    from lilliput.errors import ConfigError

    try:
        recipe = load_recipe(str(path))
    except ConfigError:
        return None  # a plan, or nothing that is known: told where decoders are looked for
    if recipe.objective != "masked":
        return None
    classifier = Classifier(encoder_shape(recipe), 2)
    initialise_encoder(classifier, recipe.seed)
    return Read(str(path.absolute()), Readable([classifier]), False)


def speed_of_encoders(found: list[Read], sizes: list[int] | None, threads: int | None, length: int | None) -> Answer:
    """Time them all, one after another. sizes: batches; length: positions of a text, by default each model's most."""
    from lilliput.device import machine, versions
    from lilliput.device import threads as all_threads
    from lilliput.export.onnx import has_runtime

    count = threads or all_threads()
    runtime = has_runtime()
    rows = [row for one in found for row in _rows(one, sizes, count, length, runtime)]
    data = {"rows": rows, "threads": count, "machine": machine(), "versions": versions()}
    return Answer(data, _table(rows, count, runtime))


def _rows(one: Read, sizes: list[int] | None, threads: int, length: int | None, runtime: bool) -> list[dict[str, Any]]:
    import numpy as np
    import torch

    from lilliput.evaluate.encoder_speed import latency
    from lilliput.evaluate.together import BATCHES
    from lilliput.export.onnx import in_runtime, parity
    from lilliput.progress import say

    model, asked = one.model, tuple(dict.fromkeys(sizes or BATCHES))
    places = min(length or model.context, model.context)
    say(f"timing {one.name}")

    def mask(ids: Any) -> Any:
        return np.ones_like(ids)

    torch.set_num_threads(threads)
    with torch.inference_mode():
        ours = latency(
            lambda ids: model(torch.from_numpy(ids), torch.from_numpy(mask(ids))), model.vocab, places, asked
        )
    theirs, apart = [None] * len(ours), None
    if runtime:
        run = in_runtime(model, threads)
        apart = parity(model, run)
        theirs = latency(lambda ids: run(ids, mask(ids)), model.vocab, places, asked)  # type: ignore[assignment]
    return [
        {
            "model": one.name,
            "weights": "given" if one.given else "random",
            "parameters": model.parameters_stored(),
            "members": len(model.members),
            "batch": mine["batch"],
            "positions": places,
            "pytorch": _times(mine),
            "onnx": None if other is None else _times(other),
            "parity": apart,
        }
        for mine, other in zip(ours, theirs, strict=True)
    ]


def _times(row: dict[str, float | int]) -> dict[str, float]:
    return {name: float(row[name]) for name in ("ms", "low", "high")}


def _table(rows: list[dict[str, Any]], threads: int, runtime: bool) -> str:
    from lilliput.plan.rules import counted
    from lilliput.report.text import aligned

    head = ("model", "parameters", "batch", "positions", "PyTorch", *(("ONNX Runtime",) if runtime else ()))
    cells = []
    for row in rows:
        members = f" ({row['members']} members)" if row["members"] > 1 else ""
        name = Path(row["model"])
        shown = name.relative_to(Path.cwd()) if name.is_relative_to(Path.cwd()) else name
        line = [f"{shown}{members}", f"{row['parameters']:,}", str(row["batch"]), str(row["positions"])]
        line += [f"{row[engine]['ms']:.2f} ms" for engine in ("pytorch", "onnx") if row[engine]]
        cells.append(line)
    lines = aligned([head, *cells])
    lines += ["", f"cpu, fp32, {counted(threads, 'thread')}; median of twenty batches after three, no padding"]
    if any(row["members"] > 1 for row in rows):
        lines.append("members: one after another; `lilliput committee` also times them side by side")
    if not runtime:
        lines.append("ONNX Runtime is not installed: pip install 'lilliput[onnx]'")
    return "\n".join(lines)
