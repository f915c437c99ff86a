"""Every error a person may meet: one message that says what, where and how to mend it.

`UserError` and its children mean the request was wrong (exit code 2); the others mean that the work
failed (exit code 1). The command line turns them into one line; a traceback is a bug.
"""

from __future__ import annotations


class LilliputError(Exception):
    """The work failed.

    message: what happened, one sentence. where: the file, key or step. mend: what to do about it.
    """

    kind = "failed"
    exit_code = 1

    def __init__(self, message: str, *, where: str | None = None, mend: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.mend = mend

    def __str__(self) -> str:
        where = f" [{self.where}]" if self.where else ""
        mend = f" → {self.mend}" if self.mend else ""
        return f"{self.message}{where}{mend}"

    def to_dict(self) -> dict[str, str | None]:
        """The `error` object of `--json`."""
        return {"kind": self.kind, "message": self.message, "where": self.where, "mend": self.mend}


class UserError(LilliputError):
    """The request was wrong: nothing was done."""

    kind = "request"
    exit_code = 2


class ConfigError(UserError):
    """A recipe, study or option has an unknown key or an impossible value."""

    kind = "config"


class CorpusError(UserError):
    """A source of text cannot be used."""

    kind = "corpus"


class TokenizerError(UserError):
    """A tokenizer cannot be used, or is not the one the data was made with."""

    kind = "tokenizer"


class ModelError(UserError):
    """A model directory cannot be used."""

    kind = "model"


class MissingExtra(UserError):  # noqa: N818 (an extra is missing: the name says it)
    """An optional package is needed and absent."""

    kind = "missing"

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs the package {package}", mend=f"pip install 'lilliput[{extra}]'")


class CheckpointError(LilliputError):
    """No usable checkpoint where one must be."""

    kind = "checkpoint"


class TrainingError(LilliputError):
    """Training cannot go on."""

    kind = "training"


class StorageError(LilliputError):
    """The disk is full or cannot be written."""

    kind = "storage"


def nearest(word: str, known: list[str]) -> str | None:
    """The entry of `known` closest in spelling to `word`, or None if none is close."""
    from difflib import get_close_matches

    found = get_close_matches(word, known, n=1, cutoff=0.5)
    return found[0] if found else None
