"""`hf:NAME[:split]`: a data set of the Hugging Face hub, or a local folder of one, through `datasets`.

NAME may carry a configuration after a comma: `hf:wikitext,wikitext-2-raw-v1:train`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from lilliput.errors import CorpusError, MissingExtra, nearest
from lilliput.store import canonical_hash, file_hash


def _parse(source: str) -> tuple[str, str | None, str]:
    """(name, configuration or None, split)."""
    match = re.fullmatch(r"hf:([^:,]+)(?:,([^:]+))?(?::(.+))?", source)
    if match is None:
        mend = "write hf:NAME, hf:NAME:SPLIT or hf:NAME,CONFIGURATION:SPLIT"
        raise CorpusError("not the name of a data set", where=source, mend=mend)
    return os.path.expanduser(os.path.expandvars(match[1])), match[2], match[3] or "train"


def _datasets() -> ModuleType:
    try:
        import datasets
    except ImportError:
        raise MissingExtra("datasets", "hf") from None
    return datasets  # type: ignore[no-any-return]


def _failed(source: str, error: Exception) -> CorpusError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    mend = "check the name, the split and the connection; a local folder may be named as hf:FOLDER"
    if "onfig name is missing" in reason:
        mend = "name the configuration: hf:NAME,CONFIGURATION"
    return CorpusError(f"the data set cannot be read: {reason}", where=source, mend=mend)


def identity(source: str) -> dict[str, Any]:
    """What decides the rows: the content of a local folder, or the hub's revision of the data files."""
    name, configuration, split = _parse(source)
    if (folder := Path(name)).is_dir():
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        found = [[path.relative_to(folder).as_posix(), file_hash(path)] for path in files]
        return {"hf": found, "configuration": configuration, "split": split}
    datasets = _datasets()
    try:
        builder = datasets.load_dataset_builder(name, configuration)
    except Exception as error:  # the package raises many kinds, its own and its network library's
        raise _failed(source, error) from None
    # The resolved addresses name the revision they were resolved at.
    revision = canonical_hash({"files": str(builder.config.data_files), "hash": str(builder.hash)})
    return {"hf": name, "configuration": configuration, "split": split, "revision": revision}


def rows(source: str, field: str) -> Iterator[dict[str, Any]]:
    """The rows of the data set, streamed: nothing is downloaded but what is read.

    Only `field` is kept where the data set says that it has it. Raises CorpusError, MissingExtra.
    """
    name, configuration, split = _parse(source)
    datasets = _datasets()
    try:
        names = datasets.get_dataset_split_names(name, configuration)
        if split not in names:
            close = nearest(split, names) or names[0]
            reason = f"no split {split!r}; there are {', '.join(names)}"
            raise CorpusError(reason, where=source, mend=f"hf:{name}:{close}")
        table = datasets.load_dataset(name, configuration, split=split, streaming=True)
        if table.features and field in table.features:
            table = table.select_columns([field])
        yield from table
    except CorpusError:
        raise
    except Exception as error:  # as above
        raise _failed(source, error) from None
