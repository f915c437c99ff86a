"""The shape of an encoder, and its translation to and from the `config.json` of Hugging Face's BERT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lilliput.errors import ModelError

BERT = "bert"
CONV = "lilliput_encoder"  # the model_type of a conv front end, whose class each model directory brings along
ENCODER_INITS = ("neighbours", "fan-in", "constant")
_SIZES = ("vocab_size", "depth", "width", "heads", "ffn", "context", "types")
# Keys of config.json that change what is computed: each may be absent or have the value that we compute.
_PLAIN = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "chunk_size_feed_forward": 0,
}


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """A BERT-shaped encoder (1810.04805): bidirectional, norms after each addition, learned positions.

    Sizes count elements: `width` is the residual stream, `ffn` the hidden size of the feed-forward, `context` the
    number of positions, `types` that of token types. The heads share the width out: head_dim = width / heads, as in
    every BERT. conv: layers of the convolutional front end (conv.py), 0 for none; channels: of each of them. pad_id,
    cls_id, sep_id, mask_id: the special tokens. dropout: of embeddings, attention and both halves of a layer.

    Raises ModelError for a shape that cannot be computed or that `transformers` would refuse to load.
    """

    vocab_size: int
    depth: int
    width: int
    heads: int
    ffn: int
    pad_id: int
    cls_id: int
    sep_id: int
    mask_id: int
    context: int = 128
    types: int = 2
    dropout: float = 0.1
    conv: int = 0
    channels: int = 64
    norm_eps: float = 1e-12
    init: str = "constant"

    def __post_init__(self) -> None:
        for name in _SIZES:
            if getattr(self, name) < 1:
                raise ModelError(f"{name} is {getattr(self, name)}; it must be at least 1", where=f"model.{name}")
        if self.width % self.heads:
            raise ModelError(
                f"{self.heads} heads cannot share a width of {self.width} evenly",
                where="model.heads",
                mend="choose heads that divides width",
            )
        if self.context < 3:
            raise ModelError("there is no room for text between [CLS] and [SEP]", where="model.context")
        if not 0 <= self.dropout < 1:
            raise ModelError(f"dropout is {self.dropout}; it is a share below 1", where="model.dropout")
        if self.conv < 0 or (self.conv and self.channels < 1):
            raise ModelError("a front end has layers and channels", where="model.conv", mend="conv=2 channels=64")
        if self.init not in ENCODER_INITS:
            known = ", ".join(ENCODER_INITS)
            raise ModelError(f"unknown initialisation {self.init!r}", where="model.init", mend=f"one of {known}")
        highest = max(self.pad_id, self.cls_id, self.sep_id, self.mask_id)
        if highest >= self.vocab_size:
            raise ModelError(f"special token {highest} lies outside the vocabulary", where="config.json")

    @property
    def head_dim(self) -> int:
        """Channels a head."""
        return self.width // self.heads

    @property
    def family(self) -> str:
        """`bert`, or `bert-conv` for one that transformers does not know."""
        return "bert-conv" if self.conv else BERT

    def identity(self) -> dict[str, Any]:
        """The fields as a stored stage's key has them."""
        return {"family": self.family, **asdict(self)}

    def front_parameters(self) -> int:
        """Parameters of the convolutional front end, its norms among them (running statistics are none)."""
        if not self.conv:
            return 0
        inner = (self.conv - 1) * (9 * self.channels**2 + self.channels)
        return 9 * self.channels + self.channels + inner + 2 * self.channels * self.conv + self.channels + 1 + 2

    def layer_parameters(self) -> int:
        """Parameters of one layer: four attention matrices, two of the feed-forward, their biases, two norms."""
        return 4 * self.width**2 + 2 * self.width * self.ffn + 9 * self.width + self.ffn

    def body_parameters(self) -> int:
        """All but the three tables and the heads."""
        return self.depth * self.layer_parameters() + self.front_parameters() + 2 * self.width

    def head_parameters(self) -> int:
        """The masked head: a transform with its norm, and a bias for each piece (its matrix is the embedding's)."""
        return self.width**2 + 3 * self.width + self.vocab_size

    def table_parameters(self) -> int:
        """Embeddings of pieces, positions and token types."""
        return (self.vocab_size + self.context + self.types) * self.width

    def parameters(self) -> int:
        """Stored parameters of the masked language model; the tied head's matrix counts once."""
        return self.table_parameters() + self.body_parameters() + self.head_parameters()

    def step_flops(self, positions: float, predicted: float) -> float:
        """Training cost of `positions` positions of which `predicted` are predicted: 6 for each weight that meets one,
        attention's quadratic part not counted. A convolution's weights meet every channel of a position."""
        conv = self.front_parameters() * self.width
        body = self.depth * self.layer_parameters() + conv
        return 6.0 * (body * positions + (self.head_parameters() + self.vocab_size * self.width) * predicted)

    def to_hf(self, head: str = "MaskedLM", dtype: str = "float32") -> dict[str, Any]:
        """The `config.json` of the same model in transformers. head: MaskedLM or SequenceClassification."""
        raw: dict[str, Any] = {
            "architectures": [f"BertFor{head}"],
            "model_type": BERT,
            "vocab_size": self.vocab_size,
            "hidden_size": self.width,
            "num_hidden_layers": self.depth,
            "num_attention_heads": self.heads,
            "intermediate_size": self.ffn,
            "hidden_act": "gelu",
            "hidden_dropout_prob": self.dropout,
            "attention_probs_dropout_prob": self.dropout,
            "max_position_embeddings": self.context,
            "type_vocab_size": self.types,
            "initializer_range": 0.02,
            "layer_norm_eps": self.norm_eps,
            "pad_token_id": self.pad_id,
            "cls_token_id": self.cls_id,
            "sep_token_id": self.sep_id,
            "mask_token_id": self.mask_id,
            "tie_word_embeddings": True,
            "dtype": dtype,
            "torch_dtype": dtype,
        }
        if self.conv:
            raw |= {
                "architectures": [f"LilliputEncoderFor{head}"],
                "model_type": CONV,
                "auto_map": {
                    "AutoConfig": f"configuration_{CONV}.LilliputEncoderConfig",
                    "AutoModel": f"modeling_{CONV}.LilliputEncoderModel",
                    f"AutoModelFor{head}": f"modeling_{CONV}.LilliputEncoderFor{head}",
                },
                "conv_layers": self.conv,
                "conv_channels": self.channels,
            }
        return raw

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], special: Mapping[str, int], where: str = "config.json") -> EncoderConfig:
        """Read the `config.json` of a BERT. special: pad_id, cls_id, sep_id, mask_id, which only its tokenizer knows.
        An absent key means transformers' default. Raises ModelError that names what this encoder does not implement."""
        kind = raw.get("model_type")
        if kind not in (BERT, CONV):
            raise ModelError(
                f"model_type {kind!r} is no encoder that is supported", where=where, mend=f"give a {BERT} or {CONV}"
            )
        for key, value in _PLAIN.items():
            if raw.get(key, value) != value:
                raise ModelError(f"the model uses {key}={raw[key]!r}, which this encoder does not have", where=where)
        try:
            return cls(
                vocab_size=int(raw.get("vocab_size", 30522)),
                depth=int(raw.get("num_hidden_layers", 12)),
                width=int(raw.get("hidden_size", 768)),
                heads=int(raw.get("num_attention_heads", 12)),
                ffn=int(raw.get("intermediate_size", 3072)),
                context=int(raw.get("max_position_embeddings", 512)),
                types=int(raw.get("type_vocab_size", 2)),
                dropout=float(raw.get("hidden_dropout_prob", 0.1)),
                norm_eps=float(raw.get("layer_norm_eps", 1e-12)),
                conv=int(raw.get("conv_layers", 0)) if kind == CONV else 0,
                channels=int(raw.get("conv_channels", 64)),
                pad_id=special["pad_id"],
                cls_id=special["cls_id"],
                sep_id=special["sep_id"],
                mask_id=special["mask_id"],
            )
        except (TypeError, ValueError) as error:
            raise ModelError(f"a size in the model's configuration is not usable: {error}", where=where) from error
