"""Inheritance: the smaller model that a recipe asks to carve out of a bigger one, for `lilliput inherit` and `make`.

PanGu-π Pro §3.2: choose layers, then heads, FFN neurons and hidden channels; copy the sub-matrices; train on. The text
that layers and neurons are judged by comes from the training part of the corpus, the scores of teacher and child from
its held-out part.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lilliput.carving import Carved, Carving
from lilliput.corpus.documents import Documents
from lilliput.corpus.shards import Shards
from lilliput.device import total_memory
from lilliput.evaluate.bits import Bits, bits_per_byte
from lilliput.export.hf import save_model_dir
from lilliput.lineage import child_of, layers_how, teacher_of
from lilliput.model.decoder import Decoder
from lilliput.plan.rules import describe
from lilliput.progress import count
from lilliput.recipe import Recipe
from lilliput.report.inherit_page import inherit_page
from lilliput.results import up_to
from lilliput.settle import check_request, identify
from lilliput.store import (
    Stage,
    Store,
    atomic_dir,
    canonical_hash,
    check_replaceable,
    file_hash,
    write_atomic,
    write_json,
)
from lilliput.texts import Texts, tell

# Raised when the child changes for the same settings, so that an older one is not taken for it.
_FORMAT = 1
# Text that teacher and child are scored on, at most.
_SCORED_BYTES = 500_000
# Share of the machine's memory that a whole teacher may take.
_ROOM = 0.5
# What `lilliput inherit` writes.
_OURS = (
    "inherit.json", "report.html", "lilliput.json", "config.json", "generation_config.json", "model*.safetensors",
    "tokenizer.json", "tokenizer_config.json", "README.md", "*.py", "LICEN[SC]E*", "NOTICE*", "COPYING*",
)  # fmt: skip


def inherit_model(recipe: Recipe, out: Path, store: Store, device: torch.device) -> dict[str, Any]:
    """Carve the child that `recipe.inherit` asks for and write it to the folder `out`, with `report.html`.

    Returns the report with the places of what was written. Raises UserError before any work where the request cannot
    be met. The same call goes on where a killed one stopped, and copies what was carved before.
    """
    place = Path(str(recipe.inherit.teacher)).expanduser()
    check_replaceable(out, _OURS, {"inherit.json"}, never=(place, place.parent))
    check_request(recipe)
    texts = Texts(recipe, identify(recipe), store.stage)
    corpus = texts.corpus()
    compacted = texts.compacted(corpus)
    tokenizer = texts.tokenizer(corpus, compacted)

    def shards() -> Shards:
        return Shards(texts.shards(corpus, tokenizer).path, "train", tokenizer.hash)

    stage = inherit_stage(texts, corpus, compacted, shards, store.root / "inherit", device)
    told = stage.manifest
    places = {"teacher": place, "child": out}
    report = {**told, **{name: {**told[name], "place": str(where)} for name, where in places.items()}}
    _copy(stage, report, out)
    bits = report["bits_per_byte"]
    return {
        **report,
        "out": str(out),
        "report": str(out / "report.html"),
        "bits_per_byte": {name: found and found["value"] for name, found in bits.items()},
        "held_out": bits,
    }


def _copy(stage: Stage, report: dict[str, Any], out: Path) -> None:
    with atomic_dir(out) as folder:
        for file in stage.path.iterdir():
            if file.name != "manifest.json":
                shutil.copyfile(file, folder / file.name)
        write_json(folder / "inherit.json", report)
        write_atomic(folder / "report.html", inherit_page(report))


def inherit_stage(
    texts: Texts,
    corpus: Stage,
    compacted: Stage | None,
    shards: Callable[[], Shards],
    work: Path,
    device: torch.device,
) -> Stage:
    """The child as a stage of the store: a model directory, whose manifest is the report.

    shards: the training text as the teacher's tokens, asked for only where masks are learned. work: where unfinished
    learning is kept.
    """
    asked = texts.asked
    teacher = teacher_of(asked, compacted.path if compacted else None)
    shape = child_of(asked, teacher.config)
    how = asked.to_dict()["inherit"]
    for later in ("teacher", "tokenizer", "distil", "temperature", "top", "tasks", "data"):
        how.pop(later, None)
    judged = {"tasks": texts.inputs["tasks"]} if "tasks" in texts.inputs else {}
    key = {
        "format": _FORMAT,
        "teacher": compacted.hash if compacted else texts.inputs["teacher"],
        "corpus": corpus.hash,
        "shape": shape.identity(),
        "how": how,
        **judged,
        "scored": _scored_bytes(asked),
        "seed": asked.seed,
    }
    unfinished = work / f"unfinished-{canonical_hash(key)[:24]}"

    def build(folder: Path) -> dict[str, Any]:
        if asked.train.threads is not None:
            torch.set_num_threads(asked.train.threads)
        carving = Carving(asked, teacher, shape, corpus.path, shards, unfinished, device)
        return _write(carving, carving.run(), folder)

    stage = texts.stage("inherit", key, build)
    shutil.rmtree(unfinished, ignore_errors=True)
    bits = stage.manifest["bits_per_byte"]
    before = f", the teacher {bits['teacher']['value']:.4f}" if bits["teacher"] else ""
    tell("inherit", stage, f"{describe(shape)}; {bits['child']['value']:.4f} bits per byte right after{before}")
    return stage


def _write(carving: Carving, carved: Carved, folder: Path) -> dict[str, Any]:
    """Score the child, write it to `folder`; the report."""
    report = _report(carving, carved, _scores(carving, carved.child))
    info = {"inherit": {name: report[name] for name in ("teacher", "layers", "neurons", "bits_per_byte", "cost")}}
    model, teacher = folder / "model", carving.teacher
    save_model_dir(model, carved.child.to(teacher.dtype), teacher.tokenizer, info, beside=teacher.beside())
    for file in model.iterdir():
        file.rename(folder / file.name)
    model.rmdir()
    return {**report, "weights": file_hash(folder / "model.safetensors")}


def _scored_bytes(asked: Recipe) -> int:
    return min(_SCORED_BYTES, asked.evaluate.bytes)


def _scores(carving: Carving, child: Decoder) -> dict[str, Any]:
    """Bits per byte of both on the held-out part of the corpus; no teacher's where it would not fit.

    The child is scored as it is written: rounded, where the teacher's type is narrower.
    """
    texts = list(up_to(Documents(carving.corpus, "dev"), _scored_bytes(carving.asked)))

    def bits(model: Decoder, title: str) -> Bits:
        return bits_per_byte(model, carving.teacher.tokenizer, texts, title=f"evaluating the {title}")

    with carving.cost.of("evaluate"):
        after = bits(child.float().to(carving.device), "child")
        before = bits(carving.model, "teacher") if _fits(carving) else None
    return {
        "held_out": {"documents": len(texts), "bytes": sum(len(text.encode()) for text in texts)},
        "bits_per_byte": {"teacher": before.to_dict() if before else None, "child": after.to_dict()},
    }


def _fits(carving: Carving) -> bool:
    """Whether the whole teacher, fp32, has room here."""
    if carving.in_memory:
        return True
    need, room = 4 * carving.teacher.config.parameters(), _ROOM * (total_memory() or 8 << 30)
    if need <= room:
        return True
    carving.notes.append(f"the teacher was not scored: it takes {count(need)}B of memory")
    return False


def _report(carving: Carving, carved: Carved, scores: dict[str, Any]) -> dict[str, Any]:
    parent, shape, how, kept = carving.teacher.config, carving.shape, carving.how, carved.kept
    masks = carved.masks
    return {
        "teacher": {
            "name": _name(carving.asked), "kind": carving.teacher.kind,
            "parameters": parent.parameters(), "shape": parent.identity(),
        },
        "child": {"parameters": shape.parameters(), "shape": shape.identity()},
        "parameters": shape.parameters(),
        "layers": {
            "how": "all" if shape.depth == parent.depth else layers_how(how),
            "kept": list(kept.layers),
            "scores": carved.scores.to_dict() if carved.scores else None,
        },
        "neurons": {
            "how": how.neurons,
            "kept": {"hidden": len(kept.hidden), "ffn": len(kept.ffn[0]), "kv_heads": len(kept.kv_head[0])},
            "hidden": list(kept.hidden),
            "heads": [list(members) for members in kept.kv_head],
        },
        "masks": {"rows": masks, "steps": masks[-1]["step"]} if masks else None,
        **scores,
        "cost": carving.cost.to_dict(),
        "notes": carving.notes,
    }  # fmt: skip


def _name(recipe: Recipe) -> str:
    """The teacher's name: the folder it lies in, or that one's where it is a run's `model`; no path of this machine."""
    place = Path(str(recipe.inherit.teacher)).expanduser()
    return place.parent.name if place.name == "model" else place.name
