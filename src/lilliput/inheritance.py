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

from lilliput.carving import Carving, scored_bytes
from lilliput.corpus.shards import Shards
from lilliput.lineage import child_of, teacher_of
from lilliput.plan.rules import describe
from lilliput.recipe import Recipe
from lilliput.report.inherit_page import inherit_page
from lilliput.settle import check_request, identify
from lilliput.store import Stage, Store, atomic_dir, canonical_hash, check_replaceable, write_atomic, write_json
from lilliput.texts import Texts, tell

# Raised when the child changes for the same settings, so that an older one is not taken for it.
_FORMAT = 1
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
    for later in ("teacher", "tokenizer", "distil", "temperature", "top"):
        del how[later]
    key = {
        "format": _FORMAT,
        "teacher": compacted.hash if compacted else texts.inputs["teacher"],
        "corpus": corpus.hash,
        "shape": shape.identity(),
        "how": how,
        "scored": scored_bytes(asked),
        "seed": asked.seed,
    }
    unfinished = work / f"unfinished-{canonical_hash(key)[:24]}"

    def build(folder: Path) -> dict[str, Any]:
        if asked.train.threads is not None:
            torch.set_num_threads(asked.train.threads)
        return Carving(asked, teacher, shape, corpus.path, shards, unfinished, device).build(folder)

    stage = texts.stage("inherit", key, build)
    shutil.rmtree(unfinished, ignore_errors=True)
    bits = stage.manifest["bits_per_byte"]
    before = f", the teacher {bits['teacher']['value']:.4f}" if bits["teacher"] else ""
    tell("inherit", stage, f"{describe(shape)}; {bits['child']['value']:.4f} bits per byte right after{before}")
    return stage
