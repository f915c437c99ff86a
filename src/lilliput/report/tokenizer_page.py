"""The pages about tokenizers: what a count found, what compaction did, how several compare.

Every section is left out where its data are. Pieces are given as they stand in the vocabulary and are shown
readably: byte-level ones as the text they spell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lilliput.report.chart import compared_dots
from lilliput.report.look import bullets, card, figures, html_page, note, tiles
from lilliput.report.text import amount
from lilliput.report.tokenizer_parts import (
    change,
    coverage_chart,
    figure,
    folded,
    per_token,
    percent,
    said_pieces,
)
from lilliput.tokenizer.compare import short_names

Data = Mapping[str, Any]
_EXAMPLES, _NAMED = 50, 8
_LEVELS = (0.9, 0.95, 0.97, 0.99, 0.999)
_REASONS = {
    "special": "special pieces",
    "byte": "single bytes",
    "character": "single characters",
    "spelling": "pieces that spell characters which are no pieces themselves",
    "frequent": "the most frequent pieces",
    "parent": "pieces that a kept one is merged from",
}


def count_page(data: Data) -> str:
    """The page of a count.

    data: `source` (text), `kind`, `vocab_size`, `documents`, `bytes`, `tokens`; `curve` {`sizes`, `coverage`}
    (shares in ascending order of size; may hold every size); `languages` {NAME: {`documents`, `bytes`,
    `tokens`}}; `corpus` [text]; `shards` [[i, n]] where it is only a part; `most_frequent` [[piece, count]];
    `unused` {`pieces`, `examples` [piece]}: reachable and never met; `unreachable` the same: those that no text
    was found to give (absent or null: not examined); `notes` [text]. Any may be absent.
    """
    unused, kind = data.get("unused") or {}, str(data.get("kind") or "")
    could = "" if data.get("unreachable") is None else "could be produced and "
    met = _met(data)
    top = [(amount(data.get("tokens")), "tokens counted"), (amount(data.get("documents")), "documents")]
    ratio = per_token(data.get("bytes") or 0, data.get("tokens") or 0)
    top.append((figure(ratio), "bytes per token"))
    if met is not None:
        size = data.get("vocab_size")
        top.append((amount(met, exact=True), f"of {amount(size, exact=True)} pieces were met"))
    frequent = said_pieces("The most frequent, with their counts:", data.get("most_frequent") or [], kind)
    sections = [
        tiles(top),
        card("How few pieces make up the text", _curve(data)),
        card("By language", _count_languages(data)),
        card("Most frequent pieces", frequent),
        card("Pieces never met", _listed(unused, kind, f"pieces {could}were not met in this corpus")),
        card("Pieces that no text was found to give", _unreachable(data, kind)),
        card("Notes", _notes(data)),
    ]
    return html_page(_named(data), _about(data), sections)


def compact_page(data: Data) -> str:
    """The page of a compaction.

    data: `source`, `kind`, `vocab_size` {`before`, `after`}, `coverage` (share of the corpus's tokens that kept
    pieces are), `curve` as in `count_page`, `bytes_per_token` {`before`, `after`}, `languages` {NAME:
    {`documents`, `bytes`, `tokens` {`before`, `after`}}}, `share` (embedding and head in the model) null or
    {`before`, `after`, `rows` (before, padding included), `row` (parameters of a piece), `body` (all others)},
    `kept` {reason: pieces}, `dropped` {`pieces`, `never_met`, `most_frequent` [[piece, count]]}, `unreachable`
    {`pieces`, `kept`, `examples`}, `unproved` [piece]: kept, and shown by no text to come out of the new one,
    `normaliser` null or {`name`, `changes` [[before, after]]}, `notes` [text].
    """
    size, kind = data.get("vocab_size") or {}, str(data.get("kind", ""))
    sections = [
        _compact_tiles(data),
        card("Where the new size lies", _curve(data)),
        card("By language", _compact_languages(data)),
        card("Embedding and head", _share(data)),
        card("What was kept and dropped", _kept(data, kind)),
        card("Pieces that no text was found to give", _unreachable(data, kind)),
        card("Pieces that no text shows to come out of the new tokenizer", _unproved(data, kind)),
        card("Text that comes back otherwise", _normaliser(data)),
        card("Notes", _notes(data)),
    ]
    before, after = (amount(size.get(when), exact=True) for when in ("before", "after"))
    return html_page(_named(data), f"{_about(data)} · {before} → {after} pieces", sections)


def _named(data: Data) -> str:
    """The tokenizer's own name, however deep its folder is."""
    return short_names([str(data.get("source") or "tokenizer")])[0]


def _about(data: Data) -> str:
    parts = [f"{data['kind']} tokenizer" if data.get("kind") else "A tokenizer"]
    if corpus := [Path(str(one)).name for one in data.get("corpus") or []]:
        parts.append(f"counted on {_shortened(corpus)}")
    if shards := [f"{i}/{n}" for i, n in data.get("shards") or [] if n > 1]:
        parts.append(f"{'shard' if len(shards) == 1 else 'shards'} {_shortened(shards)}")
    return " · ".join(parts)


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f", … ({len(names)} in all)" if len(names) > _NAMED else "")


def _met(data: Data) -> int | None:
    """Pieces that occurred: where the curve stops rising."""
    curve = data.get("curve") or {}
    sizes, shares = curve.get("sizes") or [], curve.get("coverage") or []
    return int(sizes[list(shares).index(shares[-1])]) if sizes else None


def _curve(data: Data) -> str:
    curve = data.get("curve") or {}
    sizes, shares = curve.get("sizes") or [], curve.get("coverage") or []
    if not sizes:
        return ""
    size, mark = data.get("vocab_size"), None
    if isinstance(size, Mapping) and data.get("coverage") is not None:
        mark = (f"the new vocabulary: {size['after']:,}", size["after"], data["coverage"])
    rows = []
    for level in _LEVELS:
        reached = next((int(at) for at, share in zip(sizes, shares, strict=True) if share >= level), None)
        rows.append([percent(level), "–" if reached is None else f"{reached:,}"])
    said = "Pieces in the order of their frequency: how large a part of all tokens the first ones are."
    if mark:
        said += " The point lies under the curve by what specials, bytes and merge parents cost."
    about = "" if len(sizes) == sizes[-1] else " (about)"
    table = figures(["of all tokens", f"are the most frequent{about}"], rows)
    return note(said) + coverage_chart({"most frequent pieces": curve}, mark) + table


def _count_languages(data: Data) -> str:
    rows, dots = [], {}
    for name, group in (data.get("languages") or {}).items():
        ratio = per_token(group["bytes"], group["tokens"])
        dots[name] = ratio
        counts = [amount(group[key], exact=True) for key in ("documents", "bytes", "tokens")]
        rows.append([name, *counts, figure(ratio)])
    if not rows:
        return ""
    chart = compared_dots(list(dots), {"bytes per token": list(dots.values())}, x_label="bytes per token")
    table = figures(["language", "documents", "bytes", "tokens", "bytes per token"], rows)
    return (chart if len(rows) > 1 else "") + table


def _listed(found: Data, kind: str, words: str) -> str:
    total = found.get("pieces")
    if total is None:
        return ""
    if total == 0:
        return note("None.")
    said = f"{amount(total, exact=True)} {words}{', such as' if found.get('examples') else ''}."
    return said_pieces(said.replace("such as.", "such as:"), found.get("examples") or [], kind, total)


def _unreachable(data: Data, kind: str) -> str:
    found = data.get("unreachable") or {}
    body = _listed(found, kind, "pieces never came out of the tokenizer, whatever text was tried")
    if found.get("kept"):
        body += note(f"{amount(found['kept'], exact=True)} of them are kept: special, byte, character or merge parent.")
    return body


def _notes(data: Data) -> str:
    return bullets(map(str, data.get("notes") or []))


def _compact_tiles(data: Data) -> str:
    size, ratio, share = (data.get(key) or {} for key in ("vocab_size", "bytes_per_token", "share"))
    found = []
    if size:
        found.append((amount(size["after"], exact=True), f"pieces, of {amount(size['before'], exact=True)}"))
    if data.get("coverage") is not None:
        found.append((percent(data["coverage"]), "of the tokens are kept pieces"))
    if ratio.get("after") is not None:
        was = f"bytes per token, {figure(ratio['before'])} before ({change(ratio['before'], ratio['after'])})"
        found.append((figure(ratio["after"]), was))
    if share:
        was = f"of the model is embedding and head, {percent(share['before'])} before"
        found.append((percent(share["after"]), was))
    return tiles(found)


def _compact_languages(data: Data) -> str:
    rows, before, after = [], [], []
    languages = data.get("languages") or {}
    for name, group in languages.items():
        was, now = (per_token(group["bytes"], group["tokens"][when]) for when in ("before", "after"))
        before.append(was)
        after.append(now)
        sizes = [amount(group[key], exact=True) for key in ("documents", "bytes")]
        rows.append([name, *sizes, figure(was), figure(now), change(was, now)])
    if not rows:
        return ""
    chart = compared_dots(list(languages), {"before": before, "after": after}, x_label="bytes per token")
    head = ["language", "documents", "bytes", "bytes per token before", "after", "change"]
    return note("Fewer pieces mean shorter ones: how many bytes a token stands for.") + chart + figures(head, rows)


def _share(data: Data) -> str:
    share = data.get("share")
    if not share:
        return ""
    sizes = {"before": share["rows"], "after": data["vocab_size"]["after"]}
    rows = []
    for when, size in sizes.items():
        table = size * share["row"]
        counts = [amount(n, exact=True) for n in (size, table, table + share["body"])]
        rows.append([when, *counts, percent(share[when])])
    said = f"A piece takes {share['row']:,} parameters; all other layers are {share['body']:,}."
    if share["rows"] > data["vocab_size"]["before"]:
        said += f" The model's tables are padded from {data['vocab_size']['before']:,} to {share['rows']:,} rows."
    return note(said) + figures(["", "rows", "embedding and head", "all parameters", "share"], rows)


def _kept(data: Data, kind: str) -> str:
    kept, dropped = data.get("kept") or {}, data.get("dropped") or {}
    rows = [[words, amount(kept[key], exact=True)] for key, words in _REASONS.items() if kept.get(key)]
    rows += [[str(key), amount(value, exact=True)] for key, value in kept.items() if key not in _REASONS]
    body = figures(["kept as", "pieces"], rows)
    if dropped.get("pieces"):
        never = dropped.get("never_met") or 0
        said = f"{amount(dropped['pieces'], exact=True)} pieces were dropped; {amount(never, exact=True)} of them "
        said += "never occurred in the corpus."
        most = dropped.get("most_frequent") or []
        body += "<br>" + said_pieces(f"{said} The most frequent of them:" if most else said, most, kind)
    elif dropped:
        body += "<br>" + note("No piece was dropped.")
    return body


def _unproved(data: Data, kind: str) -> str:
    found = data.get("unproved") or []
    return said_pieces(f"{len(found):,} kept pieces:", found[:_EXAMPLES], kind, len(found)) if found else ""


def _normaliser(data: Data) -> str:
    found = data.get("normaliser")
    if not found:
        return ""
    said = "The source does not give back every text as it was, and the new tokenizer does exactly the same"
    said += "." if found.get("name") in (None, "none") else f" (its normaliser: {found['name']})."
    changes = [[_with_numbers(before), _with_numbers(after)] for before, after in found.get("changes") or []]
    if not changes:
        return note(f"{said} No example was met.")
    return note(f"{said} The most frequent first:") + figures(["text", "comes back as"], changes)


def _with_numbers(text: str) -> str:
    """A short text with the numbers of its characters, since the difference is often not to be seen."""
    if len(text) > 8:
        return text
    return f"{text}  {' '.join(f'U+{ord(character):04X}' for character in text)}" if text else "(nothing)"


def compare_page(data: Data) -> str:
    """The page of a comparison.

    data: what `lilliput.tokenizer.compare.compare` gives: `corpus` [text], `documents`, `bytes`, `characters`,
    `tokenizers` [{`name`, `kind`, `vocab_size`, `share`, `curve`, its figures, `languages` {NAME: figures},
    `notes`}]. Figures: see `lilliput.tokenizer.compare.Figures`.
    """
    rows = data.get("tokenizers") or []
    languages = list(dict.fromkeys(name for row in rows for name in row["languages"]))
    sections = [
        card("In all", figures(*comparison(rows))),
        card("Bytes per token by language", _compare_dots(rows, languages)),
        card("How few pieces make up the text", _compare_curves(rows)),
        card("By language", "".join(_compare_language(rows, name) for name in languages)),
        card("What the figures mean", bullets(_MEANINGS)),
        card("Notes", bullets(f"{row['name']}: {text}" for row in rows for text in row.get("notes") or [])),
    ]
    about = f"{_amounts(data)} of {_shortened([Path(one).name for one in data.get('corpus') or []]) or 'text'}"
    return html_page("Tokenizers compared", about, sections)


_MEANINGS = (
    "Bytes per token: UTF-8 bytes of text over tokens. More bytes a token are fewer steps for the same text.",
    "90 %, 99 %: how many of its most frequent pieces make up so much of the tokens. Used: the share of its "
    "pieces that occurred at all.",
    "Rényi efficiency: H(p) / log V with H(p) = log(Σ p^2.5) / (1 − 2.5) over the frequencies p of the V pieces "
    "(Zouhar et al. 2023). 1 means that all are used alike. It predicts quality roughly, and not across every pair.",
    "In bytes: the share of characters that no piece holds whole, so that they are spelled in bytes.",
    "Unknown: the share of characters that are lost behind the unknown token.",
    "Model share: embedding and head over all parameters of the given body.",
)
_HEAD = ["tokenizer", "pieces", "bytes per token", "90 %", "99 %", "used", "Rényi", "in bytes", "unknown"]


def comparison(rows: Sequence[Data], language: str | None = None) -> tuple[list[str], list[list[str]]]:
    """The table of a comparison as text: (head, one line a tokenizer), of one language or of all text."""
    shares = language is None and any(row.get("share") for row in rows)
    table = []
    for row in rows:
        found = row if language is None else row["languages"].get(language)
        if found is None:
            continue
        cells = [row["name"], amount(row["vocab_size"], exact=True), figure(found["bytes_per_token"])]
        cells += [amount(found["pieces_for"][level], exact=True) for level in ("0.9", "0.99")]
        cells += [percent(found["used"]), figure(found["renyi_efficiency"])]
        cells += [percent(found["in_bytes"]), percent(found["unknown"])]
        if shares:
            cells.append(percent((row.get("share") or {}).get("value")))
        table.append(cells)
    return ([*_HEAD, "model share"] if shares else _HEAD), table


def _compare_dots(rows: Sequence[Data], languages: list[str]) -> str:
    found = {
        row["name"]: [(row["languages"].get(name) or {}).get("bytes_per_token") for name in languages] for row in rows
    }
    return compared_dots(languages, found, x_label="bytes per token") if found and languages else ""


def _compare_curves(rows: Sequence[Data]) -> str:
    return coverage_chart({row["name"]: row["curve"] for row in rows if row["curve"]["sizes"]})


def _compare_language(rows: Sequence[Data], name: str) -> str:
    first = next(row["languages"][name] for row in rows if name in row["languages"])
    return folded(f"{name}: {_amounts(first)}", figures(*comparison(rows, name)))


def _amounts(text: Data) -> str:
    number = text.get("documents")
    return f"{amount(number)} document{'' if number == 1 else 's'}, {amount(text.get('bytes'))} bytes"
