"""Encoders, classifiers and committees as ONNX: one graph that any runtime reads, checked against PyTorch.

Inputs are `input_ids` and `attention_mask`, int64 (batch, positions), both free. The output `logits` is what
`transformers` gives for the same directory: (batch, positions, vocabulary) of a masked language model, (batch, labels)
of a classifier; of a committee that votes by softmax the logarithms of the mean probabilities.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lilliput.errors import LilliputError, MissingExtra, ModelError
from lilliput.export.committee_dir import is_committee, load_committee
from lilliput.export.encoder_dir import is_encoder, load_classifier, load_encoder, raw_config
from lilliput.model.encoder import PAD, Classifier, Encoder
from lilliput.store import atomic_dir, check_replaceable, write_json

NAME = "model.onnx"
TOLERANCE = 1e-4
_OPSET = 17  # the first with layer norms; every runtime since 2022 reads it
_BESIDE = ("config.json", "tokenizer.json", "tokenizer_config.json")

Ids = npt.NDArray[np.int64]
Run = Callable[[Ids, Ids], npt.NDArray[np.float32]]


class Readable(nn.Module):
    """Members that read alike, with the inputs that transformers' models have."""

    def __init__(self, members: list[Encoder | Classifier], vote: str | None = None) -> None:
        """vote: of a committee, as `save_committee` has it."""
        super().__init__()
        self.members, self.vote = nn.ModuleList(members), vote
        self.eval()
        self.context = min(member.config.context for member in members)
        self.vocab = members[0].config.vocab_size

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """logits, fp32."""
        ids_BS = torch.where(attention_mask > 0, input_ids, PAD)
        votes = [member(ids_BS) for member in self.members]
        if self.vote is None:
            only: Tensor = votes[0]
            return only
        votes_KBL = torch.stack(votes)
        return votes_KBL.softmax(-1).mean(0).log() if self.vote == "softmax" else votes_KBL.mean(0)

    def parameters_stored(self) -> int:
        """How many numbers all members hold."""
        return sum(parameter.numel() for parameter in self.parameters())


def open_readable(path: Path) -> Readable:
    """The encoder, classifier or committee in a model directory. Raises ModelError for anything else."""
    raw = raw_config(path)
    if is_committee(path):
        members, _, _, vote = load_committee(path)
        return Readable([*members], vote)
    if not is_encoder(path):
        mend = "give the model of `lilliput make objective=masked`, `classify` or `committee`"
        raise ModelError(f"a {raw.get('model_type')} model is no encoder", where=str(path), mend=mend)
    if "SequenceClassification" in str(raw.get("architectures")):
        return Readable([load_classifier(path)[0]])
    return Readable([load_encoder(path)[0]])


def export_onnx(path: Path, out: Path) -> dict[str, Any]:
    """Write `out/model.onnx`, beside it configuration and tokenizer, whole or not at all: what was written, and how far
    from PyTorch's its outputs are. Raises UserError before any work; LilliputError where they differ by more than 1e-4,
    and then nothing is written."""
    _runtime()
    check_replaceable(out, (NAME, "export.json", *_BESIDE), set(), (path,))
    model = open_readable(path)
    with atomic_dir(out) as folder:
        write_graph(model, folder / NAME)
        apart = parity(model, open_graph(folder / NAME))
        if not apart <= TOLERANCE:
            reason = f"the graph's outputs are {apart:.2g} from PyTorch's"
            raise LilliputError(reason, where=str(path), mend="report it, with the model's config.json")
        for name in _BESIDE:
            if (path / name).is_file():
                shutil.copyfile(path / name, folder / name)
        known = {
            "parameters": model.parameters_stored(),
            "bytes": (folder / NAME).stat().st_size,
            "parity": {"largest_difference": apart, "tolerance": TOLERANCE},
        }
        write_json(folder / "export.json", {"format": "onnx", "opset": _OPSET, **known})
    return {"model": str(path.absolute()), "out": str(out.absolute()), "file": str((out / NAME).absolute()), **known}


def write_graph(model: Readable, file: Path) -> None:
    """The model as an ONNX graph."""
    ids = torch.arange(8).remainder(model.vocab).view(2, 4)
    mask = torch.ones_like(ids)
    # With padding, since without it attention takes another way.
    mask[1, 2:] = 0
    free = {0: "batch", 1: "positions"}
    with warnings.catch_warnings():
        # The tracer warns of every branch: those here are of padding, which is there.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (ids, mask),
            str(file),
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_axes={"input_ids": free, "attention_mask": free, "logits": {0: "batch"}},
            opset_version=_OPSET,
            dynamo=False,
        )


def open_graph(file: Path, threads: int | None = None) -> Run:
    """(ids, mask) → logits, by ONNX Runtime on the CPU. threads: of one call, None for those of PyTorch."""
    runtime = _runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def run(ids: Ids, mask: Ids) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        return found

    return run


def in_runtime(model: Readable, threads: int | None = None) -> Run:
    """The model in ONNX Runtime, its graph written to no lasting place."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, NAME)
        write_graph(model, file)
        return open_graph(file, threads)


@torch.inference_mode()
def parity(model: Readable, run: Run) -> float:
    """The largest difference of an output over batches of several sizes and lengths, padded and not."""
    rng, apart = np.random.default_rng(0), 0.0
    for size, length in ((1, model.context), (1, 1), (3, max(1, model.context // 2)), (5, min(7, model.context))):
        ids = rng.integers(0, model.vocab, (size, length))
        mask = (np.arange(length) < rng.integers(1, length + 1, (size, 1))).astype(np.int64)
        mask[0] = 1
        theirs, ours = run(ids, mask), model(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
        # What stands behind a text is nobody's: of a masked model its positions are left out.
        kept = mask.astype(bool) if ours.ndim == 3 else slice(None)
        apart = max(apart, float(np.abs(theirs - ours)[kept].max()))
    return apart


def has_runtime() -> bool:
    """Whether graphs can be written and run here."""
    try:
        _runtime()
    except MissingExtra:
        return False
    return True


def _runtime() -> Any:
    try:
        import onnx  # noqa: F401  (PyTorch's exporter needs it)
        import onnxruntime
    except ImportError as error:
        raise MissingExtra(error.name or "onnxruntime", "onnx") from None
    return onnxruntime
