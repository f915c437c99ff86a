"""Tiny tokenizers of every kind, drawn at random: few letters and many overlapping pieces, so that all that can go
wrong between neighbours goes wrong often, and so that every short text can be tried."""

import itertools
import json
import random

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from lilliput.tokenizer.source import Source

LETTERS = "abc"
# Every text of up to six letters and blanks, and some with characters that no such tokenizer has.
SHORT_TEXTS = ["".join(text) for size in range(1, 7) for text in itertools.product(f"{LETTERS} ", repeat=size)]
SHORT_TEXTS += ["☃", "\r", "é", "a☃b", "\x00"]
_PATTERN = "a+b?|[^a]+"
_PLAIN = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
_DECODER_ALONE = decoders.Sequence(_PLAIN)
_DECODER = decoders.Sequence([*_PLAIN, decoders.Strip(" ", 1, 0)])  # what was put before the text


def as_source(backend: Backend) -> Source:
    return Source(json.loads(backend.to_str()), {}, "test")


def names_of(source: Source) -> dict[int, str]:
    return {number: piece for piece, number in source.pieces.items()}


def _merged(draw: random.Random, letters: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """(pieces, merges in random order): a merge may come before those that make its parts, and so never happen."""
    pool, merges = list(letters), []
    for _ in range(draw.randint(3, 12)):
        left, right = draw.choice(pool), draw.choice(pool)
        if len(left + right) > 5 or (left, right) in merges or (left + right in pool and draw.random() < 0.7):
            continue
        merges.append((left, right))
        if left + right not in pool:
            pool.append(left + right)
    draw.shuffle(merges)
    return pool, merges


def _numbered(pieces: list[str]) -> dict[str, int]:
    return {piece: number for number, piece in enumerate(pieces)}


def plain_bpe(draw: random.Random) -> Source:
    pieces, merges = _merged(draw, list(LETTERS[: draw.randint(2, 3)]))
    backend = Backend(models.BPE(_numbered(pieces), merges))
    backend.decoder = decoders.Fuse()
    return as_source(backend)


def cut_bpe(draw: random.Random) -> Source:
    """A pattern cuts the text first."""
    pieces, merges = _merged(draw, list(LETTERS[: draw.randint(2, 3)]))
    backend = Backend(models.BPE(_numbered(pieces), merges))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(_PATTERN), "isolated")
    backend.decoder = decoders.Fuse()
    return as_source(backend)


def looking_up_bpe(draw: random.Random) -> Source:
    """Whole words are looked up before any merging, and some pieces come out only so."""
    letters = list(LETTERS[: draw.randint(2, 3)])
    pieces, merges = _merged(draw, letters)
    for _ in range(2):
        word = "".join(draw.choice(letters) for _ in range(draw.randint(2, 4)))
        pieces += [word] if word not in pieces else []
    backend = Backend(models.BPE(_numbered(pieces), merges, ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(_PATTERN), "isolated")
    backend.decoder = decoders.Fuse()
    return as_source(backend)


def sentencepiece_bpe(draw: random.Random, byte_fallback: bool = True) -> Source:
    """As LLaMA-2's: a blank put before the text, unknown characters as bytes (or as the unknown piece)."""
    pieces, merges = _merged(draw, [*LETTERS[: draw.randint(2, 3)], "▁"])
    spelt = [f"<0x{byte:02X}>" for byte in range(256)] if byte_fallback else []
    model = models.BPE(
        _numbered(["<unk>", *spelt, *pieces]), merges, byte_fallback=byte_fallback, unk_token="<unk>", fuse_unk=True
    )
    backend = Backend(model)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = _DECODER
    return as_source(backend)


def sentencepiece_bpe_without_bytes(draw: random.Random) -> Source:
    return sentencepiece_bpe(draw, byte_fallback=False)


def unigram(draw: random.Random, byte_fallback: bool = False, lacking: float = 0.0) -> Source:
    """Scores in no order; `lacking`: how often a letter is no piece of its own."""
    letters = list(LETTERS[: draw.randint(2, 3)])
    scores = {piece: -8 * draw.random() for piece in [*letters, "▁"]}
    for _ in range(draw.randint(3, 10)):
        piece = "".join(draw.choice([*letters, "▁"]) for _ in range(draw.randint(2, 4)))
        scores.setdefault(piece, -14 * draw.random())
    if draw.random() < lacking:
        del scores[letters[0]]
    spelt = [(f"<0x{byte:02X}>", 0.0) for byte in range(256)] if byte_fallback else []
    pieces = [("<unk>", draw.choice([0.0, -20.0])), *spelt, *scores.items()]
    backend = Backend(models.Unigram(pieces, 0, byte_fallback))
    scheme = draw.choice(["always", "never", "first"])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=draw.random() < 0.5)
    backend.decoder = _DECODER if scheme != "never" else _DECODER_ALONE
    return as_source(backend)


def unigram_with_bytes(draw: random.Random) -> Source:
    return unigram(draw, byte_fallback=True, lacking=0.3)


def unigram_that_lacks_a_letter(draw: random.Random) -> Source:
    return unigram(draw, lacking=1.0)


def word_piece(draw: random.Random) -> Source:
    """Sometimes a letter has no form inside words."""
    letters = list(LETTERS[: draw.randint(2, 3)])
    pieces = ["[UNK]", *letters, *(f"##{letter}" for letter in letters if draw.random() < 0.9)]
    for _ in range(draw.randint(3, 14)):
        piece = draw.choice(["", "##"]) + "".join(draw.choice(letters) for _ in range(draw.randint(2, 3)))
        pieces += [piece] if piece not in pieces else []
    backend = Backend(models.WordPiece(_numbered(pieces), unk_token="[UNK]", max_input_chars_per_word=100))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=False)
    return as_source(backend)


FAMILIES = {
    family.__name__: family
    for family in (
        plain_bpe,
        cut_bpe,
        looking_up_bpe,
        sentencepiece_bpe,
        sentencepiece_bpe_without_bytes,
        unigram,
        unigram_with_bytes,
        word_piece,
    )
}
