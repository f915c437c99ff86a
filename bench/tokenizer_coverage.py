"""How much of real text the most frequent pieces of big models' tokenizers cover, and what cutting down costs.

    python bench/tokenizer_coverage.py --data DIR [--out results/tokenizer-coverage] [NAME ...]

DIR is the development data folder (default: $LILLIPUT_DATA). English and Chinese 1:1, as PanGu-π Pro §2.1 has them:
the first 40 MB of the training text of childlike and of chinese. For each tokenizer: cov(k) of its k most frequent
pieces (Fig. 2 of the paper), and bytes per token of the first 10 MB of each before and after compaction, whose sizes
count special pieces, bytes and merge parents too. Each tokenizer's figures are kept as a cell; those there are not
measured again.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lilliput.device import machine, versions
from lilliput.progress import Progress, say
from lilliput.report.chart import Series, line_chart
from lilliput.store import read_json, write_atomic, write_json
from lilliput.tokenizer.compact import Compactor
from lilliput.tokenizer.count import count_texts
from lilliput.tokenizer.counts import Counts, coverage
from lilliput.tokenizer.source import read_source

TOKENIZERS = {
    "LLaMA-2": "llama2/tokenizer.model",
    "LLaMA-3": "llama3/tokenizer.model",
    "Qwen": "qwen/qwen.tiktoken",
    "GPT-2": "gpt2/tokenizer.json",
    "BERT": "bert/vocab.txt",
}
CORPORA = {"English": "childlike", "Chinese": "chinese"}
SIZES = (8_000, 16_000, 32_000, 48_000, 72_000)
CUTS = (4_096, 8_192, 16_384, 32_768)
COUNTED, MEASURED = 40_000_000, 10_000_000  # bytes of each corpus
# Top-k coverage of the paper's vocabulary of 100k (PanGu-π Pro, Fig. 2).
PAPER = {8_000: 0.7868, 16_000: 0.8724, 32_000: 0.9449, 48_000: 0.9786, 72_000: 0.9984, 100_000: 1.0}


def texts(data: Path, limit: int) -> Iterator[tuple[str, str]]:
    """(language, document): the first `limit` bytes of each corpus."""
    for language, name in CORPORA.items():
        seen = 0
        with lzma.open(data / "corpora" / f"{name}.train.jsonl.xz", "rt", encoding="utf-8") as rows:
            for row in rows:
                text = json.loads(row)["text"]
                seen += len(text.encode())
                if seen > limit:
                    break
                yield language, text


def watched(data: Path, limit: int, title: str) -> Iterator[tuple[str, str]]:
    """`texts` with progress."""
    done = 0
    with Progress(title, len(CORPORA) * limit, "B") as progress:
        for language, text in texts(data, limit):
            yield language, text
            done += len(text.encode())
            progress.update(done)


def lengths(counts: Counts) -> dict[str, float]:
    """Bytes per token, in all and by language."""
    found = {name: group.bytes / group.tokens for name, group in counts.groups.items()}
    return {"all": counts.bytes / counts.tokens, **found}


def measure(name: str, data: Path) -> dict[str, Any]:
    """The figures of one tokenizer."""
    source = read_source(data / "tokenizers" / TOKENIZERS[name])
    counts = count_texts(source, watched(data, COUNTED, f"{name}: counting"))
    compactor = Compactor(source, counts.ids)
    full = compactor.full
    cell: dict[str, Any] = {
        "tokenizer": name,
        "kind": source.kind,
        "pieces": full,
        "met": int((counts.ids > 0).sum()),
        "never_produced": len(compactor.unreachable),
        "documents": counts.documents,
        "bytes": counts.bytes,
        "tokens": counts.tokens,
        "coverage": {str(size): coverage(counts.ids, size) for size in (*SIZES, full) if size <= full},
        "least": compactor.least,
        "cuts": {},
    }
    before = count_texts(source, watched(data, MEASURED, f"{name}: before"))
    cell["cuts"][str(full)] = {"coverage": 1.0, "bytes_per_token": lengths(before)}
    for size in (size for size in CUTS if compactor.least <= size < full):
        compaction = compactor.at(size)
        after = count_texts(compaction.source, watched(data, MEASURED, f"{name}: cut to {size:,}"))
        cut = {"coverage": compaction.coverage, "kept": compaction.kept, "bytes_per_token": lengths(after)}
        cell["cuts"][str(size)] = cut
    return cell


def percent(value: float) -> str:
    return f"{100 * value:.2f}"


def coverage_table(cells: dict[str, dict[str, Any]]) -> str:
    head = ["tokenizer", "pieces", "met", *(f"{size // 1000}k" for size in SIZES), "full"]
    lines = [head, ["---"] * len(head)]
    for name, cell in cells.items():
        shares = [cell["coverage"].get(str(size)) for size in SIZES]
        row = [name, f"{cell['pieces']:,}", f"{cell['met']:,}", *("" if s is None else percent(s) for s in shares)]
        lines.append([*row, percent(cell["coverage"][str(cell["pieces"])])])
    paper = [percent(PAPER[size]) for size in SIZES]
    lines.append(["PanGu-π Pro, 100k (paper)", "100,000", "", *paper, percent(PAPER[100_000])])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def length_table(cells: dict[str, dict[str, Any]]) -> str:
    head = ["tokenizer", "cut to", "coverage %", "bytes per token", *CORPORA]
    lines = [head, ["---"] * len(head)]
    for name, cell in cells.items():
        for size, cut in sorted(cell["cuts"].items(), key=lambda item: -int(item[0])):
            ratio = cut["bytes_per_token"]
            whole = "all " if int(size) == cell["pieces"] else ""
            figures = [f"{ratio[part]:.3f}" for part in ("all", *CORPORA)]
            lines.append([name, f"{whole}{int(size):,}", percent(cut["coverage"]), *figures])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(out: Path, cells: dict[str, dict[str, Any]]) -> None:
    """The tables, the picture and the page around them."""
    series = [
        Series(name, [float(k) for k in cell["coverage"]], [100 * v for v in cell["coverage"].values()], style="both")
        for name, cell in cells.items()
    ]
    series.append(Series("PanGu-π Pro (paper)", list(PAPER), [100 * v for v in PAPER.values()], style="both"))
    chart = line_chart(
        series, title="coverage by the most frequent pieces", x_label="pieces", y_label="% of tokens", log_x=True
    )
    write_atomic(out / "figure.svg", f"{chart}\n")
    here = machine()
    used = ", ".join(f"{name} {version}" for name, version in versions().items())
    write_atomic(
        out / "README.md",
        f"""# What the pieces of big tokenizers cover, and what cutting them down costs

English (`childlike`) and Chinese (`chinese`) text 1:1, the first 40 MB of each.

## Share of all tokens that the k most frequent pieces make up, in %

{coverage_table(cells)}

![coverage](figure.svg)

The paper's text is its own training corpus, and its vocabulary of 100k was trained for it. A tokenizer that is mostly
of other languages, or of code, needs few of its pieces here.

## Bytes per token before and after compaction

The first 10 MB of each corpus. A size counts special pieces, bytes (or single characters) and merge parents.

{length_table(cells)}

Command: `python bench/tokenizer_coverage.py`. Machine: {here["cpu"]}, {here["cores"]} cores. Versions: {used}.
""",
    )


def main() -> None:
    """Measure what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(TOKENIZERS), metavar="NAME")
    parser.add_argument("--data", type=Path, default=os.environ.get("LILLIPUT_DATA"))
    parser.add_argument("--out", type=Path, default=Path("results/tokenizer-coverage"))
    asked = parser.parse_args()
    if asked.data is None:
        parser.error("name the data folder: --data DIR, or set LILLIPUT_DATA")
    for name in asked.names:
        file = asked.out / "cells" / f"{name}.json"
        if file.exists():
            say(f"{name}: found")
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, measure(name, asked.data))
    found = {name: asked.out / "cells" / f"{name}.json" for name in TOKENIZERS}
    write(asked.out, {name: read_json(file) for name, file in found.items() if file.exists()})


if __name__ == "__main__":
    main()
