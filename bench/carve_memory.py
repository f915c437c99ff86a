"""Peak memory of reading a teacher, scoring it by L2 and carving a child out of it, tensor by tensor.

    python bench/carve_memory.py [--out results/carve_memory.json] [CASE ...]

Each case writes a made-up teacher of about 600 MB and works on it in a process of its own. What its resident memory
grows by, from before the teacher is opened to its peak, is reported beside the child, one layer and the largest tensor:

    shards    a model directory in shards of 100 MB, fp32
    one_file  the same in one file
    half      twice as deep, in one file, bf16
    llama2c   a checkpoint of llama2.c, fp32
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CASES = ("shards", "one_file", "half", "llama2c")
SHARD = 100_000_000
# What a step may hold beside the child: twice the largest of a layer and a tensor (one that is read and one that is
# cut from it), and what the libraries take.
TIMES, FIXED_MB = 2, 40
PIECES = 16_000


def teacher_config(case: str) -> Any:
    from lilliput.model.config import ModelConfig

    depth = 24 if case == "half" else 12
    shape = {"vocab_size": PIECES, "depth": depth, "width": 1024, "heads": 16, "kv_heads": 8, "head_dim": 64}
    return ModelConfig(**shape, ffn=2816, bos_id=1, eos_id=2, context=256)


def kept_sizes() -> dict[str, int]:
    """Half of each dimension: about a quarter of the layers' parameters, in half as many layers."""
    return {"hidden": 512, "ffn": 1408, "kv_heads": 4}


def write_tokenizer(folder: Path) -> None:
    """A tokenizer.bin of so many pieces that mean nothing."""
    names = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256)), " "]
    names += [chr(0x4E00 + number) for number in range(PIECES - len(names))]
    rows = [name.encode() for name in names]
    data = b"".join(struct.pack("<fi", -float(number), len(row)) + row for number, row in enumerate(rows))
    (folder / "tok.bin").write_bytes(struct.pack("<i", max(map(len, rows))) + data)


def tensors_of(case: str) -> Iterator[tuple[str, Any]]:
    import torch

    from lilliput.model.spaces import shapes

    for name, shape in shapes(teacher_config(case)).items():
        yield name, torch.randn(shape).mul_(0.02).to(torch.bfloat16 if case == "half" else torch.float32)


def write_teacher(case: str, folder: Path) -> None:
    """The case's teacher and its tokenizer."""
    from safetensors.torch import save_file

    write_tokenizer(folder)
    config = teacher_config(case)
    if case == "llama2c":
        sizes = (config.width, config.ffn, config.depth, config.heads, config.kv_heads, PIECES, config.context)
        with open(folder / "model.bin", "wb") as out:
            out.write(struct.pack("<7i", *sizes))
            for _, tensor in tensors_of(case):
                out.write(tensor.numpy().tobytes())
            out.write(bytes(4 * config.context * config.head_dim))
        return
    (folder / "config.json").write_text(json.dumps(config.to_hf("bfloat16" if case == "half" else "float32")))
    place: dict[str, str] = {}
    held: dict[str, Any] = {}
    for name, tensor in tensors_of(case):
        held[name] = tensor
        if case == "shards" and sum(one.nbytes for one in held.values()) > SHARD:
            file = f"model-{len(set(place.values())):05}.safetensors"
            save_file(held, folder / file)
            place |= dict.fromkeys(held, file)
            held = {}
    if case == "shards":
        save_file(held, folder / "model-last.safetensors")
        place |= dict.fromkeys(held, "model-last.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": place}))
    else:
        save_file(held, folder / "model.safetensors")


def resident(key: str) -> int:
    """Resident memory of this process in MB: now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024 / 1e6)


def work(case: str, folder: Path) -> dict[str, Any]:
    """Open, score, carve, write; what it took."""
    from lilliput.export.hf import save_model_dir
    from lilliput.export.teacher import open_teacher
    from lilliput.export.weights import fill
    from lilliput.inherit.neurons import choose, scores_of
    from lilliput.model.carve import carve, child_config

    before, began = resident("VmRSS"), time.monotonic()
    took: dict[str, Any] = {}

    def lap(name: str) -> None:
        nonlocal began
        took[name] = {"seconds": round(time.monotonic() - began, 1), "grown_mb": max(0, resident("VmHWM") - before)}
        began = time.monotonic()

    teacher = open_teacher(folder / "model.bin" if case == "llama2c" else folder, folder / "tok.bin")
    config = teacher.config
    lap("open")
    scores = scores_of(teacher.tensors(), config, "l2")
    lap("score")
    kept = choose(scores, config, range(0, config.depth, 2), **kept_sizes())
    child = fill(child_config(config, kept), carve(teacher.tensors(), config, kept), teacher.dtype)
    lap("carve")
    save_model_dir(folder / "child", child, teacher.tokenizer, {}, beside=teacher.beside())
    lap("write")
    return {**sizes_of(teacher, child), "grown_mb": took["write"]["grown_mb"], **took}


def sizes_of(teacher: Any, child: Any) -> dict[str, int]:
    """In MB: the teacher, the child, one layer of the teacher, its largest tensor."""
    each = teacher.dtype.itemsize / 1e6
    parameters = teacher.config.parameters()
    layer = teacher.config.layer_matrix_parameters()
    largest = max(tensor.numel() for _, tensor in teacher.tensors())
    return {
        "teacher_mb": round(parameters * each),
        "child_mb": round(child.config.parameters() * each),
        "layer_mb": round(layer * each),
        "largest_mb": round(largest * each),
    }


def measure(case: str) -> dict[str, Any]:
    """One case, written and worked on in two fresh processes, with files that are removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="carve_memory.") as folder:
        subprocess.run([sys.executable, __file__, "--write", case, folder], check=True)
        command = [sys.executable, __file__, "--work", case, folder]
        child = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    row: dict[str, Any] = json.loads(child.stdout)
    row["bound_mb"] = row["child_mb"] + TIMES * max(row["layer_mb"], row["largest_mb"]) + FIXED_MB
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.write:
        write_teacher(asked.write[0], Path(asked.write[1]))
        return 0
    if asked.work:
        print(json.dumps(work(asked.work[0], Path(asked.work[1]))))
        return 0
    if unknown := set(asked.cases) - set(CASES):
        parser.error(f"unknown case {', '.join(unknown)}")
    # Cases that are not asked for keep the figures of the run before.
    rows = json.loads(asked.out.read_text())["cases"] if asked.out and asked.out.exists() else {}
    for case in asked.cases or CASES:
        rows[case] = row = measure(case)
        print(
            f"{case:9} teacher {row['teacher_mb']:4} MB  child {row['child_mb']:4} MB  layer {row['layer_mb']:3} MB  "
            f"largest {row['largest_mb']:3} MB  grown by {row['grown_mb']:4} MB  bound {row['bound_mb']:4} MB"
        )
    if asked.out:
        # Imported last: what this process holds would count as its children's peak.
        from lilliput.device import machine, versions

        command = f"python bench/carve_memory.py --out {asked.out}"
        record = {"command": command, "machine": machine(), "versions": versions()}
        asked.out.write_text(json.dumps({**record, "cases": rows}, indent=2) + "\n")
    return int(any(row["grown_mb"] > row["bound_mb"] for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
