"""Counting a corpus' tokens, beside `tokenizers` and `tiktoken` on the same vocabulary, files and reader.

    python bench/count_speed.py --data DIR [--out results/count_speed.json] [--megabytes 20] [--times 5] [NAME ...]

DIR is the development data folder (default: $LILLIPUT_DATA). The files are decompressed first. In turn, several times:

    ours        `count_corpus`: reading, encoding, counting, by language
    tokenizers  the same reader; `encode_batch_fast` on everything at once
    tiktoken    the same reader; `encode_ordinary_batch` on everything at once, a thread a core, with the published
                pattern and ranks (not for LLaMA-2, which is no byte-level vocabulary)

The medians and their ratio are reported: ours against the faster peer of the same run. All engines are ready before
the clock starts; how long that takes is reported beside. Peers neither count nor keep what they encode.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

VOCABULARIES = ("gpt2", "qwen", "llama3", "llama2", "trained32k")
CORPORA = ("childlike", "chinese")
TRAINED = 32_768
# What is asked for: ours over the faster peer.
BOUND = 0.95


def unpack(data: Path, name: str, size: int, folder: Path) -> Path:
    """The first `size` bytes or so of a corpus as plain JSONL."""
    file, written = folder / f"{name}.jsonl", 0
    with lzma.open(data / "corpora" / f"{name}.train.jsonl.xz") as rows, open(file, "wb") as out:
        for row in rows:
            out.write(row)
            written += len(row)
            if written >= size:
                break
    return file


def trained(data: Path) -> Path:
    """A byte-level BPE of 32,768 pieces that `lilliput tokenizer train` learns from both corpora, kept in the store."""
    from lilliput.corpus import ReadReport, read_source
    from lilliput.recipe import SourceSpec
    from lilliput.store import Store
    from lilliput.tokenizer.train import train_tokenizer

    files = [str(data / "corpora" / f"{name}.train.jsonl.xz") for name in CORPORA]

    def build(folder: Path) -> dict[str, Any]:
        texts = (text for file in files for text in read_source(SourceSpec(source=file), ReadReport()))
        train_tokenizer(texts, TRAINED).save(folder)
        return {}

    return Store().stage("bench-tokenizer", {"corpora": list(CORPORA), "vocab_size": TRAINED}, build).path


def peer_tiktoken(source: Any) -> Callable[[list[str]], int] | None:
    """`tiktoken` as its users would set it up for this vocabulary."""
    import tiktoken

    from lilliput.tokenizer.regular import pattern_of
    from lilliput.tokenizer.spelling import byte_letters

    pattern = pattern_of(source.definition)
    if pattern is None:
        return None
    letters, model = byte_letters(), source.definition["model"]
    special = {token["content"] for token in source.definition["added_tokens"]}
    order = dict.fromkeys([*letters, *("".join(pair) for pair in model["merges"])])
    ranks = {bytes(letters[letter] for letter in piece): at for at, piece in enumerate(order) if piece not in special}
    encoding = tiktoken.Encoding("peer", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    cores = os.cpu_count() or 1
    return lambda texts: sum(map(len, encoding.encode_ordinary_batch(texts, num_threads=cores)))


def measure(source: Any, file: Path, times: int) -> dict[str, Any]:
    """Megabytes a second of each, in turn."""
    from lilliput.corpus import ReadReport, read_source
    from lilliput.recipe import SourceSpec
    from lilliput.tokenizer.count import count_corpus
    from lilliput.tokenizer.encode import Encoder

    spec = SourceSpec(source=str(file))
    backend = source.backend()
    began = time.perf_counter()
    encoder = Encoder(source, prepare=True)
    ready = time.perf_counter() - began
    arms: dict[str, Callable[[], int]] = {
        "ours": lambda: count_corpus(source, [spec], encoder=encoder).tokens,
        "tokenizers": lambda: sum(
            map(len, backend.encode_batch_fast(list(read_source(spec, ReadReport())), add_special_tokens=False))
        ),
    }
    if tiktoken := peer_tiktoken(source):
        arms["tiktoken"] = lambda: tiktoken(list(read_source(spec, ReadReport())))
    took: dict[str, list[float]] = {name: [] for name in arms}
    tokens = dict.fromkeys(arms, 0)
    for _ in range(times):
        for name, work in arms.items():
            began = time.perf_counter()
            tokens[name] = work()
            took[name].append(time.perf_counter() - began)
    if tokens["ours"] != tokens["tokenizers"]:
        raise SystemExit(f"not the same tokens: {tokens}")
    report = ReadReport()
    for _ in read_source(spec, report):
        pass
    speeds = {name: round(report.bytes / 1e6 / statistics.median(seconds), 2) for name, seconds in took.items()}
    peer = max((name for name in arms if name != "ours"), key=speeds.__getitem__)
    spread = {name: [round(report.bytes / 1e6 / s, 2) for s in sorted(seconds)] for name, seconds in took.items()}
    return {
        "engine": encoder.engine,
        "megabytes": round(report.bytes / 1e6, 2),
        "tokens": tokens,
        "megabytes_a_second": speeds,
        "each": spread,
        "faster_peer": peer,
        "ratio": round(speeds["ours"] / speeds[peer], 3),
        "seconds_to_get_ready": round(ready, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(VOCABULARIES)}; default: all")
    parser.add_argument("--data", type=Path, default=os.environ.get("LILLIPUT_DATA"))
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(VOCABULARIES):
        parser.error(f"unknown vocabulary {', '.join(unknown)}")
    if asked.data is None or not (asked.data / "corpora").is_dir():
        parser.error("name the data folder with --data or LILLIPUT_DATA")
    from lilliput import progress
    from lilliput.device import machine, versions
    from lilliput.tokenizer.source import read_source

    progress.configure(quiet=True)
    rows: dict[str, dict[str, Any]] = {}
    print(f"{'':22}{'ours':>8}{'tokenizers':>12}{'tiktoken':>10}  MB/s   ratio  ready")
    with tempfile.TemporaryDirectory(prefix="count_speed.") as folder:
        files = {name: unpack(asked.data, name, int(asked.megabytes * 1e6), Path(folder)) for name in CORPORA}
        for name in asked.names or VOCABULARIES:
            source = read_source(trained(asked.data) if name == "trained32k" else asked.data / "tokenizers" / name)
            for corpus, file in files.items():
                row = rows.setdefault(name, {})[corpus] = measure(source, file, asked.times)
                speeds = row["megabytes_a_second"]
                print(
                    f"{name:12}{corpus:10}{speeds['ours']:8.2f}{speeds['tokenizers']:12.2f}"
                    f"{speeds.get('tiktoken', float('nan')):10.2f}  {row['ratio']:12.3f}"
                    f"{row['seconds_to_get_ready']:6.2f} s"
                )
    if asked.out:
        command = f"python bench/count_speed.py --data DIR --megabytes {asked.megabytes:g} --times {asked.times}"
        known = {**versions(), "tiktoken": metadata.version("tiktoken")}
        record = {"command": f"{command} --out {asked.out}", "machine": machine(), "versions": known, "bound": BOUND}
        asked.out.write_text(json.dumps({**record, "vocabularies": rows}, indent=2) + "\n")
    return int(any(row["ratio"] < BOUND for corpora in rows.values() for row in corpora.values()))


if __name__ == "__main__":
    sys.exit(main())
