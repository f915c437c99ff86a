"""What was odd in the text that was read: counted, and told once at the end."""

from __future__ import annotations

from dataclasses import dataclass, field

from lilliput.progress import count, say, warn

# kind -> (whether a person must hear of it, the sentence)
_KINDS = {
    "invalid_utf8": (True, "{n} bytes are not UTF-8; each was replaced by U+FFFD"),
    "lone_surrogates": (True, "{n} lone surrogates in JSON strings are no characters; replaced by U+FFFD"),
    "nul": (True, "{n} NUL characters in the text were kept"),
    "empty_files": (True, "{n} empty files gave no text"),
    "truncated": (True, "{n} compressed files end too early; the part before the break was used"),
    "long_lines": (True, "{n} lines too long for a JSONL row were skipped ({bytes} bytes)"),
    "bad_rows": (True, "{n} lines that are no JSON object were skipped ({bytes} bytes)"),
    "no_field": (True, "{n} rows without the text field were skipped"),
    "skipped_files": (True, "{n} files in folders are not text, JSONL or Parquet by their ending, and were left out"),
    "empty_rows": (False, "{n} rows hold no text and were left out"),
    "divided": (False, "{n} documents over 1 MB were divided ({bytes} bytes)"),
    "duplicates": (False, "{n} exact duplicates were dropped ({bytes} bytes)"),
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
        """(is a warning, sentence) for every kind that was met."""
        found = []
        for kind, (serious, sentence) in _KINDS.items():
            if seen := self.odd.get(kind):
                text = sentence.format(n=seen.n, bytes=count(seen.bytes))
                found.append((serious, f"{text} (first: {seen.first})" if seen.first else text))
        return found

    def warn(self) -> None:
        """Tell every oddity: warnings where text was changed or lost, plain messages otherwise."""
        for serious, line in self.lines():
            (warn if serious else say)(line)

    def to_dict(self) -> dict[str, object]:
        """The counts, for a manifest."""
        odd = {kind: {"n": seen.n, "bytes": seen.bytes, "first": seen.first} for kind, seen in self.odd.items()}
        return {"files": self.files, "documents": self.documents, "bytes": self.bytes, "odd": odd}
