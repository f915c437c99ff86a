"""A decoder whose layers, heads, neurons and hidden channels stand behind gates that are learned with its weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lilliput.errors import ModelError
from lilliput.inherit import concrete
from lilliput.inherit.fold import Gates, check_family, fold, gated, kept_of
from lilliput.inherit.layers import check_layers
from lilliput.model.carve import carve_model
from lilliput.model.decoder import Decoder, Embedding
from lilliput.model.gemm import linear
from lilliput.model.layers import Linear, RMSNorm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lilliput.model.carve import Kept
    from lilliput.model.config import ModelConfig

# The name of a space among the masks and the field of ModelConfig that counts it.
SPACES = {"hidden": "width", "ffn": "ffn", "kv_head": "kv_heads", "layers": "depth"}


class _Table(Embedding):
    """The embedding, what it writes to each channel gated."""

    rows: Tensor | None = None

    def forward(self, ids_BT: Tensor) -> Tensor:
        x_BTD: Tensor = super().forward(ids_BT)
        return x_BTD if self.rows is None else x_BTD * self.rows


class _Writer(Linear):
    """A map whose inputs and outputs are gated: a copy of the weights is less than one of all positions."""

    rows: Tensor | None = None
    columns: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        bias: Tensor | None = self.bias
        if bias is not None and self.rows is not None:
            bias = bias * self.rows
        return linear(x, gated(self.weight, self.rows, self.columns), bias)


class _Norm(RMSNorm):
    """The mean of squares over the survivors; the other channels are zero."""

    kept: Tensor | None = None

    def forward(self, x_BTD: Tensor) -> Tensor:
        if self.kept is None:
            return super().forward(x_BTD)
        x = x_BTD.float()
        x = x * torch.rsqrt(x.square().sum(-1, keepdim=True) / self.kept + self.eps)
        return self.weight * x.to(x_BTD.dtype)


class MaskedDecoder(nn.Module):
    """A copy of `teacher`, in fp32, that is called as it is. In training each call draws its gates; otherwise they are
    settled, and exactly the members of `target` stay.

    decoder: the weights, under their own names. masks: logα of each space in which `target` is smaller than the
    teacher: hidden (width,), ffn (layers, ffn), kv_head (layers, kv_heads), layers (layers,). lambda1, lambda2: the
    penalty's multipliers, (spaces,), in the order of `masks`.
    Raises ModelError for a target that this teacher cannot become.
    """

    def __init__(self, teacher: Decoder, target: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        config = teacher.config
        check_target(config, target)
        self.config, self.target = config, target
        self.cut = tuple(space for space, size in SPACES.items() if getattr(target, size) < getattr(config, size))
        self.decoder = _masked_copy(teacher)
        generator = torch.Generator().manual_seed(seed)
        by_layer = {space: (config.depth,) if space in ("ffn", "kv_head") else () for space in self.cut}
        self.masks = nn.ParameterDict(
            {
                space: nn.Parameter(concrete.start(*layers, getattr(config, SPACES[space]), generator=generator))
                for space, layers in by_layer.items()
            }
        )
        self.lambda1, self.lambda2 = (nn.Parameter(torch.zeros(len(self.cut))) for _ in range(2))

    def forward(self, ids_BT: Tensor, targets_BT: Tensor | None = None, reduction: str = "sum") -> Tensor:
        """Logits or loss, as `Decoder.forward`."""
        return self.behind(self.drawn() if self.training else self.settled(), ids_BT, targets_BT, reduction)

    def behind(
        self, gates: Gates, ids_BT: Tensor, targets_BT: Tensor | None = None, reduction: str = "sum"
    ) -> Tensor:
        """Logits or loss behind these gates."""
        self._set(gates)
        try:
            out: Tensor = self.decoder(ids_BT, targets_BT, reduction)
        finally:
            self._set(Gates())
        return out

    def drawn(self) -> Gates:
        """Gates by chance."""
        return Gates(**{space: concrete.sample(logalpha) for space, logalpha in self.masks.items()})

    def settled(self) -> Gates:
        """Gates without chance, of which exactly the target's number is above 0."""
        return Gates(
            **{space: concrete.settled(logalpha, self.wanted(space)) for space, logalpha in self.masks.items()}
        )

    def wanted(self, space: str) -> int:
        """The members of a space that the target has (of ffn and kv_head: in each layer)."""
        count: int = getattr(self.target, SPACES[space])
        return count

    def sparsity(self, space: str) -> Tensor:
        """The share that is expected to go: for each layer, or one number where the space has no layers."""
        logalpha: Tensor = self.masks[space]
        return 1 - concrete.expected_share(logalpha)

    def child(self) -> tuple[Decoder, Kept]:
        """The plain model of the target's shape that this one is, its gates settled and folded in, and what it kept."""
        gates = self.settled()
        plain = Decoder(self.config).to(self.decoder.head_weight().device)
        plain.load_state_dict(self.decoder.state_dict())
        kept = kept_of(gates, self.config)
        return carve_model(fold(plain, gates), kept), kept

    def _set(self, gates: Gates) -> None:
        body: Any = self.decoder.model
        kept = None if gates.hidden is None else (gates.hidden > 0).sum().clamp(min=1)
        body.embed_tokens.rows, body.norm.kept = gates.hidden, kept
        for index, layer in enumerate(body.layers):
            layer.input_layernorm.kept = layer.post_attention_layernorm.kept = kept
            layer.self_attn.o_proj.rows = layer.mlp.down_proj.rows = gates.written(index)
            layer.self_attn.o_proj.columns = gates.heads(self.config, index)
            layer.mlp.down_proj.columns = gates.neurons(index)


def _masked_copy(teacher: Decoder) -> Decoder:
    """A copy with parts that know of gates, its tensors named as the teacher's."""
    config = teacher.config
    copy = Decoder(config)
    body: Any = copy.model
    body.embed_tokens = _Table(config.vocab_size, config.width)
    body.norm = _Norm(config.width, config.norm_eps)
    for layer in body.layers:
        layer.input_layernorm = _Norm(config.width, config.norm_eps)
        layer.post_attention_layernorm = _Norm(config.width, config.norm_eps)
        for part, name in ((layer.self_attn, "o_proj"), (layer.mlp, "down_proj")):
            plain = getattr(part, name)
            setattr(part, name, _Writer(plain.in_features, plain.out_features, bias=plain.bias is not None))
    copy.load_state_dict(teacher.state_dict())
    return copy


def check_target(teacher: ModelConfig, target: ModelConfig, layers: Sequence[int] | None = None) -> None:
    """ModelError where masks cannot make `target` out of `teacher`; ConfigError for layers that are none.

    layers: those that are kept, where they are chosen already.
    """
    check_family(teacher)
    for name in ("depth", "width", "kv_heads", "ffn"):
        asked, there = getattr(target, name), getattr(teacher, name)
        if asked > there:
            raise ModelError(f"{asked} cannot be kept of the teacher's {there}", where=name, mend=f"give 1 to {there}")
    group = teacher.heads // teacher.kv_heads
    if target.heads != target.kv_heads * group:
        raise ModelError(
            f"{target.heads} heads share {target.kv_heads} key-value heads; in the teacher {group} share each one",
            where="heads",
            mend=f"give heads={target.kv_heads * group} with kv_heads={target.kv_heads}",
        )
    sizes = {name: getattr(target, name) for name in ("depth", "width", "heads", "kv_heads", "ffn")}
    same = replace(teacher, **sizes)
    for name, value in vars(target).items():
        if value != getattr(same, name):
            reason = f"the target's is {value!r}, the teacher's {getattr(same, name)!r}"
            raise ModelError(reason, where=name, mend="masks change depth, width, heads and ffn only")
    if layers is None:
        return
    check_layers(layers, teacher.depth)
    if len(layers) != target.depth:
        reason = f"{len(layers)} layers are chosen, the target has {target.depth}"
        raise ModelError(reason, where="layers", mend=f"choose {target.depth}")
