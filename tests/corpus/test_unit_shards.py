"""Units on disk: what is read back is what the text says, wherever a window begins."""

from pathlib import Path

import numpy as np
import pytest

from lilliput.corpus.unit_rows import DOCUMENT
from lilliput.corpus.unit_shards import BLOCK, UnitShards, pack_units
from lilliput.errors import CorpusError, TokenizerError
from lilliput.tokenizer.units import UnitTokenizer

UNITS = UnitTokenizer(6)
TEXTS = ["Once upon a time " * 300, "", "one line", "द्वार खुला " * 200, "extraordinarily " * 150]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pack_units(TEXTS, UNITS.units, limit=6, tokenizer_hash=UNITS.hash, out=tmp_path, split="train")
    return tmp_path


def test_windows_hold_the_units_of_the_text(folder: Path) -> None:
    shards = UnitShards(folder, "train", UNITS.hash)
    symbols = [symbol for text in TEXTS for symbol in (DOCUMENT, *UNITS.encode(text), DOCUMENT)]
    whole = UNITS.positions(symbols)
    assert len(shards.tokens) == len(whole) == shards.manifest["tokens"] > 2 * BLOCK
    assert shards.bytes.tolist() == [len(text.encode()) for text in TEXTS]
    assert [whole[int(at), 0] for at in shards.documents[:-1]] == [DOCUMENT] * len(TEXTS)
    for context in (8, 100, 1000):
        count = shards.windows(context)
        read = shards.batch(np.arange(count)[::-1], context)
        assert read.shape == (count, context + 1, 6)
        for number, window in enumerate(read[::-1]):
            assert (window == whole[number * context :][: context + 1]).all()


def test_damage_and_another_pattern_are_told(folder: Path) -> None:
    with pytest.raises(TokenizerError, match="made with the tokenizer"):
        UnitShards(folder, "train", UnitTokenizer(7).hash)
    with open(folder / "train.text", "ab") as text:
        text.write(b"x")
    with pytest.raises(CorpusError, match="damaged"):
        UnitShards(folder, "train", UNITS.hash)


def test_no_document_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no document"):
        pack_units([], UNITS.units, limit=6, tokenizer_hash=UNITS.hash, out=tmp_path, split="train")
