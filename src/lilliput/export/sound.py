"""Whether what is read of a model can be what was once written.

safetensors holds no checksum, so a flipped bit has to be told by the number it makes: NaN, infinity, or one far beyond
what weights are. A flip in the mantissa or to a smaller number is not seen. Where a model was downloaded by
huggingface_hub, the SHA-256 of each large file is known, and shows every change.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lilliput.errors import ModelError

# What fp16 holds: weights are far smaller, or models could not be kept in it.
LARGEST = 65_504.0
# The mend for a file that is damaged.
AGAIN = "copy or download the file again"
# Where huggingface_hub notes what it put into a folder: commit, ETag and time, a line each.
_NOTED = Path(".cache") / "huggingface" / "download"
_SHA256 = 64  # hex digits; the ETag of a small file is a shorter hash, of git


def check_sound(place: Path, name: str, tensor: Tensor) -> None:
    """Raise ModelError where the tensor `name`, which was read from `place`, holds a number that is no weight."""
    if not tensor.numel():
        return
    low, high = (float(bound) for bound in torch.aminmax(tensor))
    where = f"{place}: {name}"
    if not low > float("-inf") or not high < float("inf"):
        raise ModelError("its numbers are not finite", where=where, mend=f"give weights that work, or {AGAIN}")
    worst = low if -low > high else high
    if abs(worst) > LARGEST:
        reason = f"it holds {worst:.3g}, which no weight is: a bit may have flipped"
        raise ModelError(reason, where=where, mend=AGAIN)


def check_downloaded(file: Path, digest: str) -> None:
    """Raise ModelError where `file`, whose SHA-256 is `digest`, was downloaded as another and not written since."""
    found = _noted(file) or _blob(file)
    if found is not None and found[0] != digest:
        wanted, mend = found
        raise ModelError(
            f"it is damaged: its SHA-256 begins with {digest[:12]}, that of what was downloaded with {wanted[:12]}",
            where=str(file),
            mend=mend,
        )


def _noted(file: Path) -> tuple[str, str] | None:
    """What `hf download --local-dir` noted beside the file: its SHA-256, and how to mend another."""
    notes = file.parent / _NOTED / f"{file.name}.metadata"
    if not notes.is_file():
        return None
    lines = notes.read_text(encoding="utf-8", errors="replace").split("\n")
    try:
        digest, when = lines[1].strip(), float(lines[2])
    except (IndexError, ValueError):
        return None  # of another version of huggingface_hub
    if len(digest) != _SHA256 or file.stat().st_mtime > when + 1:
        return None
    return digest, f"download it again; if you changed it yourself, remove {notes}"


def _blob(file: Path) -> tuple[str, str] | None:
    """In huggingface_hub's own cache a large file is a link to one that is named by its SHA-256."""
    blob = file.resolve()
    if blob.parent.name != "blobs" or len(blob.name) != _SHA256:
        return None
    return blob.name, f"remove {blob}, and download it again"
