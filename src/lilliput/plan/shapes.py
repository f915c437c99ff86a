"""From what a recipe fixes and what is still free to a shape that can be built."""

from __future__ import annotations

import math
from typing import Any

from lilliput.errors import ConfigError
from lilliput.model.byte_pool_config import BytePoolConfig
from lilliput.model.config import BY_FAMILY, ModelConfig
from lilliput.model.sharing import Sharing, default_rank
from lilliput.plan.rules import (
    EXPANSION,
    EXPANSION_RANGE,
    LEAST_EXPANSION,
    counted,
    default_context,
    ffn_step,
    usual_head_dim,
    usual_vocabulary,
    usually_tied,
)
from lilliput.recipe import Recipe, ShareSettings


def check_dimensions(recipe: Recipe) -> None:
    """Refuse dimensions that cannot be or make no sense, before any search. Raises ConfigError."""
    asked = recipe.model
    if asked.expansion and asked.expansion < LEAST_EXPANSION:
        raise ConfigError(
            f"an expansion of {asked.expansion:g} leaves the feed-forward next to nothing",
            where="model.expansion",
            mend=f"model.expansion={EXPANSION} is usual, {LEAST_EXPANSION:g} the least that is taken",
        )
    if asked.width and asked.heads and asked.width % asked.heads:
        fits = [heads for heads in range(1, asked.width + 1) if asked.width % heads == 0]
        near = min(fits, key=lambda heads: abs(heads - (asked.heads or 1)))
        raise ConfigError(
            f"width {asked.width} does not divide into {counted(asked.heads, 'head')}",
            where="model.heads",
            mend=f"for example model.heads={near}",
        )
    if asked.heads and asked.kv_heads and asked.heads % asked.kv_heads:
        raise ConfigError(
            f"{counted(asked.kv_heads, 'key/value head')} cannot be shared evenly by {counted(asked.heads, 'head')}",
            where="model.kv_heads",
            mend=f"for example model.kv_heads={math.gcd(asked.heads, asked.kv_heads)}",
        )
    if asked.head_dim and asked.head_dim % 2:
        raise ConfigError(
            f"head_dim {asked.head_dim} is odd; rotary positions turn pairs of channels",
            where="model.head_dim",
            mend=f"model.head_dim={asked.head_dim + 1}",
        )


class Frame:
    """The shapes of one width: what the recipe fixes is fixed, the rest follows but depth and FFN size.

    size: the parameters that the model will have, about: context, tied
    tables, rounding and the vocabulary follow from it. Raises ConfigError where the recipe's heads do not
    divide the width.
    """

    def __init__(
        self,
        recipe: Recipe,
        width: int,
        *,
        size: int,
        vocab: int | None,
        heads: int | None = None,
        kv_heads: int | None = None,
    ) -> None:
        asked = recipe.model
        self.recipe, self.width = recipe, width
        self.size = size
        self.heads = heads or asked.heads or width // (asked.head_dim or usual_head_dim(width)) or 1
        self.kv_heads = kv_heads or asked.kv_heads or self.heads
        self.head_dim = asked.head_dim or width // self.heads
        if self.head_dim % 2 or width % self.heads:
            raise ConfigError(
                f"width {width} with {counted(self.heads, 'head')} leaves no even number of channels a head",
                where="model.width",
                mend=f"for example model.width={math.ceil(width / (2 * self.heads)) * 2 * self.heads}",
            )
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"{counted(self.kv_heads, 'key/value head')} cannot be shared evenly by the "
                f"{counted(self.heads, 'head')} of width {width}",
                where="model.kv_heads",
                mend=f"for example model.kv_heads={math.gcd(self.heads, self.kv_heads)}",
            )
        self.tied = asked.tied if asked.tied is not None else usually_tied(self.size)
        # A byte-pooled model's symbols are no table of the core's width, so they bind nothing.
        self.vocab = vocab or usual_vocabulary(width, self.size, self.tied)
        self.step = ffn_step(self.size, width)
        self.share = self._sharing()

    def _sharing(self) -> Sharing | None:
        """What the layers share, the LoRAs' rank following from the width where it is left to that."""
        asked, keys = self.recipe.model.share, self.kv_heads * self.head_dim
        if asked == ShareSettings():
            return None
        rank = default_rank(self.width, keys) if asked.lora == "auto" else asked.lora or 0
        if rank > self.width:
            raise ConfigError(
                f"a LoRA of rank {rank} is larger than any matrix at width {self.width}",
                where="model.share.lora",
                mend=f"at most {self.width}, or a larger model.width",
            )
        return Sharing(
            ffn=asked.ffn,
            attention_output=asked.attention_output,
            loops=asked.loops or 1,
            looped=asked.looped,
            lora=rank,
        )

    def ffn_sizes(self) -> range:
        """The feed-forward sizes to choose from, smallest first: the one asked, or those of the usual expansions."""
        asked = self.recipe.model
        if asked.ffn or asked.expansion:
            ffn = asked.ffn or max(1, round(self.width * (asked.expansion or 0)))
            return range(ffn, ffn + 1)
        low, high = (bound * self.width / self.step for bound in EXPANSION_RANGE)
        least = max(1, math.ceil(low))
        return range(least * self.step, max(least, math.floor(high)) * self.step + 1, self.step)

    def usual_ffn(self) -> int:
        """The feed-forward size that is asked, or that of the usual expansion."""
        sizes = self.ffn_sizes()
        return min(sizes, key=lambda size: abs(size - EXPANSION * self.width))

    def shape(self, depth: int, ffn: int) -> ModelConfig:
        """The shape of `depth` layers with a feed-forward size of `ffn`."""
        asked = self.recipe.model
        if asked.family == "byte-pool":
            return self._byte_pool(depth, ffn)
        return ModelConfig(
            vocab_size=self.vocab,
            depth=depth,
            width=self.width,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            ffn=ffn,
            bos_id=0,
            eos_id=0,
            tied=self.tied,
            context=asked.context or default_context(self.size),
            rope_theta=asked.rope_theta,
            attention_bias=asked.biases,
            family=asked.family,
            shortcut=BY_FAMILY if asked.shortcut is None else asked.shortcut,
            series=BY_FAMILY if asked.series is None else asked.series,
            capacity=BY_FAMILY if asked.capacity is None else asked.capacity,
            routed_every=asked.routed_every or 2,
            init=asked.init,
            share=self.share,
        )

    def _byte_pool(self, depth: int, ffn: int) -> BytePoolConfig:
        asked = self.recipe.model
        local: dict[str, Any] = {"unit": asked.unit, "byte_width": asked.byte_width, "hashes": asked.hashes}
        local |= {"pool": asked.pool, "byte_head": asked.byte_head}
        local |= {"encoder_depth": asked.byte_depth, "decoder_depth": asked.byte_depth}
        return BytePoolConfig(
            depth=depth,
            width=self.width,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            ffn=ffn,
            context=asked.context or default_context(self.size),
            rope_theta=asked.rope_theta,
            attention_bias=asked.biases,
            init=asked.init,
            **{name: value for name, value in local.items() if value is not None},
        )
