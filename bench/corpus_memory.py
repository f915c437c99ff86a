"""Peak memory of reading, tokenizer training and packing, on real text.

    python bench/corpus_memory.py --data DIR [--out results/corpus_memory.json] [CASE ...]

DIR is the development data folder (default: $LILLIPUT_DATA). Each case runs in a process of its own, whose peak
resident memory (imports included) is reported:

    novels      75 MB: read, split, train a tokenizer of 16,384 pieces, pack
    novels_x10  the same text ten times, the copy's number set between its sentences: 760 MB of plain JSONL
    chinese     46 MB with long unbroken runs, nearly all distinct: the same steps
    long_line   a text file of one 200 MB line
    long_row    a JSONL file with a row of 200 MB between two good ones
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VOCAB_SIZE = 16_384
COPIES = 10
LONG = 200_000_000
# Most resident memory, in MB, that issue and documentation promise.
BOUNDS = {"novels": 1000, "novels_x10": 1000, "chinese": 1500, "long_line": 1000, "long_row": 1000}


def _rows(file: Path) -> Iterator[str]:
    with lzma.open(file, "rt", encoding="utf-8") as rows:
        for row in rows:
            yield json.loads(row)["text"]


def prepare(case: str, data: Path, folder: Path) -> Path:
    """The file that a case reads."""
    corpora = data / "corpora"
    if case in ("novels", "chinese"):
        return corpora / f"{case}.train.jsonl.xz"
    file = folder / f"{case}.{'txt' if case == 'long_line' else 'jsonl'}"
    with open(file, "w", encoding="utf-8") as out:
        if case == "novels_x10":
            for copy in range(COPIES):
                for text in _rows(corpora / "novels.train.jsonl.xz"):
                    out.write(json.dumps({"text": text.replace(". ", f" {copy}. ")}, ensure_ascii=False) + "\n")
        elif case == "long_line":
            for number in range(LONG // 40):
                out.write(f"forty characters, no line's end {number:07d} ")
        else:
            good = json.dumps({"text": "A good row with enough text in it to be of use. " * 20}) + "\n"
            out.write(good + '{"text": "')
            for _ in range(LONG // 1000):
                out.write("x" * 1000)
            out.write('"}\n' + good.replace("good", "second"))
    return file


def work(file: Path, folder: Path) -> dict[str, Any]:
    """Read, split, train a tokenizer, pack both splits; what it took."""
    from lilliput.corpus import Documents, build_corpus, pack
    from lilliput.device import peak_rss
    from lilliput.recipe import SourceSpec
    from lilliput.tokenizer.train import train_tokenizer

    took: dict[str, Any] = {}

    def lap(name: str) -> None:
        nonlocal began
        took[name] = {"seconds": round(time.monotonic() - began, 1), "peak_mb": round(peak_rss() / 1e6)}
        began = time.monotonic()

    began = time.monotonic()
    found = build_corpus([SourceSpec(source=str(file))], folder)
    lap("read")
    tokenizer = train_tokenizer(Documents(folder, "train"), VOCAB_SIZE)
    lap("tokenizer")
    for split in ("train", "dev"):
        pack(
            Documents(folder, split),
            tokenizer.encode_arrays,
            bos=tokenizer.bos_id,
            eos=tokenizer.eos_id,
            vocab_size=tokenizer.vocab_size,
            tokenizer_hash=tokenizer.hash,
            out=folder,
            split=split,
        )
    lap("pack")
    return {"text_mb": round(sum(found["bytes"].values()) / 1e6, 1), "peak_mb": took["pack"]["peak_mb"], **took}


def measure(case: str, data: Path) -> dict[str, Any]:
    """One case in a fresh process, with files of its own that are removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="corpus_memory.") as folder:
        file = prepare(case, data, Path(folder))
        command = [sys.executable, __file__, "--work", str(file), folder]
        child = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(child.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(BOUNDS)}; default: all")
    parser.add_argument("--data", type=Path, default=os.environ.get("LILLIPUT_DATA"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", nargs=2, type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        print(json.dumps(work(*asked.work)))
        return 0
    if unknown := set(asked.cases) - set(BOUNDS):
        parser.error(f"unknown case {', '.join(unknown)}")
    if asked.data is None or not (asked.data / "corpora").is_dir():
        parser.error("name the data folder with --data or LILLIPUT_DATA")
    # Cases that are not asked for keep the figures of the run before.
    rows = json.loads(asked.out.read_text())["cases"] if asked.out and asked.out.exists() else {}
    for case in asked.cases or BOUNDS:
        rows[case] = {**measure(case, asked.data), "bound_mb": BOUNDS[case]}
        row = rows[case]
        print(f"{case:12} {row['text_mb']:8.1f} MB of text  peak {row['peak_mb']:5d} MB  bound {row['bound_mb']} MB")
    if asked.out:
        # Imported last: what this process holds would count as its children's peak.
        from lilliput.device import machine, versions

        command = f"python bench/corpus_memory.py --data DIR --out {asked.out}"
        record = {"command": command, "machine": machine(), "versions": versions(), "vocab_size": VOCAB_SIZE}
        asked.out.write_text(json.dumps({**record, "cases": rows}, indent=2) + "\n")
    return int(any(row["peak_mb"] > row["bound_mb"] for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
