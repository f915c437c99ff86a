"""What a recipe says of the model: its shape, and what an encoder has besides."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lilliput.sizes import SPAN, Size

# Keys of `model` that encoders alone have, and those of byte-pooled models.
ENCODERS = ("dropout", "conv", "channels")
# Keys of `model` that mixtures of depths alone have.
ROUTING = ("capacity", "routed_every")
BYTE_POOLS = ("unit", "pool", "byte_head", "byte_width", "byte_depth", "hashes")


class Settings(BaseModel):
    """A part of a recipe."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, frozen=True)


class ShareSettings(Settings):
    """What layers have in common (docs/model.md); nothing where all is left out."""

    ffn: str | None = Field(None, pattern=SPAN, description="layers whose FFN is one: `all`, `interior`, or `2-5`")
    attention_output: str | None = Field(
        None, pattern=SPAN, description="layers whose attention has one output matrix: `all`, `interior`, or `2-5`"
    )
    loops: int | None = Field(None, ge=2, le=512, description="how often the looped layers run; divides them")
    looped: str | None = Field(None, pattern=SPAN, description="which layers these are, all runs counted; none: `all`")
    lora: Literal["auto"] | Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="rank of a LoRA for each use of a shared matrix; `auto`: width / 8; none: no LoRA"
    )


class ModelSettings(Settings):
    """The shape; each dimension left out follows from the budget."""

    family: Literal["llama", "pangu", "mixture-of-depths", "byte-pool", "bert"] = Field(
        "llama",
        description="`llama`, `pangu` (PanGu-π), `mixture-of-depths`, `byte-pool` (units of bytes, no vocabulary), or "
        "for `objective: masked` always `bert`",
    )
    shortcut: int | None = Field(None, ge=0, le=4096, description="`pangu`: bottleneck of the shortcut, 0 for none")
    series: int | None = Field(None, ge=1, le=2, description="`pangu`: terms of the activation, 1 for the plain one")
    capacity: float | None = Field(
        None, gt=0, lt=1, description="`mixture-of-depths`: share of the positions in a routed layer; none: 0.125"
    )
    routed_every: int | None = Field(None, ge=1, le=512, description="`mixture-of-depths`: which layers; none: 2")
    depth: int | None = Field(None, ge=1, le=512, description="layers")
    width: int | None = Field(None, ge=8, le=65_536, description="hidden size")
    heads: int | None = Field(None, ge=1, le=1024, description="attention heads")
    kv_heads: int | None = Field(None, ge=1, le=1024, description="key/value heads; divides heads")
    head_dim: int | None = Field(None, ge=2, le=1024, description="channels a head; even")
    expansion: float | None = Field(None, gt=0, le=32, description="FFN width over hidden size")
    ffn: int | None = Field(None, ge=1, le=1_048_576, description="FFN width, in place of `expansion`")
    tied: bool | None = Field(None, description="share embedding and head")
    context: Size | None = Field(None, ge=8, le=1_048_576, description="positions the model sees")
    init: Literal["constant", "gpt2", "gpt2-residual", "internlm", "depth", "fan-in", "neighbours"] = Field(
        "fan-in", description="initialisation; `neighbours` is for `bert`, and its default"
    )
    biases: bool = Field(False, description="biases in the attention projections")
    rope_theta: float = Field(10_000.0, gt=1, description="base of the rotary embedding")
    share: ShareSettings = ShareSettings()
    dropout: float | None = Field(None, ge=0, lt=1, description="`bert`: dropout when it is fine-tuned; none: 0.1")
    conv: int | None = Field(None, ge=0, le=16, description="`bert`: layers of a convolutional front end, 0 for none")
    channels: int | None = Field(None, ge=1, le=1024, description="`bert`: channels of that front end; none: 64")
    unit: int | None = Field(None, ge=4, le=64, description="`byte-pool`: bytes a unit has at most; none: 12")
    pool: Literal["attention", "mean"] | None = Field(
        None, description="`byte-pool`: how a unit's bytes become one vector; none: attention"
    )
    byte_head: Literal["autoregressive", "parallel"] | None = Field(
        None, description="`byte-pool`: how bytes are predicted; none: autoregressive, the only likelihood"
    )
    hashes: int | None = Field(
        None,
        ge=0,
        le=65_536,
        description="`byte-pool`: rows of the tables looked up by hash, 0 for none; none: 256 to 2,048 by the width",
    )
    byte_width: int | None = Field(
        None, ge=32, le=4096, description="`byte-pool`: width of the local layers, a multiple of 32"
    )
    byte_depth: int | None = Field(
        None, ge=1, le=16, description="`byte-pool`: local layers before and behind the core, each; none: 2"
    )

    def check_byte_pool(self, strange: list[str]) -> None:
        """ValueError where a byte-pool has `strange` keys of a recipe or such of its own, and where another family has
        keys of a byte-pool."""
        if self.family != "byte-pool":
            if names := [name for name in BYTE_POOLS if getattr(self, name) is not None]:
                raise ValueError(f"model.{names[0]} is for model.family=byte-pool")
            return
        own = {"tied": self.tied, "shortcut": self.shortcut, "series": self.series}
        own |= {"share": self.share != ShareSettings()}
        if names := [*strange, *(f"model.{name}" for name, value in own.items() if value)]:
            raise ValueError(f"a byte-pool has no {' and no '.join(names)}: leave it out")

    @model_validator(mode="after")
    def _start_fits_family(self) -> ModelSettings:
        if self.init == "neighbours" and self.family != "bert":
            raise ValueError("init neighbours is for model.family bert")
        return self

    @model_validator(mode="after")
    def _one_ffn(self) -> ModelSettings:
        if self.ffn is not None and self.expansion is not None:
            raise ValueError("ffn and expansion say the same twice: give one of them")
        return self


class MaskedSettings(Settings):
    """`objective: masked`: what is hidden, and which windows are read (docs/encoders.md)."""

    rate: float = Field(0.15, gt=0, lt=1, description="share of the tokens that are predicted")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout in pre-training")
    first: bool = Field(False, description="of each document read the first window alone, as the TLM paper does")


def check_routing(model: ModelSettings, layers: bool, *, taught: bool) -> None:
    """ValueError where a mixture of depths has what it cannot have, and where another family has its keys. layers:
    whether layer dropout or exits are asked for. taught: whether there is a teacher."""
    routed = model.family == "mixture-of-depths"
    if not routed and (own := [name for name in ROUTING if getattr(model, name) is not None]):
        raise ValueError(f"model.{own[0]} is for model.family=mixture-of-depths")
    every = model.routed_every or 2
    if routed and model.depth and model.depth < every:
        raise ValueError(f"model.depth={model.depth} has no routed layer where one in {every} is")
    if routed and layers:
        raise ValueError("a mixture of depths skips layers by itself: it has no layer_dropout and no exit_loss")
    if routed and taught:
        raise ValueError("inherit carves no mixture of depths: leave out model.family")


def check_units(recipe: Any) -> None:
    """ValueError where a recipe of a byte-pooled model asks for what it cannot have."""
    pieces, strange = recipe.tokenizer, {"budget.speed": recipe.budget.speed, "rounds.count": recipe.rounds.count > 1}
    strange |= {f"tokenizer.{name}": getattr(pieces, name) for name in ("vocab_size", "compact", "special")}
    strange |= {"tokenizer.from": pieces.source, "inherit.teacher": recipe.inherit.teacher}
    strange |= {f"train.{name}": getattr(recipe.train, name) for name in ("layer_dropout", "exit_loss")}
    recipe.model.check_byte_pool([name for name, value in strange.items() if value])
