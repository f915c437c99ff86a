"""The directory of a committee: several classifiers as one model, which `transformers` pipelines run with the class
that lies in the folder (`trust_remote_code=True`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from lilliput.errors import ModelError
from lilliput.export.blocks import COMMITTEE, class_files
from lilliput.export.encoder_dir import fill_with, raw_config, stored_tensors
from lilliput.export.weights import WEIGHTS
from lilliput.model.encoder import Classifier
from lilliput.model.encoder_config import EncoderConfig
from lilliput.store import atomic_dir, write_json
from lilliput.tokenizer.load import Tokenizer
from lilliput.tokenizer.special import for_encoder

VOTES = ("softmax", "logits")


def save_committee(
    path: Path,
    members: Sequence[Classifier],
    tokenizer: Tokenizer,
    labels: list[str],
    vote: str,
    info: dict[str, Any],
    card: str,
) -> Path:
    """Write the directory, whole or not at all. vote: one of VOTES. Returns the path."""
    raw = {
        "architectures": ["LilliputCommitteeForSequenceClassification"],
        "model_type": COMMITTEE,
        "auto_map": {
            "AutoConfig": f"configuration_{COMMITTEE}.LilliputCommitteeConfig",
            "AutoModelForSequenceClassification": f"modeling_{COMMITTEE}.LilliputCommitteeForSequenceClassification",
        },
        "members": [member.config.to_hf("SequenceClassification") for member in members],
        "vote": vote,
        "id2label": {str(number): name for number, name in enumerate(labels)},
        "label2id": {name: number for number, name in enumerate(labels)},
        "pad_token_id": members[0].config.pad_id,
        "dtype": "float32",
        "torch_dtype": "float32",
    }
    with atomic_dir(path) as folder:
        write_json(folder / "config.json", raw)
        for name, text in class_files("committee").items():
            (folder / name).write_text(text, encoding="utf-8")
        write_json(folder / "lilliput.json", info)
        tensors = {
            f"members.{at}.{name}": tensor.detach().cpu().contiguous()
            for at, member in enumerate(members)
            for name, tensor in member.state_dict().items()
        }
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        tokenizer.save(folder, model_max_length=min(member.config.context for member in members))
        (folder / "README.md").write_text(card, encoding="utf-8")
    return path


def is_committee(path: Path) -> bool:
    """Whether the folder holds a committee. Raises ModelError where it holds no model at all."""
    return raw_config(path).get("model_type") == COMMITTEE


def load_committee(path: Path) -> tuple[list[Classifier], Tokenizer, list[str], str]:
    """(members in evaluation mode, tokenizer, names of the labels, how they vote). Raises ModelError."""
    raw = raw_config(path)
    tokenizer, special = for_encoder(Tokenizer.load(path))
    try:
        labels = [str(raw["id2label"][key]) for key in sorted(raw["id2label"], key=int)]
        configs = [EncoderConfig.from_hf(one, special.ids(), str(path)) for one in raw["members"]]
        vote = str(raw["vote"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"config.json does not describe a committee: {error}", where=str(path)) from None
    if vote not in VOTES or not configs:
        raise ModelError(f"no committee with the vote {vote!r}", where=str(path), mend=f"one of {', '.join(VOTES)}")
    stored, members = stored_tensors(path), []
    for at, config in enumerate(configs):
        own = f"members.{at}."
        member = Classifier(config, len(labels))
        found = {name.removeprefix(own): tensor for name, tensor in stored.items() if name.startswith(own)}
        fill_with(member, found, str(path))
        members.append(member.eval())
    return members, tokenizer, labels, vote
