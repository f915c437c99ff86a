"""`lilliput evaluate`: how well a model predicts given text, and how it does on tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lilliput.cli import options
from lilliput.cli.outcome import Answer

if TYPE_CHECKING:
    import torch

    from lilliput.evaluate.noise import Noise
    from lilliput.model.decoder import Decoder
    from lilliput.model.early_exit import ExitReader, Exits
    from lilliput.tokenizer.load import Tokenizer


# What a task's items are divided into, the first that it has being shown.
_DIVISIONS = ("phenomena", "corruptions", "categories", "parts")


def evaluate(
    model: options.Model,
    more: Annotated[list[str] | None, typer.Argument(metavar="FILE…", help="Further files of text.")] = None,
    text: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Text, JSONL or Parquet; may be repeated.")
    ] = None,
    field: Annotated[str, typer.Option(help="The JSONL or Parquet field that holds the text.")] = "text",
    task: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A task such as blimp; may be repeated.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder that holds the tasks' rows.", show_default=False)
    ] = None,
    shots: Annotated[int, typer.Option(help="Examples before each item, where the data has them apart.", min=0)] = 0,
    exit_at: Annotated[
        list[float] | None,
        typer.Option("--exit", metavar="P", help="Also with each token leaving where it is so sure; may be repeated."),
    ] = None,
    exit_layers: options.ExitLayers = None,
    limit: Annotated[
        int | None, typer.Option(help="Take so many items of each task, for a quick look.", min=1, show_default=False)
    ] = None,
    noise: Annotated[
        list[float] | None,
        typer.Option(metavar="SHARE", help="Also with so many characters spoilt, such as 0.05; may be repeated."),
    ] = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> Answer:
    """Measure bits per byte on files of text, with a 95 % interval over documents, and accuracy on tasks."""
    options.be_quiet(quiet)
    from lilliput.errors import UserError

    sources = [*(text or []), *(more or [])]
    if not sources and not task:
        mend = "name a file: --text FILE; or a task: --task NAME --data DIR"
        raise UserError("nothing to evaluate on", where="lilliput evaluate", mend=mend)
    from lilliput.device import pick_device
    from lilliput.evaluate.noise import Noise
    from lilliput.evaluate.task import Task, find_task, run_task
    from lilliput.export.hf import load_model_dir

    noises = [Noise(rate) for rate in dict.fromkeys(noise or [])]
    if exit_at and not sources:
        raise UserError("exits are measured on text", where="--exit", mend="name a file: --text FILE")
    if exit_layers is not None and not exit_at:
        raise UserError("exits need a threshold", where="--exit-layers", mend="give --exit, such as --exit 0.9")
    path, place = options.model_folder(model), pick_device(device)
    # Every name once, in the order asked; what is wrong with the data is said before the work begins.
    folder = None if data is None else data.expanduser()
    tasks = [find_task(name, folder, shots=shots, limit=limit) for name in dict.fromkeys(task or [])]
    own = [one for one in tasks if isinstance(one, Task)]
    if noises and len(own) < len(tasks):
        raise UserError("the hub's rows cannot be spoilt", where="--noise", mend="give the tasks' rows: --data DIR")
    decoder, tokenizer = load_model_dir(path, place)
    asked = [] if not exit_at else _exits(decoder, exit_at, exit_layers)
    answer: dict[str, Any] = {"model": str(path.absolute()), "bits_per_byte": None}
    if sources:
        answer |= _on_text(decoder, tokenizer, sources, field, place)
    if asked:
        answer["exits"] = [_leaving(decoder, tokenizer, exits, sources, field, place) for exits in asked]
    answer["tasks"] = {one.name: run_task(decoder, tokenizer, one) for one in tasks}
    if noises:
        answer["noise"] = []
    for one_noise in noises:
        spoilt: dict[str, Any] = {"rate": one_noise.rate, "bits_per_byte": None}
        if sources:
            spoilt |= _on_text(decoder, tokenizer, sources, field, place, one_noise)
        spoilt["tasks"] = {one.name: run_task(decoder, tokenizer, one.noisy(one_noise)) for one in own}
        answer["noise"].append(spoilt)
    return Answer(answer, "\n".join(_lines(answer)))


def _exits(decoder: Decoder, thresholds: list[float], layers: str | None) -> list[Exits]:
    from lilliput.cli.skip import layers_of
    from lilliput.model.early_exit import Exits

    return [Exits.of(decoder.config, threshold, layers_of(layers)) for threshold in dict.fromkeys(thresholds)]


def _leaving(
    decoder: Decoder, tokenizer: Tokenizer, exits: Exits, sources: list[str], field: str, place: torch.device
) -> dict[str, Any]:
    """What the text costs, in bits and in layers, where each token leaves at the confidence."""
    from lilliput.model.early_exit import ExitReader

    reader = ExitReader(decoder, exits)
    score = _on_text(reader, tokenizer, sources, field, place)
    return {
        "threshold": exits.threshold,
        "layers": list(exits.layers),
        "bits_per_byte": score["bits_per_byte"],
        "layers_used": reader.layers_used(),
        "depth": decoder.config.depth,
        "arithmetic": reader.arithmetic(),
    }


def _on_text(
    decoder: Decoder | ExitReader,
    tokenizer: Tokenizer,
    sources: list[str],
    field: str,
    place: torch.device,
    noise: Noise | None = None,
) -> dict[str, Any]:
    from lilliput.corpus.report import ReadReport
    from lilliput.corpus.sources import read_source
    from lilliput.evaluate.bits import bits_per_byte
    from lilliput.recipe import SourceSpec

    report = ReadReport()
    documents = (
        document
        for source in sources
        for document in read_source(SourceSpec(source=source, field=field), report, whole=True)
    )
    bits = bits_per_byte(decoder, tokenizer, noise.documents(documents) if noise else documents, device=place)
    report.warn()
    score = bits.to_dict()
    name_of = "pseudo_bits_per_byte" if bits.pseudo else "bits_per_byte"
    return {
        name_of: {name: score.pop(name) for name in ("value", "low", "high")},
        **score,
        "text": [_named(source) for source in sources],
    }


def _named(source: str) -> str:
    """A file or folder by its absolute path; a pattern, `hf:` or `builtin:` source as given."""
    path = Path(source).expanduser()
    return str(path.absolute()) if path.exists() else source


def _lines(answer: dict[str, Any]) -> list[str]:
    lines = []
    pseudo = "pseudo_bits_per_byte" in answer
    if bits := answer["pseudo_bits_per_byte" if pseudo else "bits_per_byte"]:
        if bits["low"] is None:
            interval = "no interval: it takes two documents or more"
        else:
            interval = f"95 % interval {bits['low']:.4f} to {bits['high']:.4f}"
        lines.append(f"{'pseudo bits' if pseudo else 'bits'} per byte  {bits['value']:.4f}  ({interval})")
        if pseudo:
            lines.append("pseudo: each byte of a unit by itself; not to be held against a likelihood's")
        lines.append(f"measured on    {answer['documents']:,} documents, {answer['bytes']:,} bytes")
    if answer.get("exits"):
        from lilliput.report.text import aligned

        lines += ["", *aligned([_exit_row(row, answer["bits_per_byte"]["value"]) for row in answer["exits"]])]
    if answer["tasks"]:
        from lilliput.report.text import aligned

        rows = [row for name, score in answer["tasks"].items() for row in _rows(name, score)]
        lines += ["", *aligned(rows)] if lines else aligned(rows)
        if cut := [f"{name} {score['cut']:,} texts" for name, score in answer["tasks"].items() if score["cut"]]:
            lines += ["", f"too long for the model's context, so cut: {', '.join(cut)}"]
    for spoilt in answer.get("noise", ()):
        lines += ["", f"with {spoilt['rate']:.2%} of the characters spoilt:", *_lines(spoilt)]
    return lines


def _exit_row(row: dict[str, Any], whole: float) -> list[str]:
    """An exit's line: threshold, layers, loss, work."""
    value = row["bits_per_byte"]["value"]
    return [
        f"exit at {row['threshold']:g}",
        f"{row['layers_used']:.2f} of {row['depth']} layers",
        f"bits per byte {value:.4f} ({value / whole - 1:+.1%})",
        f"{row['arithmetic']:.0%} of the arithmetic",
    ]


def _rows(name: str, score: dict[str, Any]) -> list[list[str]]:
    """A task's line: accuracy ± standard error in points, what else it gives, items; then its categories, or else its
    parts where they are few."""
    if score["acc"] is None:
        main, beside = f"ROUGE-L {_points(score['rougeL'], score['rougeL_stderr'])}", _further(score)
    else:
        main, beside = _points(score["acc"], score["stderr"]), _further(score)
    rows = [[name, main, beside, _items(score)]]
    divided: dict[str, Any] = next((score[under] for under in _DIVISIONS if score.get(under)), {})
    for part, own in divided.items():
        norm = f"by bytes {own['acc_norm']:.2%}" if beside and "acc_norm" in own else ""
        rows.append([f"  {part}", _points(own["acc"], own["stderr"]), norm, f"{own['items']:,} items"])
    return rows


def _further(score: dict[str, Any]) -> str:
    """What a task gives beside its main figure, where that is another."""
    if score["acc"] is None:
        return f"ROUGE-1 {score['rouge1']:.2%}, ROUGE-2 {score['rouge2']:.2%}"
    if score.get("all") is not None:
        return f"before all 13 in {_points(score['all'], score['all_stderr'])} of {score['stories']:,} stories"
    if score.get("perplexity") is not None:
        return f"perplexity {score['perplexity']:,.1f}"
    return "" if score["acc_norm"] is None else f"by bytes {_points(score['acc_norm'], score['stderr_norm'])}"


def _items(score: dict[str, Any]) -> str:
    """How many items, of how many, and how they were asked and counted."""
    part = f" of {score['of']:,}" if score["items"] < score["of"] else ""
    text = f"{score['items']:,}{part} items"
    if score["shots"]:
        text += f", {score['shots']} shots"
    of = score.get("mean_of", "items")
    return text if of == "items" else f"{text}, mean of {len(score[of])} {of}"


def _points(share: float, error: float | None) -> str:
    return f"{share:.2%}" + ("" if error is None else f" ± {100 * error:.2f}")
