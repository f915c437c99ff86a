"""The shape of a decoder, and its translation to and from the `config.json` of a Hugging Face Llama."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lilliput.errors import ModelError

FAMILIES = ("llama", "pangu")
PANGU = "lilliput_pangu"  # the model_type of PanGu-π blocks, whose class each model directory brings along
BY_FAMILY = -1  # of `shortcut` and `series`: what the family has by default
INITS = ("constant", "gpt2", "gpt2-residual", "internlm", "depth", "fan-in")

# Keys of foreign configurations that change what the model computes and that we do not implement:
# each may be present only with a value that means "off".
_UNSUPPORTED = (
    "rope_scaling",
    "quantization_config",
    "sliding_window",
    "attention_dropout",
    "rope_interleaved",
    "use_qk_norm",
    "no_rope_layers",
    "num_experts",
    "num_local_experts",
    "final_logit_softcapping",
    "attn_logit_softcapping",
)
# The same for factors, where 1 means "off".
_UNSUPPORTED_FACTORS = (
    "partial_rotary_factor",
    "logits_scaling",
    "residual_multiplier",
    "embedding_multiplier",
    "attention_multiplier",
)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A Llama-shaped decoder. Sizes count elements: `width` is the residual stream, `ffn` the hidden
    size of the SwiGLU, `context` the trained number of positions.

    family: "llama", or "pangu" for PanGu-π blocks (pangu.py). Of these, `shortcut` is the bottleneck of the augmented
    shortcut, 0 for none, and `series` the number of the activation's terms, 1 for the plain one. Left at BY_FAMILY they
    are settled here: 0 and 1 for llama, `default_shortcut` and 2 for pangu.

    Raises ModelError for a shape that cannot be computed or that `transformers` would refuse to load.
    """

    vocab_size: int
    depth: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    bos_id: int
    eos_id: int
    tied: bool = True
    context: int = 512
    rope_theta: float = 1e4
    norm_eps: float = 1e-5
    attention_bias: bool = False
    mlp_bias: bool = False
    family: str = "llama"
    shortcut: int = BY_FAMILY
    series: int = BY_FAMILY
    init: str = "fan-in"

    def __post_init__(self) -> None:
        for name in ("vocab_size", "depth", "width", "heads", "kv_heads", "head_dim", "ffn", "context"):
            if getattr(self, name) < 1:
                raise ModelError(
                    f"{name} is {getattr(self, name)}; it must be at least 1", where=f"model.{name}"
                )
        if self.head_dim % 2:
            raise ModelError(
                f"head_dim is {self.head_dim}; rotary positions need an even number",
                where="model.head_dim",
                mend=f"use head_dim={self.head_dim + 1}",
            )
        if self.heads % self.kv_heads:
            raise ModelError(
                f"{self.heads} heads cannot share {self.kv_heads} key-value heads evenly",
                where="model.kv_heads",
                mend="choose kv_heads that divides heads",
            )
        if self.width % self.heads:
            # Nothing in the arithmetic needs it, but transformers' Llama refuses such a config.json.
            raise ModelError(
                f"width {self.width} is no multiple of {self.heads} heads; transformers' Llama refuses that",
                where="model.heads",
                mend="choose heads that divides width (head_dim may be set apart)",
            )
        if self.family not in FAMILIES:
            raise ModelError(
                f"unknown model family {self.family!r}", where="model.family", mend=f"one of {', '.join(FAMILIES)}"
            )
        self._settle_blocks()
        if self.init not in INITS:
            raise ModelError(
                f"unknown initialisation {self.init!r}", where="model.init", mend=f"one of {', '.join(INITS)}"
            )

    def _settle_blocks(self) -> None:
        """Give `shortcut` and `series` their numbers, and refuse those that the family cannot have."""
        pangu = self.family == "pangu"
        for name, value in (("shortcut", default_shortcut(self.width) if pangu else 0), ("series", 2 if pangu else 1)):
            if getattr(self, name) == BY_FAMILY:
                object.__setattr__(self, name, value)
        if self.shortcut < 0:
            raise ModelError(
                f"shortcut is {self.shortcut}; it is a bottleneck's size", where="model.shortcut", mend="0 for none"
            )
        if self.series not in (1, 2):
            raise ModelError(
                f"series is {self.series}; more than two terms would start alike and stay alike",
                where="model.series",
                mend="2, or 1 for the plain activation",
            )
        blocks = self.shortcut > 0 or self.series > 1
        if blocks and not pangu:
            name = "shortcut" if self.shortcut else "series"
            raise ModelError("a plain llama has no PanGu-π blocks", where=f"model.{name}", mend="use family=pangu")
        if pangu and not blocks:
            raise ModelError(
                "a pangu without shortcut and series is a llama",
                where="model.family",
                mend="leave one of the two out, which gives its default, or use family=llama",
            )

    def layer_matrix_parameters(self) -> int:
        """Weights in the matrices of one layer: seven, and two of the shortcut where there is one."""
        attention = 2 * self.width * self.head_dim * (self.heads + self.kv_heads)
        return attention + 3 * self.width * self.ffn + 2 * self.width * self.shortcut

    def matrix_parameters(self) -> int:
        """Weights multiplied with every token: all layers' matrices and the head (whether tied or not), not
        the embedding look-up. A training step costs 6 FLOPs for each and token, attention not counted."""
        return self.depth * self.layer_matrix_parameters() + self.vocab_size * self.width

    def parameters(self) -> int:
        """Stored parameters, exactly; a tied head counts once."""
        biases = 0
        if self.attention_bias:
            biases += self.head_dim * (self.heads + 2 * self.kv_heads) + self.width
        if self.mlp_bias:
            biases += 2 * self.ffn + self.width
        series = 2 * self.series * self.ffn if self.series > 1 else 0
        layer = self.layer_matrix_parameters() + biases + series + 2 * self.width
        tables = self.vocab_size * self.width * (1 if self.tied else 2)
        return self.depth * layer + tables + self.width

    def to_hf(self, dtype: str = "float32") -> dict[str, Any]:
        """The `config.json` of the same model in transformers. Versions 4 and 5 spell the rotary base and the
        dtype differently; both spellings are written, each reader ignores the other's. A family that transformers
        does not know names its own class (`auto_map`), which must lie beside (export/blocks)."""
        return {
            **self._hf_class(),
            "vocab_size": self.vocab_size,
            "hidden_size": self.width,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.depth,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.context,
            "initializer_range": 0.02,
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "rope_scaling": None,
            "attention_bias": self.attention_bias,
            "attention_dropout": 0.0,
            "mlp_bias": self.mlp_bias,
            "tie_word_embeddings": self.tied,
            "bos_token_id": self.bos_id,
            "eos_token_id": self.eos_id,
            "use_cache": True,
            "dtype": dtype,
            "torch_dtype": dtype,
        }

    def _hf_class(self) -> dict[str, Any]:
        if self.family == "llama":
            return {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
        return {
            "architectures": ["LilliputPanguForCausalLM"],
            "model_type": PANGU,
            "auto_map": {
                "AutoConfig": f"configuration_{PANGU}.LilliputPanguConfig",
                "AutoModel": f"modeling_{PANGU}.LilliputPanguModel",
                "AutoModelForCausalLM": f"modeling_{PANGU}.LilliputPanguForCausalLM",
            },
            "shortcut_size": self.shortcut,
            "activation_series": self.series,
        }

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
        """Read the `config.json` of a Llama or of our own PanGu-π. An absent key means transformers' default.

        Raises ModelError that names whatever this decoder does not implement.
        """
        if raw.get("model_type") not in ("llama", PANGU):
            raise ModelError(
                f"model_type {raw.get('model_type')!r} is not supported",
                where=where,
                mend=f"give a model whose model_type is llama or {PANGU}",
            )
        pangu = raw["model_type"] == PANGU
        rope = _rope(raw, where)
        for key in _UNSUPPORTED:
            if key != "rope_scaling" and raw.get(key):
                raise _unsupported(key, raw[key], where)
        for key in _UNSUPPORTED_FACTORS:
            if raw.get(key) not in (None, 1, 1.0):
                raise _unsupported(key, raw[key], where)
        if raw.get("hidden_act", "silu") not in ("silu", "swish"):
            raise _unsupported("hidden_act", raw["hidden_act"], where)
        try:
            heads = int(raw.get("num_attention_heads", 32))
            width = int(raw.get("hidden_size", 4096))
            kv_heads, head_dim = raw.get("num_key_value_heads"), raw.get("head_dim")
            eos_id = _first(raw.get("eos_token_id", 2), default=0)
            return cls(
                vocab_size=int(raw.get("vocab_size", 32000)),
                depth=int(raw.get("num_hidden_layers", 32)),
                width=width,
                heads=heads,
                kv_heads=heads if kv_heads is None else int(kv_heads),
                head_dim=width // heads if head_dim is None else int(head_dim),
                ffn=int(raw.get("intermediate_size", 11008)),
                bos_id=_first(raw.get("bos_token_id", 1), default=eos_id),
                eos_id=eos_id,
                tied=bool(raw.get("tie_word_embeddings", False)),
                context=int(raw.get("max_position_embeddings", 2048)),
                rope_theta=rope,
                norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
                attention_bias=bool(raw.get("attention_bias", False)),
                mlp_bias=bool(raw.get("mlp_bias", False)),
                family="pangu" if pangu else "llama",
                shortcut=int(raw.get("shortcut_size", 0)) if pangu else 0,
                series=int(raw.get("activation_series", 1)) if pangu else 1,
            )
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise ModelError(
                f"a size in the model's configuration is not usable: {error}", where=where
            ) from error


def default_shortcut(width: int) -> int:
    """The bottleneck of the augmented shortcut: width / 32 (2312.17276 §5.1), but at least 8, in steps of 8; of 32 from
    32 on, since quantisers take rows in blocks of 32 and the second matrix has rows of this length."""
    step = 32 if width >= 32 * 32 else 8
    return max(8, round(width / 32 / step) * step)


def _rope(raw: Mapping[str, Any], where: str) -> float:
    """The rotary base, from either spelling; ModelError where positions are scaled."""
    theta: Any = raw.get("rope_theta", 1e4)
    for key in ("rope_parameters", "rope_scaling"):
        rope = raw.get(key)
        if not rope:
            continue
        if not isinstance(rope, Mapping):
            raise _unsupported(key, rope, where)
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default" or rope.get("partial_rotary_factor", 1.0) not in (None, 1, 1.0):
            raise _unsupported(key, dict(rope), where)
        theta = rope.get("rope_theta", theta)
    try:
        return float(theta)
    except (TypeError, ValueError) as error:
        raise ModelError(f"rope_theta is {theta!r}, not a number", where=where) from error


def _unsupported(key: str, value: object, where: str) -> ModelError:
    return ModelError(
        f"the model uses {key}={value!r}, which this decoder does not implement",
        where=where,
        mend=f"give a Llama without {key}",
    )


def _first(value: Any, default: int) -> int:
    """A token id from an id, a list of them or null."""
    if isinstance(value, list):
        value = value[0] if value else None
    return default if value is None else int(value)
