"""The shape of a decoder, and its translation to and from the `config.json` of Hugging Face (architectures.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lilliput.errors import ModelError
from lilliput.model.architectures import ARCHITECTURES, OWN, Architecture, bias_keys, own_keys, read
from lilliput.model.sharing import Sharing, settled, shared_less

FAMILIES = ("llama", *OWN)
BY_FAMILY = -1  # of `shortcut`, `series` and `capacity`: what the family has by default
CAPACITY = 0.125  # of a mixture of depths, the best in its paper (2404.02258 §4.1)
INITS = ("constant", "gpt2", "gpt2-residual", "internlm", "depth", "fan-in")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A Llama-shaped decoder. Sizes count elements: `width` is the residual stream, `ffn` the hidden
    size of the SwiGLU, `context` the trained number of positions.

    family: "llama", or "pangu" for PanGu-π blocks (pangu.py). Of these, `shortcut` is the bottleneck of the augmented
    shortcut, 0 for none, and `series` the number of the activation's terms, 1 for the plain one. Left at BY_FAMILY they
    are settled here: 0 and 1 for llama, `default_shortcut` and 2 for pangu. share: what its layers have in common
    (sharing.py), which makes a llama the family "shared". "mixture-of-depths" (depths.py): `capacity` is the share of
    the positions that each `routed_every`-th layer runs for; 0 for the other families.
    model_type: transformers' name of what this is, a key of ARCHITECTURES; the other families have their own. It
    decides which biases and norms there may be: `attention_bias` of q, k and v, `output_bias` of the attention's output
    (None: as attention_bias), `qk_norm` an RMSNorm over head_dim of each query and key before it is turned.

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
    model_type: str = "llama"
    qk_norm: bool = False
    output_bias: bool | None = None
    share: Sharing | None = None
    capacity: float = BY_FAMILY
    routed_every: int = 2

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
        if self.family not in FAMILIES:
            raise ModelError(
                f"unknown model family {self.family!r}", where="model.family", mend=f"one of {', '.join(FAMILIES)}"
            )
        object.__setattr__(self, "share", settled(self))
        if self.share is not None:
            object.__setattr__(self, "family", "shared")
        self._settle_blocks()
        self._settle_routing()
        self._settle_type()
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

    def _settle_routing(self) -> None:
        """Give `capacity` its number, and refuse routers that the family or the depth cannot have."""
        routed = self.family == "mixture-of-depths"
        if self.capacity == BY_FAMILY:
            object.__setattr__(self, "capacity", CAPACITY if routed else 0.0)
        if not routed and self.capacity:
            mend = "use family=mixture-of-depths"
            raise ModelError(f"a {self.family} has no routed layers", where="model.capacity", mend=mend)
        if routed and not 0 < self.capacity < 1:
            raise ModelError(
                f"capacity is {self.capacity}; it is a share of the positions",
                where="model.capacity",
                mend="give a number between 0 and 1, such as 0.125",
            )
        if self.routed_every < 1:
            raise ModelError(f"routed_every is {self.routed_every}", where="model.routed_every", mend="give 1 or more")

    def routed_layers(self) -> tuple[int, ...]:
        """The layers that run for a part of the positions, counted from 0."""
        return tuple(range(self.routed_every - 1, self.depth, self.routed_every)) if self.capacity else ()

    def skipped_parameters(self) -> float:
        """Weights of the layers' matrices that a token is not multiplied with, on average in training."""
        return len(self.routed_layers()) * (1 - self.capacity) * self.layer_matrix_parameters()

    def _settle_type(self) -> None:
        """Let model_type follow the family, and refuse what transformers' class of that name does not compute."""
        if self.model_type in ("llama", *OWN.values()):
            object.__setattr__(self, "model_type", OWN.get(self.family, "llama"))
        known = ARCHITECTURES.get(self.model_type)
        if known is None or OWN.get(self.family, self.model_type) != self.model_type:
            kinds = [kind for kind in ARCHITECTURES if kind not in OWN.values()]
            raise ModelError(
                f"no {self.family} has the model_type {self.model_type!r}",
                where="model.model_type",
                mend="leave it out" if self.family in OWN else f"one of {', '.join(kinds)}",
            )
        if known.whole_heads and self.width % self.heads:
            # Nothing in the arithmetic needs it, but transformers' Llama refuses such a config.json.
            raise ModelError(
                f"width {self.width} is no multiple of {self.heads} heads; transformers' Llama refuses that",
                where="model.heads",
                mend="choose heads that divides width (head_dim may be set apart)",
            )
        self._settle_biases(known)

    def _settle_biases(self, known: Architecture) -> None:
        if self.output_bias == self.attention_bias:
            object.__setattr__(self, "output_bias", None)
        output = self.attention_bias if known.output_bias is None else known.output_bias
        for name, has, wanted in (
            ("attention_bias", self.attention_bias, known.attention_bias),
            ("output_bias", self.has_output_bias(), output),
            ("mlp_bias", self.mlp_bias, known.mlp_bias),
            ("qk_norm", self.qk_norm, known.qk_norm),
        ):
            if wanted is not None and has != wanted:
                raise ModelError(
                    f"{name} is {has}, which transformers' {self.model_type} does not compute",
                    where=f"model.{name}",
                    mend=f"set {name}={wanted}, or another model_type",
                )

    def has_output_bias(self) -> bool:
        """Whether the attention's output has a bias."""
        return self.attention_bias if self.output_bias is None else self.output_bias

    def identity(self) -> dict[str, Any]:
        """The fields as a stored stage's key has them: those that came later only where they say something, so that
        what was stored under a plain shape is still found."""
        fields = asdict(self)
        kind = OWN.get(self.family, "llama")
        plain = {"model_type": kind, "qk_norm": False, "output_bias": None, "share": None}
        plain |= {"capacity": 0.0, "routed_every": 2}
        return {name: value for name, value in fields.items() if name not in plain or value != plain[name]}

    def layer_matrix_parameters(self) -> int:
        """Weights in the matrices of one layer: seven, and two of the shortcut where there is one."""
        attention = 2 * self.width * self.head_dim * (self.heads + self.kv_heads)
        return attention + 3 * self.width * self.ffn + 2 * self.width * self.shortcut

    def matrix_parameters(self) -> int:
        """Weights multiplied with every token: all layers' matrices and the head (whether tied or not), not
        the embedding look-up. A training step costs 6 FLOPs for each and token, attention not counted."""
        return self.depth * self.layer_matrix_parameters() + self.vocab_size * self.width

    def parameters(self) -> int:
        """Stored parameters, exactly; what is tied or shared counts once."""
        biases = 0
        if self.attention_bias:
            biases += self.head_dim * (self.heads + 2 * self.kv_heads)
        if self.has_output_bias():
            biases += self.width
        if self.mlp_bias:
            biases += 2 * self.ffn + self.width
        series = 2 * self.series * self.ffn if self.series > 1 else 0
        norms = 2 * self.width + (2 * self.head_dim if self.qk_norm else 0)
        layer = self.layer_matrix_parameters() + biases + series + norms
        tables = self.vocab_size * self.width * (1 if self.tied else 2)
        routers = len(self.routed_layers()) * (2 * self.width + 1)
        return self.depth * layer + routers + tables + self.width - shared_less(self)

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
            **bias_keys(self.model_type, self.attention_bias, self.mlp_bias),
            "tie_word_embeddings": self.tied,
            "bos_token_id": self.bos_id,
            "eos_token_id": self.eos_id,
            "use_cache": True,
            "dtype": dtype,
            "torch_dtype": dtype,
        }

    def _hf_class(self) -> dict[str, Any]:
        named = {"architectures": [ARCHITECTURES[self.model_type].model_class], "model_type": self.model_type}
        own: dict[str, Any] = {"shortcut_size": self.shortcut, "activation_series": self.series}
        if self.share is not None:
            own = asdict(self.share)
        if self.capacity:
            own = {"routed_capacity": self.capacity, "routed_every": self.routed_every}
        return named if self.family == "llama" else {**named, **own_keys(self.model_type, own)}

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
        """Read the `config.json` of a model_type in ARCHITECTURES. An absent key means transformers' default for it.

        Raises ModelError that names whatever this decoder does not implement.
        """
        try:
            return cls(**read(raw, where))
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise ModelError(
                f"a size in the model's configuration is not usable: {error}", where=where
            ) from error


def default_shortcut(width: int) -> int:
    """The bottleneck of the augmented shortcut: width / 32 (2312.17276 §5.1), but at least 8, in steps of 8; of 32 from
    32 on, since quantisers take rows in blocks of 32 and the second matrix has rows of this length."""
    step = 32 if width >= 32 * 32 else 8
    return max(8, round(width / 32 / step) * step)
