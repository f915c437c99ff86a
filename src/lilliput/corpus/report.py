"""What was odd in the text that was read: counted, and told once at the end."""

from __future__ import annotations

from dataclasses import dataclass, field

from lilliput.progress import count, say, warn

# kind -> (whether text was changed or lost, what was met and done)
_KINDS = {
    "invalid_utf8": (True, "bytes that are not UTF-8, each replaced by U+FFFD"),
    "lone_surrogates": (True, "lone surrogates in JSON strings, which are no characters, replaced by U+FFFD"),
    "nul": (True, "NUL characters in the text, kept"),
    "empty_files": (True, "empty files, which gave no text"),
    "truncated": (True, "compressed files that end too early, of which the part before the break was used"),
    "long_lines": (True, "lines too long for a JSONL row, skipped"),
    "bad_rows": (True, "lines that are no JSON object, skipped"),
    "no_field": (True, "rows without text in the field, skipped"),
    "skipped_files": (True, "files that are not text, JSONL or Parquet by their ending, left out"),
    "empty_rows": (False, "rows that hold no text, left out"),
    "divided": (False, "documents that are too long, divided"),
    "duplicates": (False, "exact duplicates, dropped"),
}


@dataclass
class Oddity:
    """How often one kind of oddity was met, in how many bytes, and where first."""

    n: int = 0
    bytes: int = 0
    first: str = ""


@dataclass
class ReadReport:
    """Counts of what was read. files, documents, bytes: what was used (UTF-8 bytes of text).
    position: bytes of the sources read so far, before decompression. odd: by kind, see `_KINDS`."""

    files: int = 0
    documents: int = 0
    bytes: int = 0
    position: int = 0
    odd: dict[str, Oddity] = field(default_factory=dict)

    def note(self, kind: str, where: str, n: int = 1, size: int = 0) -> None:
        """Count `n` of `kind`, `size` bytes in all; the first place is remembered."""
        if kind not in _KINDS:
            raise KeyError(kind)
        seen = self.odd.setdefault(kind, Oddity(first=where))
        seen.n += n
        seen.bytes += size

    def number(self, kind: str) -> int:
        """How many of `kind` were met."""
        return self.odd[kind].n if kind in self.odd else 0

    def lines(self) -> list[tuple[bool, str]]:
        """(is a warning, message) for every kind that was met."""
        found = []
        for kind, (serious, what) in _KINDS.items():
            if seen := self.odd.get(kind):
                size = f", {count(seen.bytes)}B" if seen.bytes and seen.bytes != seen.n else ""
                found.append((serious, f"{what}: {seen.n}{size} (first: {seen.first})"))
        return found

    def warn(self) -> None:
        """Tell every oddity: warnings where text was changed or lost, plain messages otherwise."""
        for serious, line in self.lines():
            (warn if serious else say)(line)

    def to_dict(self) -> dict[str, object]:
        """The counts, for a manifest."""
        odd = {kind: {"n": seen.n, "bytes": seen.bytes, "first": seen.first} for kind, seen in self.odd.items()}
        return {"files": self.files, "documents": self.documents, "bytes": self.bytes, "odd": odd}
