"""The shape of a byte-pooled model (METHODS: STLM §2): a core like any decoder's, and small local parts in the place of
its tables.

The core's positions are units of text (words, as a rule). Beside it stand an encoder from a unit's bytes to the core's
width and a decoder from the core's states to the next unit's bytes (byte_pool.py). Their widths follow the core's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lilliput.corpus.unit_rows import ALPHABET, DOCUMENT, MAX_LIMIT, MIN_LIMIT
from lilliput.errors import ModelError
from lilliput.model.architectures import BYTE_POOL, read
from lilliput.model.config import ModelConfig

FAMILY = "byte-pool"
POOLS = ("attention", "mean")
HEADS = ("autoregressive", "parallel")
# What a unit of running text has on average, its end included, where its real number is not known: for reckoning cost.
NOMINAL_SYMBOLS = 5.5
# Of the units of a batch, those that differ: only they are encoded. About so many in batches of some thousand units.
NOMINAL_DISTINCT = 0.3
# The table that the local parts stand for: GPT-2's vocabulary, untied (METHODS §2).
REPLACED_VOCAB = 50_257
BY_WIDTH = -1  # of `hashes`
_LEAST_WIDTH, _STEP = 32, 32
_HEAD_DIM = 32
_TABLES = (".bytes.weight", ".places.weight", ".begun.weight", ".whole.weight")


def default_hashes(width: int) -> int:
    """Rows of the hashed tables: as many as a small vocabulary has pieces."""
    return 2048 if width > 96 else 1024 if width >= 64 else 256


def default_byte_width(width: int, hashes: int) -> int:
    """Width of the local parts: two thirds of the core's, less where they would then, with two layers each, have more
    than a tenth of the parameters of the tables they stand for (`replaced_share`). In steps of 32."""
    usual = round(2 * width / 3 / _STEP) * _STEP
    # With w for it: 4 layers of 10·w², 16·w·width of maps from and to the core, about 810·w of bytes and places and
    # hashes·(w + width) of tables looked up by hash, against a tenth of 2·50,257·width.
    linear, left = 16 * width + 810 + hashes, (0.2 * REPLACED_VOCAB - hashes) * width
    bound = (math.sqrt(linear**2 + 4 * 40 * max(0.0, left)) - linear) / 80
    return max(_LEAST_WIDTH, min(usual, math.floor(bound / _STEP) * _STEP))


@dataclass(frozen=True, kw_only=True)
class BytePoolConfig(ModelConfig):
    """A core (the fields of ModelConfig) and its local parts.

    unit: bytes a unit has at most; longer ones are split. byte_width: of the local parts, 0 for `default_byte_width`.
    encoder_depth, decoder_depth: their layers. pool: how a unit's bytes become one vector, "attention" or "mean".
    byte_head: "autoregressive", each byte given those before it, or "parallel", all bytes at once (the paper's).
    hashes: rows of two tables, of whole units for the core and of a unit's beginnings for the byte decoder, looked up
    by hash (as BLT does, 2412.09871 §3.2.1); 0 for none, BY_WIDTH for `default_hashes`.
    vocab_size counts symbols (unit_rows.py); no table has the core's width, so nothing is tied.
    """

    vocab_size: int = ALPHABET
    bos_id: int = DOCUMENT
    eos_id: int = DOCUMENT
    tied: bool = False
    family: str = FAMILY
    unit: int = 12
    byte_width: int = 0
    encoder_depth: int = 2
    decoder_depth: int = 2
    pool: str = "attention"
    byte_head: str = "autoregressive"
    hashes: int = BY_WIDTH

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hashes == BY_WIDTH:
            object.__setattr__(self, "hashes", default_hashes(self.width))
        if self.hashes < 0:
            raise ModelError(f"hashes is {self.hashes}", where="model.hashes", mend="give 0 for none, or rows")
        if not self.byte_width:
            object.__setattr__(self, "byte_width", default_byte_width(self.width, self.hashes))
        for name, value, known in (("pool", self.pool, POOLS), ("byte_head", self.byte_head, HEADS)):
            if value not in known:
                raise ModelError(f"{name} is {value!r}", where=f"model.{name}", mend=f"one of {', '.join(known)}")
        if not MIN_LIMIT <= self.unit <= MAX_LIMIT:
            raise ModelError(
                f"units of {self.unit} bytes", where="model.unit", mend=f"give {MIN_LIMIT} to {MAX_LIMIT}"
            )
        if self.encoder_depth < 0 or self.decoder_depth < 1:
            raise ModelError("the byte decoder needs a layer", where="model.byte_depth", mend="give 1 or more")
        if self.byte_width % _HEAD_DIM:
            raise ModelError(
                f"byte_width {self.byte_width} does not divide into heads of {_HEAD_DIM}",
                where="model.byte_width",
                mend=f"give a multiple of {_HEAD_DIM}",
            )

    def _settle_type(self) -> None:
        object.__setattr__(self, "model_type", BYTE_POOL)
        object.__setattr__(self, "tied", False)
        if (self.vocab_size, self.bos_id, self.eos_id) != (ALPHABET, DOCUMENT, DOCUMENT):
            raise ModelError("a byte-pooled model has no vocabulary", where="model.family", mend="leave it out")

    @property
    def byte_heads(self) -> int:
        """Attention heads of the local layers."""
        return self.byte_width // _HEAD_DIM

    @property
    def byte_ffn(self) -> int:
        """Feed-forward width of the local layers."""
        return 2 * self.byte_width

    def local_tensors(self) -> dict[str, tuple[str, ...]]:
        """The local parts' tensors, each with the spaces of its dimensions (`local_sizes`)."""
        encoder, decoder = "model.embed_tokens.", "byte_decoder."
        table: dict[str, tuple[str, ...]] = {
            encoder + "bytes.weight": ("symbol", "byte_hidden"),
            encoder + "places.weight": ("place", "byte_hidden"),
            encoder + "norm.weight": ("byte_hidden",),
            encoder + "up.weight": ("hidden", "pooled"),
        }
        if self.pool == "attention":
            table[encoder + "queries.weight"] = ("query", "byte_hidden")
        for part, depth in ((encoder, self.encoder_depth), (decoder, self.decoder_depth)):
            for index in range(depth):
                table |= _layer(f"{part}layers.{index}.")
        if self.hashes:
            table[encoder + "whole.weight"] = ("hash", "hidden")
            if self.byte_head == "autoregressive":
                table[decoder + "begun.weight"] = ("hash", "byte_hidden")
        table[decoder + "state.weight"] = ("conditions", "hidden")
        if self.byte_head == "autoregressive":
            table[decoder + "bytes.weight"] = ("symbol", "byte_hidden")
        return {
            **table,
            decoder + "places.weight": ("place", "byte_hidden"),
            decoder + "norm.weight": ("byte_hidden",),
            decoder + "head.weight": ("symbol", "byte_hidden"),
        }

    def local_sizes(self) -> dict[str, int]:
        """Members of the spaces that the local parts alone have."""
        return {
            "symbol": ALPHABET,
            "hash": self.hashes,
            "place": self.unit,
            "byte_hidden": self.byte_width,
            "byte_joined": 3 * self.byte_width,
            "byte_gated": 2 * self.byte_ffn,
            "byte_ffn": self.byte_ffn,
            "query": self.queries,
            "pooled": self.queries * self.byte_width,
            "conditions": self.unit * self.byte_width,
        }

    def start_factor(self, name: str) -> float:
        """What the fan-in start of a local tensor is multiplied with: the matrices that write to a local stream are
        scaled by its branches, as the core's are; the tables start larger, 0.3 at a width of 100, and what the pooled
        bytes give the core smaller, so that it does not drown them (all measured: docs/byte-pool.md)."""
        if name.startswith("model.layers."):
            return 1.0
        if name.endswith((".attention.out.weight", ".down.weight")):
            depth = self.decoder_depth if name.startswith("byte_decoder.") else self.encoder_depth
            return 1 / math.sqrt(2 * depth)
        return 3.0 if name.endswith(_TABLES) else 0.3 if name.endswith(".up.weight") else 1.0

    @property
    def queries(self) -> int:
        """Vectors that a unit is pooled to, side by side."""
        return 4 if self.pool == "attention" else 1

    @property
    def pseudo(self) -> bool:
        """Whether what the model says of bytes is kept apart from likelihoods: the parallel head's."""
        return self.byte_head == "parallel"

    def local_parameters(self) -> int:
        """Input and output parameters: all that is not the core."""
        size = {**self.local_sizes(), "hidden": self.width}
        total = 0
        for axes in self.local_tensors().values():
            elements = 1
            for axis in axes:
                elements *= size[axis]
            total += elements
        return total

    def replaced_share(self) -> float:
        """Input and output parameters over those of the untied tables of 50,257 pieces that they stand for."""
        return self.local_parameters() / (2 * REPLACED_VOCAB * self.width)

    def parameters(self) -> int:
        core = super().parameters() - 2 * self.vocab_size * self.width
        return core + self.local_parameters()

    def matrix_parameters(self) -> int:
        return round(self.depth * self.layer_matrix_parameters() + self.local_work())

    def local_work(self) -> float:
        """Multiplications of the local parts for each unit of running text, forward."""
        layer = self.byte_width * (4 * self.byte_width + 3 * self.byte_ffn)
        encoder = NOMINAL_SYMBOLS * self.encoder_depth * layer + self.queries * self.byte_width * self.width
        symbols = NOMINAL_SYMBOLS if self.byte_head == "autoregressive" else self.unit
        decoder = symbols * (self.decoder_depth * layer + ALPHABET * self.byte_width)
        return NOMINAL_DISTINCT * encoder + decoder + self.width * self.unit * self.byte_width

    def local_activations(self) -> float:
        """Numbers that the local parts keep for the backward pass, for each unit."""
        layer = 14 * self.byte_width + 4 * self.byte_ffn
        symbols = NOMINAL_SYMBOLS if self.byte_head == "autoregressive" else self.unit
        encoder = NOMINAL_DISTINCT * NOMINAL_SYMBOLS * self.encoder_depth * layer
        return encoder + symbols * (self.decoder_depth * layer + 8 * self.byte_width) + self.unit * self.byte_width

    def to_hf(self, dtype: str = "float32") -> dict[str, Any]:
        return super().to_hf(dtype) | {
            "unit_bytes": self.unit,
            "byte_width": self.byte_width,
            "encoder_depth": self.encoder_depth,
            "decoder_depth": self.decoder_depth,
            "pool": self.pool,
            "byte_head": self.byte_head,
            "hashes": self.hashes,
            "pad_token_id": 0,
        }

    def _hf_class(self) -> dict[str, Any]:
        return {
            "architectures": ["LilliputBytePoolForCausalLM"],
            "model_type": BYTE_POOL,
            "auto_map": {
                "AutoConfig": f"configuration_{BYTE_POOL}.LilliputBytePoolConfig",
                "AutoModelForCausalLM": f"modeling_{BYTE_POOL}.LilliputBytePoolForCausalLM",
            },
        }

    def identity(self) -> dict[str, Any]:
        return super().identity() | {name: asdict(self)[name] for name in ("family", "model_type")}

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], where: str = "config.json") -> BytePoolConfig:
        try:
            core = read(raw, where)
            local = {name: int(raw[name]) for name in ("byte_width", "encoder_depth", "decoder_depth", "hashes")}
            own = {"family": FAMILY, "unit": int(raw["unit_bytes"]), "pool": raw["pool"], "byte_head": raw["byte_head"]}
            return cls(**{**core, **local, **own})
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise ModelError(f"a size in the model's configuration is not usable: {error!r}", where=where) from error


def _layer(prefix: str) -> dict[str, tuple[str, ...]]:
    return {
        prefix + "norm_1.weight": ("byte_hidden",),
        prefix + "attention.qkv.weight": ("byte_joined", "byte_hidden"),
        prefix + "attention.out.weight": ("byte_hidden", "byte_hidden"),
        prefix + "norm_2.weight": ("byte_hidden",),
        prefix + "gate_up.weight": ("byte_gated", "byte_hidden"),
        prefix + "down.weight": ("byte_hidden", "byte_ffn"),
    }
