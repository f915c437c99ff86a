"""Classes for `transformers`, for families that it does not know: each model directory takes its files along.

They import torch and transformers alone, and nothing here imports them: they are read as text and written beside the
weights, where `auto_map` in config.json names them.
"""

from __future__ import annotations

from importlib.resources import files

from lilliput.model.architectures import BYTE_POOL, OWN
from lilliput.model.encoder_config import CONV

COMMITTEE = "lilliput_committee"  # the model_type of several classifiers as one
_ENCODER = (f"configuration_{CONV}.py", f"modeling_{CONV}.py")
_FILES = {
    **{family: (f"configuration_{kind}.py", f"modeling_{kind}.py") for family, kind in OWN.items()},
    "byte-pool": tuple(f"{part}_{BYTE_POOL}.py" for part in ("configuration", "modeling", "tokenization")),
    "bert-conv": _ENCODER,
    "committee": (f"configuration_{COMMITTEE}.py", f"modeling_{COMMITTEE}.py", *_ENCODER),
}


def class_files(family: str) -> dict[str, str]:
    """The files, name to text, that a model directory of this family must hold; none for a family that transformers
    knows."""
    folder = files(__name__)
    return {name: (folder / name).read_text(encoding="utf-8") for name in _FILES.get(family, ())}
