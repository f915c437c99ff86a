"""Which of the teacher's pieces each of the student's is: the id map of a compaction, read and proved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lilliput.errors import ConfigError
from lilliput.store import read_json

if TYPE_CHECKING:
    from lilliput.tokenizer.load import Tokenizer

_MEND = "give the ids.json of the compaction that cut the student's tokenizer out of the teacher's"


def read_ids(file: Path) -> Tensor:
    """The map that `tokenizer compact` wrote (`ids.json`): int64 (n,), the old number of each new one.

    Raises ConfigError where it is no such file.
    """
    if not file.is_file():
        raise ConfigError("there is no id map", where=str(file), mend=_MEND)
    found = read_json(file)
    old = found.get("old") if isinstance(found, dict) else None
    if not isinstance(old, list) or not old or not all(type(number) is int and number >= 0 for number in old):
        raise ConfigError("this is no id map", where=str(file), mend=_MEND)
    if len(set(old)) < len(old):
        raise ConfigError("the id map names a piece twice", where=str(file), mend=_MEND)
    return torch.tensor(old, dtype=torch.int64)


def common_ids(
    student: Tokenizer, teacher: Tokenizer, ids: Tensor | None = None, *, where: str = "teacher"
) -> Tensor | None:
    """The id map to distil through, proved piece by piece: None where both tokenizers number alike.

    ids: what `read_ids` gave, if the student's tokenizer is a compaction. where: the teacher's name, for the error.
    Raises ConfigError, naming the teacher and the first piece, where a piece of the student is another of the teacher.
    """
    size = student.vocab_size
    if ids is None and student.hash == teacher.hash:
        return None
    if ids is not None and len(ids) != size:
        reason = f"the id map is of {len(ids)} pieces, the student's tokenizer has {size}"
        raise ConfigError(reason, where=where, mend=_MEND)
    old = list(range(size)) if ids is None else ids.tolist()
    for number, there in enumerate(old):
        mine, its = student.token(number), teacher.token(there)
        if mine != its:
            said = "nothing" if its is None else repr(its)
            reason = f"the teacher has another tokenizer: piece {number} is {mine!r} here and {said} there"
            raise ConfigError(reason, where=where, mend=_MEND)
    return ids
