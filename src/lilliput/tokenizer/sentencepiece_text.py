"""What SentencePiece does to text before it looks for pieces, and to pieces when it makes text of them."""

from __future__ import annotations

import unicodedata
from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import Any

from lilliput.tokenizer.definition import replace, sequence
from lilliput.tokenizer.spelling import BLANK


def normalizer_of(proto: Any) -> dict[str, Any] | None:
    """The character map, the removal of blanks, the blank before the text, and U+2581 for blanks, in that order."""
    spec = proto.normalizer_spec
    suffix = proto.trainer_spec.treat_whitespace_as_suffix
    blank = BLANK if spec.escape_whitespaces else " "
    steps = _map(spec.precompiled_charsmap) if spec.precompiled_charsmap else []
    if spec.remove_extra_whitespaces:
        steps += [replace(r"\A +", "", regex=True), replace(" {2,}", " ", regex=True)]
    if spec.add_dummy_prefix and not suffix:
        steps.append({"type": "Prepend", "prepend": blank})
    if spec.escape_whitespaces:
        steps.append(replace(" ", BLANK))
    if spec.add_dummy_prefix and suffix:
        steps.append(replace(rf"(?<!{blank}){blank}*\z" if spec.remove_extra_whitespaces else r"\z", blank, regex=True))
    elif spec.remove_extra_whitespaces:
        steps.append(replace(rf"{blank}+\z", "", regex=True))
    return sequence("normalizers", steps)


# Begins and ends a grapheme, is changed by no map, and stands in no text: no character is assigned there.
_BREAK = "\ufff0"
# A blank that a piece begins with, until the pieces are one text; U+2581 by itself could come of bytes.
FIRST_BLANK = f"{BLANK}{_BREAK}"
# Steps for entries of several characters in a map of one's own.
_MOST = 200
# What belongs to the grapheme of the character before it.
_MARK = r"[\p{M}\x{200C}\x{200D}\x{FF9E}\x{FF9F}\x{0E33}\x{0EB3}\x{1F3FB}-\x{1F3FF}\x{E0020}-\x{E007F}]"
# Marks above letters, which Unicode leaves in their order, and those that may be composed before another.
_ABOVE = r"\x{300}-\x{314}\x{342}"
_BEFORE = rf"{_ABOVE}\x{{31B}}\x{{323}}\x{{327}}\x{{328}}"
_UNORDERED = rf"(?<=[{_BEFORE}])(?=[{_MARK}&&[^{_ABOVE}\x{{345}}]])|(?<=[{_MARK}&&[^{_BEFORE}]])(?={_MARK})"
# Characters of one or two bytes and composed Latin and Greek letters, but for plain letters.
_NARROW = r"[\x00-@\[-`{-\x{390}\x{3AA}-\x{3B0}\x{3CA}-\x{7FF}\x{1E00}-\x{1FFF}&&[^\p{M}]]"


def _map(charsmap: bytes) -> list[dict[str, Any]]:
    """The map as steps. SentencePiece replaces the longest entry that the text begins with, again and again.
    `tokenizers` replaces a grapheme below six bytes by the shortest entry that it begins with, the rest lost, and
    larger graphemes character by character.

    So each character is replaced alone first: with breaks before marks, every grapheme is one character. Entries of
    several characters are, in the maps that come with SentencePiece, what Unicode composes of plain letters and
    marks in their order. That is done by NFC, with breaks where it would put marks in order or add to a composed
    letter; other letters of one or two bytes then take their first mark by the map itself. What remains:
    SentencePiece does not compose across characters that it has just spelled with several others or taken out, this
    does (`ﬁ` with an accent, an accent after a control character), and so does one after a user-defined piece; and
    U+FFF0 itself is lost. A map of one's own has a step for each entry of several characters.
    """
    once = {"type": "Precompiled", "precompiled_charsmap": b64encode(charsmap).decode()}
    # Not at the very beginning: what is put in there confuses the package's map.
    apart = replace(rf"(?<!\A)(?={_MARK})|(?<=\r)(?=\n)", _BREAK, regex=True)
    together = replace(_BREAK, "")
    if not _composes(charsmap):
        trie = _Trie(charsmap)
        several = sorted((key for key in trie if len(key) > 1), key=len, reverse=True)
        return [*(replace(key, trie.entry(key) or "") for key in several[:_MOST]), apart, once, together]
    before_order = replace(rf"(?<={_NARROW})(?={_MARK})|{_UNORDERED}", _BREAK, regex=True)
    before_map = replace(f"(?<={_MARK})(?={_MARK})", _BREAK, regex=True)
    return [apart, once, together, before_order, {"type": "NFC"}, together, before_map, once, together]


def _composes(charsmap: bytes) -> bool:
    """Whether a map composes as Unicode's NFKC does."""
    trie = _Trie(charsmap)
    return all(trie.entry(unicodedata.normalize("NFD", letter)) == letter for letter in "éåỹがΐ")


class _Trie:
    """A map's entries. It is the size of a double-array trie (Darts), the trie, and replacements ended by zeros.

    Raises ValueError or IndexError where it is damaged.
    """

    def __init__(self, charsmap: bytes) -> None:
        size = int.from_bytes(charsmap[:4], "little")
        if not 0 < size <= len(charsmap) - 4 or size % 4:
            raise ValueError("its character map is damaged")
        self._units = memoryview(charsmap[4 : 4 + size]).cast("I")
        self._texts = charsmap[4 + size :]
        self._texts.decode()

    def _below(self, at: int) -> int:
        unit = self._units[at]
        return at ^ (unit >> 10) << ((unit & 0x200) >> 6)

    def _step(self, at: int, byte: int) -> int | None:
        found = self._below(at) ^ byte
        return found if found < len(self._units) and self._units[found] & 0x800000FF == byte else None

    def entry(self, text: str) -> str | None:
        """What exactly this text is replaced by."""
        at: int | None = 0
        for byte in text.encode():
            at = self._step(at, byte) if at is not None else None
        if at is None or not self._units[at] & 0x100:
            return None
        start = self._units[self._below(at)] & 0x7FFFFFFF
        return self._texts[start : self._texts.index(0, start)].decode()

    def __iter__(self) -> Iterator[str]:
        """Every text that is replaced."""
        rest = [(0, b"")]
        while rest:
            at, key = rest.pop()
            if key and self._units[at] & 0x100:
                yield key.decode("utf-8", "replace")
            below = ((self._step(at, byte), key + bytes([byte])) for byte in range(1, 256))
            rest += [(found, longer) for found, longer in below if found is not None]


def decoder_of(proto: Any, byte_fallback: bool) -> dict[str, Any] | None:
    """U+2581 to blanks, bytes to characters, and what stands before the text removed (a blank that stands after
    it, where the model puts it there, SentencePiece leaves).

    SentencePiece takes one blank off the front of a piece as long as there is no text before it: where extra blanks
    are removed, off one piece after the other; where they are kept, off one piece alone. So for the first kind the
    blank that a piece begins with is marked until the pieces are one text; the second needs no more than one `Strip`.
    Numbers that no text is encoded to may differ: bytes that are no character beside some that are (here all become
    U+FFFD), the byte 0x20 at the start (taken off by `Strip`), and U+2581 and U+FFF0 in bytes (taken for a mark).
    """
    spec = proto.normalizer_spec
    steps: list[dict[str, Any]] = [{"type": "ByteFallback"}] if byte_fallback else []
    steps.append({"type": "Fuse"})
    if spec.remove_extra_whitespaces:
        others = replace(rf"(?<=[\s\S]){BLANK}", " ", regex=True)
        steps = [others, replace(BLANK, FIRST_BLANK), *steps]
        steps += [replace(rf"\A(?:{FIRST_BLANK})+", "", regex=True), replace(FIRST_BLANK, " ")]
    else:
        steps.insert(0, replace(BLANK, " "))
        if spec.add_dummy_prefix:
            steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return sequence("decoders", steps)


def text_notes(proto: Any, user: Sequence[str]) -> tuple[str, ...]:
    """What may not be exact in this: entries of several characters in a map of one's own, if they are too many,
    overlap, or make text that another entry replaces; user-defined pieces that the map or the removal of blanks
    changes, which SentencePiece finds before; and a second map, for decoded text, which `tokenizers` cannot apply."""
    spec = proto.normalizer_spec
    trie = _Trie(spec.precompiled_charsmap) if spec.precompiled_charsmap else None
    notes = []
    if proto.denormalizer_spec.precompiled_charsmap:
        notes.append("it changes text after decoding, too (its denormaliser), which is left out")
    if trie and not _composes(spec.precompiled_charsmap) and (unclear := _unclear(trie)):
        shown = ", ".join(map(repr, unclear[:3]))
        notes.append(f"{len(unclear)} entries of its character map may be replaced in another order: {shown}")

    def changed(character: str) -> bool:
        in_map = trie is not None and trie.entry(character) is not None
        return in_map or (character == " " and spec.remove_extra_whitespaces)

    if late := [name for name in user if any(map(changed, name))]:
        shown = ", ".join(map(repr, late[:3]))
        notes.append(f"{len(late)} user-defined pieces are changed before they are found and may not come out: {shown}")
    return tuple(notes)


def _unclear(trie: _Trie) -> list[str]:
    """Entries of several characters for which one step after the other may not be what the longest entry gives."""
    several = sorted(key for key in trie if len(key) > 1)
    letters = {letter for key in trie for letter in key}
    overlap = {key[:size] for key in several for size in range(1, len(key))}
    return [
        key
        for at, key in enumerate(several)
        if at >= _MOST
        or letters & set(trie.entry(key) or "")
        or any(key[-size:] in overlap for size in range(1, len(key)))
    ]
