"""The id map of a real compaction is proved piece by piece; anything else is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lilliput.errors import ConfigError
from lilliput.inherit.id_map import common_ids, read_ids
from lilliput.tokenizer.load import Tokenizer
from lilliput.tokenizer.renumber import renumber
from lilliput.tokenizer.source import read_source
from lilliput.tokenizer.train import train_tokenizer

TEXT = "the cat sat on the mat and the dog sat on the log while a hat was for the cat. "


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tokenizer]:
    folder = tmp_path_factory.mktemp("teacher")
    train_tokenizer([TEXT] * 40, 290).save(folder)
    return folder, Tokenizer.load(folder)


def test_a_compaction_maps_to_what_it_was_cut_from(teacher: tuple[Path, Tokenizer], tmp_path: Path) -> None:
    folder, old = teacher
    kept = np.delete(np.arange(old.vocab_size), np.arange(old.vocab_size - 20, old.vocab_size, 3))
    (tmp_path / "ids.json").write_text(json.dumps({"old": kept.tolist()}))
    student, ids = Tokenizer.of(renumber(read_source(folder), kept)), read_ids(tmp_path / "ids.json")
    assert ids.dtype == torch.int64
    found = common_ids(student, old, ids)
    assert found is ids
    # The student's numbers of a text are, through the map, the teacher's numbers of the same pieces.
    mapped = ids[torch.tensor(student.encode(TEXT))].tolist()
    assert [student.token(n) for n in student.encode(TEXT)] == [old.token(n) for n in mapped]
    with pytest.raises(ConfigError, match=r"another tokenizer: piece \d+ is .* here and .* there") as caught:
        common_ids(student, old, where="big-model")
    assert caught.value.where == "big-model"
    with pytest.raises(ConfigError, match=f"of {len(kept) - 1} pieces, the student's tokenizer has {len(kept)}"):
        common_ids(student, old, ids[:-1])
    with pytest.raises(ConfigError, match="another tokenizer"):
        common_ids(student, old, ids.flip(0))


def test_the_same_tokenizer_needs_no_map(teacher: tuple[Path, Tokenizer]) -> None:
    folder, old = teacher
    assert common_ids(Tokenizer.load(folder), old) is None
    other = train_tokenizer(["quite other words, quoth she, of quince and quartz"] * 40, 290)
    with pytest.raises(ConfigError, match="another tokenizer"):
        common_ids(other, old)


@pytest.mark.parametrize(
    "text", ["{}", "[1, 2]", '{"old": []}', '{"old": [1, -1]}', '{"old": [1, true]}', '{"old": [1, 1]}', '{"old": "a"}']
)
def test_files_that_are_no_map_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "ids.json").write_text(text)
    with pytest.raises(ConfigError, match="id map"):
        read_ids(tmp_path / "ids.json")
    with pytest.raises(ConfigError, match="no id map"):
        read_ids(tmp_path / "other.json")
