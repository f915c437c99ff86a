"""Which weights the layers of a decoder have in common.

A layer is one pass over the residual stream; `depth` counts these passes, so attention's cache, positions and FLOPs are
those of a network of this depth. What is shared is stored once, by the name that it has in the first layer that uses
it, and no other layer has a tensor of that name. Three ways, which may be joined:

- the feed-forward of all or some layers is one (2309.01826), or their attention's output matrix is; norms stay each
  layer's own;
- a block of layers is run several times with all its weights, norms too, as in looped or recursive transformers
  (1807.03819, 2311.12424): with `loops` of n, the first n-th of the looped layers is the block, the others repeat it;
- each use of a shared matrix W may add a LoRA of its own (2106.09685; in loops 2410.20672): W + B·A, of rank r and with
  the usual α = r, hence no further factor. B starts at zero, so the network starts as the one without.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lilliput.errors import ModelError
from lilliput.sizes import SPAN

if TYPE_CHECKING:
    from lilliput.model.config import ModelConfig

NORMS = ("input_layernorm", "post_attention_layernorm")
MATRICES = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip
_OUTPUT = "self_attn.o_proj"


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """What is shared. ffn, attention_output: by which layers: "all", "interior" (all but the first and the last) or
    "2-5" (both included; the first layer is 0); None: by none. loops: how often the looped layers run their block, 1
    for none. looped: which layers these are, None for all. lora: rank of the LoRA of each use, 0 for none.
    """

    ffn: str | None = None
    attention_output: str | None = None
    loops: int = 1
    looped: str | None = None
    lora: int = 0

    def owners(self, part: str, depth: int) -> tuple[int, ...]:
        """For each layer, the first of those that use its `part` (one of NORMS and MATRICES)."""
        return _owners(self, part, depth)

    def lent(self, part: str, depth: int) -> dict[int, int]:
        """The layers whose `part` others use too, each with the number of its uses, its own counted."""
        return {layer: uses for layer, uses in Counter(self.owners(part, depth)).items() if uses > 1}

    def adapted(self, part: str, depth: int) -> tuple[int, ...]:
        """The layers that have a LoRA on their `part`: all that share it with another."""
        if not self.lora or part not in MATRICES:
            return ()
        lent = self.lent(part, depth)
        return tuple(layer for layer, owner in enumerate(self.owners(part, depth)) if owner in lent)

    def stored(self, tensor: str, depth: int) -> tuple[int, ...]:
        """The layers that store this tensor, named as within a layer: `mlp.up_proj.weight`."""
        part, lora, _ = tensor.partition(".lora_")
        if lora:
            return self.adapted(part, depth)
        return tuple(sorted(set(self.owners(tensor.rpartition(".")[0], depth))))

    def fits(self, depth: int) -> bool:
        """Whether a network of `depth` layers can share like this."""
        try:
            self.check_layers(depth)
        except ModelError:
            return False
        return True

    def check_layers(self, depth: int) -> None:
        """Raise ModelError where layers are named that a network of `depth` does not have, or cannot be divided."""
        if self.loops > 1:
            _check_loops(self.loops, *_span(self.looped or "all", depth, "looped"))
        elif self.looped is not None:
            raise ModelError("no loops are asked for", where="model.share.looped", mend="model.share.loops=2")
        for key, said in (("ffn", self.ffn), ("attention_output", self.attention_output)):
            if said is None:
                continue
            first, last = _span(said, depth, key)
            if first == last:
                reason = f"{said} of {depth} layers is a single one, which shares with none"
                raise ModelError(reason, where=f"model.share.{key}", mend="name two layers or more")
            block = Sharing(loops=self.loops, looped=self.looped).owners(NORMS[0], depth)
            inside = [first <= layer <= last for layer in range(depth)]
            if any(inside[layer] != inside[owner] for layer, owner in enumerate(block)):
                reason = f"layers {first}-{last} are a part of a block that is looped and leave out others of its runs"
                raise ModelError(reason, where=f"model.share.{key}", mend=f"model.share.{key}=all")

    def told(self) -> str:
        """For people: `FFN shared (interior), 2 loops (all), LoRA 8`."""
        parts = [f"FFN shared ({self.ffn})"] if self.ffn else []
        parts += [f"attention output shared ({self.attention_output})"] if self.attention_output else []
        parts += [f"{self.loops} loops ({self.looped or 'all'})"] if self.loops > 1 else []
        return ", ".join([*parts, *([f"LoRA {self.lora}"] if self.lora else [])])


@lru_cache(maxsize=4096)
def _owners(share: Sharing, part: str, depth: int) -> tuple[int, ...]:
    own = list(range(depth))
    if share.loops > 1:
        first, last = _span(share.looped or "all", depth, "looped")
        period = (last + 1 - first) // share.loops
        own[first : last + 1] = [first + (layer - first) % period for layer in range(first, last + 1)]
    among = share.ffn if part.startswith("mlp.") else share.attention_output if part == _OUTPUT else None
    if among is not None:
        first, last = _span(among, depth, "ffn")
        own[first : last + 1] = [own[first]] * (last + 1 - first)
    return tuple(own)


def _span(said: str, depth: int, key: str) -> tuple[int, int]:
    """The first and the last of the layers named."""
    where = f"model.share.{key}"
    if not re.match(SPAN, said):
        raise ModelError(f"{said!r} names no layers", where=where, mend="all, interior, or for example 1-4")
    first, last = (0, depth - 1) if said == "all" else (1, depth - 2)
    if said[0].isdigit():
        first, last = (int(number) for number in said.split("-"))
    if first > last or last >= depth:
        reason = f"{said} of {depth} layers are none" if said == "interior" else f"layers {said} do not exist"
        raise ModelError(reason, where=where, mend=f"there are layers 0 to {depth - 1}")
    return first, last


def _check_loops(loops: int, first: int, last: int) -> None:
    size = last + 1 - first
    if size % loops:
        fits = [str(number) for number in range(2, size + 1) if size % number == 0]
        raise ModelError(
            f"{size} looped {'layer' if size == 1 else 'layers'} cannot be divided into {loops} runs of one block",
            where="model.share.loops",
            mend=f"model.share.loops={' or '.join(fits)}" if fits else "loop more layers",
        )


def settled(config: ModelConfig) -> Sharing | None:
    """The sharing of a shape, also from plain values, checked. Raises ModelError where this shape cannot have it."""
    if config.share is None:
        if config.family == "shared":
            mend = "say what: model.share.ffn=all, or use family=llama"
            raise ModelError("nothing is shared", where="model.share", mend=mend)
        return None
    share = _read(config.share) if isinstance(config.share, Mapping) else config.share
    if config.family not in ("llama", "shared") or config.qk_norm:
        raise ModelError(
            f"layers of a {config.model_type if config.qk_norm else config.family} do not share weights",
            where="model.share",
            mend="leave out model.share, or model.family",
        )
    if share.loops < 1 or share.lora < 0:
        name = "loops" if share.loops < 1 else "lora"
        raise ModelError(f"it is {getattr(share, name)}", where=f"model.share.{name}", mend="give 1 or more")
    if share.ffn is None and share.attention_output is None and share.loops == 1:
        key = "lora" if share.lora else "looped" if share.looped else ""
        mend = "say what: model.share.ffn=all, for example"
        raise ModelError("nothing is shared", where=f"model.share.{key}".rstrip("."), mend=mend)
    share.check_layers(config.depth)
    _check_rank(share, config)
    return share


def _read(values: Mapping[str, Any]) -> Sharing:
    known = [field.name for field in fields(Sharing)]
    if strange := [key for key in values if key not in known]:
        reason = f"{strange[0]} is nothing that layers share"
        raise ModelError(reason, where=f"model.share.{strange[0]}", mend=f"one of {', '.join(known)}")
    return Sharing(**values)


def _check_rank(share: Sharing, config: ModelConfig) -> None:
    for part, (outputs, inputs) in extents(config).items():
        if share.adapted(part, config.depth) and share.lora > min(outputs, inputs):
            raise ModelError(
                f"a LoRA of rank {share.lora} is larger than the matrix it is for, {part} of {outputs} × {inputs}",
                where="model.share.lora",
                mend=f"at most {min(outputs, inputs)}",
            )


def default_rank(width: int, keys: int) -> int:
    """Width / 8 in steps of 4: 64 at the width of 512 that has it. keys: rows of the smallest matrix, never passed."""
    return min(max(4, round(width / 32) * 4), keys, width)


def extents(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of each of MATRICES."""
    width, ffn = config.width, config.ffn
    query, key = config.heads * config.head_dim, config.kv_heads * config.head_dim
    sizes = ((query, width), (key, width), (key, width), (width, query), (ffn, width), (ffn, width), (width, ffn))
    return dict(zip(MATRICES, sizes, strict=True))


def shared_less(config: ModelConfig) -> int:
    """Parameters that sharing saves against the network unrolled: the uses after the first of each tensor, less the
    LoRAs."""
    share, depth = config.share, config.depth
    if share is None:
        return 0
    saved = 0
    for part, (outputs, inputs) in extents(config).items():
        biased = config.mlp_bias if part.startswith("mlp.") else config.attention_bias
        biased = config.has_output_bias() if part == _OUTPUT else biased
        uses = depth - len(set(share.owners(part, depth)))
        saved += uses * (outputs * inputs + (outputs if biased else 0))
        saved -= len(share.adapted(part, depth)) * share.lora * (outputs + inputs)
    return saved + sum((depth - len(set(share.owners(norm, depth)))) * config.width for norm in NORMS)


def unrolled(config: ModelConfig) -> ModelConfig:
    """The shape of the plain network that computes the same, each use with a copy of what is shared: what a token's
    arithmetic, its activations and the writer's prepared weights follow from. A LoRA is part of its copy there."""
    if config.share is None:
        return config
    return replace(config, family="llama", model_type="llama", share=None)
