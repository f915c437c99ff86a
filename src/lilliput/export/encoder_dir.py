"""The directory of an encoder: Hugging Face's layout, which `AutoModelForMaskedLM` or
`AutoModelForSequenceClassification` loads with none of our code where the shape is plain BERT; one with a conv front
end brings its class along (`trust_remote_code=True`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lilliput.errors import ModelError
from lilliput.export.blocks import class_files
from lilliput.export.weights import WEIGHTS, weight_files
from lilliput.model.encoder import Classifier, Encoder
from lilliput.model.encoder_config import BERT, CONV, EncoderConfig
from lilliput.store import atomic_dir, write_json
from lilliput.tokenizer.load import Tokenizer
from lilliput.tokenizer.special import Specials, for_encoder

# Parts of other heads, and copies of tied tensors, which files of transformers may hold beside ours.
_BESIDE = re.compile(
    r"^cls\.seq_relationship\.|^bert\.pooler\.|^cls\.predictions\.decoder\.|\.position_ids$|^classifier\.|^cls\."
)
_OLD_NAMES = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))


def save_encoder(
    path: Path | str,
    model: Encoder | Classifier,
    tokenizer: Tokenizer,
    info: dict[str, Any],
    card: str,
    labels: list[str] | None = None,
) -> Path:
    """Write the directory, whole or not at all. tokenizer: as `for_encoder` gives it. info: goes to `lilliput.json`;
    card: the README's Markdown. labels: names of a classifier's outputs. Returns the path."""
    path, config = Path(path), model.config
    head = "SequenceClassification" if labels is not None else "MaskedLM"
    raw = config.to_hf(head)
    if labels is not None:
        raw["id2label"] = {str(number): name for number, name in enumerate(labels)}
        raw["label2id"] = {name: number for number, name in enumerate(labels)}
        raw["problem_type"] = "single_label_classification"
    with atomic_dir(path) as folder:
        write_json(folder / "config.json", raw)
        for name, text in class_files(config.family).items():
            (folder / name).write_text(text, encoding="utf-8")
        write_json(folder / "lilliput.json", info)
        write_encoder(folder / WEIGHTS, model)
        tokenizer.save(folder, model_max_length=config.context)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return path


def write_encoder(file: Path, model: Encoder | Classifier) -> None:
    """Write `model.state_dict()` to `file`; the tied head's matrix is not stored."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, file, metadata={"format": "pt"})


def is_encoder(path: Path) -> bool:
    """Whether the folder holds an encoder (or a classifier that was made of one)."""
    try:
        return raw_config(path).get("model_type") in (BERT, CONV)
    except ModelError:
        return False


def read_encoder_config(path: Path) -> tuple[EncoderConfig, Tokenizer, Specials]:
    """Shape, tokenizer and its special tokens of an encoder's directory. Raises ModelError, TokenizerError."""
    raw = raw_config(path)
    tokenizer, special = for_encoder(Tokenizer.load(path))
    config = EncoderConfig.from_hf(raw, special.ids(), where=str(path / "config.json"))
    if tokenizer.vocab_size > config.vocab_size:
        raise ModelError(
            f"the tokenizer has {tokenizer.vocab_size} pieces, the model only {config.vocab_size} rows",
            where=str(path),
            mend="give the tokenizer that the model was trained with",
        )
    return config, tokenizer, special


def load_encoder(path: Path | str) -> tuple[Encoder, Tokenizer, Specials]:
    """A masked language model, as fp32 on the CPU: one of ours or transformers' BertForMaskedLM. Raises ModelError."""
    path = Path(path)
    config, tokenizer, special = read_encoder_config(path)
    model = Encoder(config)
    fill_encoder(model, path)
    return model, tokenizer, special


def load_classifier(path: Path | str) -> tuple[Classifier, Tokenizer, list[str]]:
    """A classifier and the names of its labels: one of ours or transformers' BertForSequenceClassification. Raises
    ModelError."""
    path = Path(path)
    raw = raw_config(path)
    names = raw.get("id2label")
    if not isinstance(names, Mapping) or "SequenceClassification" not in str(raw.get("architectures")):
        mend = "make one: lilliput classify ENCODER --train FILE --test FILE"
        raise ModelError("the model is no classifier", where=str(path), mend=mend)
    labels = [str(names[key]) for key in sorted(names, key=int)]
    config, tokenizer, _ = read_encoder_config(path)
    model = Classifier(config, len(labels))
    fill_encoder(model, path)
    return model, tokenizer, labels


def fill_encoder(model: Encoder | Classifier, path: Path, *, body: bool = False) -> None:
    """Give the model the weights in the folder `path`. body: only the encoder's own, whatever heads lie beside.

    Raises ModelError that names tensors that are missing or of another shape.
    """
    fill_with(model, stored_tensors(path), str(path), body=body)


def fill_with(model: Encoder | Classifier, stored: Mapping[str, Tensor], where: str, *, body: bool = False) -> None:
    """`fill_encoder` with tensors at hand."""
    own = model.state_dict()
    wanted = {name: tensor for name, tensor in own.items() if not body or _of_body(name)}
    missing = [name for name in wanted if name not in stored]
    wrong = [name for name in wanted if name in stored and stored[name].shape != wanted[name].shape]
    strange = [name for name in stored if name not in own and not _BESIDE.search(name)]
    for said, names in (("missing", missing), ("of the wrong shape", wrong), ("unexpected", strange)):
        if names:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            raise ModelError(
                f"the weights do not fit config.json; {said}: {', '.join(names[:4])}{more}",
                where=where,
                mend="give the config.json that these weights were saved with",
            )
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(stored[name])


def _of_body(name: str) -> bool:
    return name.startswith("bert.") and ".pooler." not in name


def raw_config(path: Path) -> dict[str, Any]:
    """What the folder's `config.json` holds. Raises ModelError."""
    file = path / "config.json"
    if not file.is_file():
        raise ModelError(
            "there is no model here: config.json is absent",
            where=str(path),
            mend="make an encoder: lilliput make objective=masked",
        )
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"config.json is damaged: {error}", where=str(file)) from None
    if not isinstance(raw, dict):
        raise ModelError("config.json holds no object", where=str(file))
    return raw


def stored_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of the folder by the names that transformers gives them today."""
    found: dict[str, Tensor] = {}
    for file in weight_files(path):
        try:
            loaded = load_file(file)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"the weights cannot be read: {error}", where=str(file), mend="copy it again") from None
        for name, tensor in loaded.items():
            for old, new in _OLD_NAMES:
                name = name.replace(old, new)
            plain = name.startswith(("bert.", "cls.", "classifier.", "members."))
            found[name if plain else f"bert.{name}"] = tensor
    return found
