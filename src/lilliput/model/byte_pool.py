"""The byte-pooled model (METHODS: STLM §2): no vocabulary, and next to no parameters for input and output.

A unit's bytes pass a few layers that look to both sides within the unit and are pooled to one vector, which the core
reads in the place of a token's. The core's state after a unit says what the next one is, byte by byte: causal layers
within the unit, each byte given those before it and the state, with an end of the unit among them. So it is a
likelihood: over all byte strings up to the longest unit, and the end of the document, the probabilities sum to one.
That holds exactly because what cannot stand somewhere has no probability there: an END first, a DOCUMENT later; and a
unit as long as may be ends by itself. (`parallel` is the paper's head: all bytes at once, each by itself.)

What we do otherwise than the paper: an end of units; pooling over the bytes that there are; units split where they are
too long, not cut off; the state given to the byte decoder by a map of its own for each place, since the paper's head
showed its worth; each distinct unit of a batch encoded once.

Shape suffixes: B sequences, T units, L symbols of a unit's row, N units, P symbols of all units, W byte_width, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lilliput.corpus.unit_rows import ALPHABET, DOCUMENT, END, NOTHING
from lilliput.errors import ModelError
from lilliput.model.byte_pool_config import BytePoolConfig
from lilliput.model.decoder import Decoder, Embedding
from lilliput.model.layers import RMSNorm
from lilliput.model.loss import IGNORE, cross_entropy
from lilliput.model.within import Lengths, LocalLinear, WithinBlock

# Added to the logits of symbols that cannot stand in a place.
_NEVER = -1e9
# Of the polynomial hash: a prime modulus, 2³¹ − 1, and a multiplier with which products stay below 2⁶³.
_MODULUS, _MULTIPLIER = (1 << 31) - 1, 1_000_003


def _layers(config: BytePoolConfig, depth: int, *, causal: bool) -> nn.Sequential:
    """No ModuleList: the loop compiles and shards the entries of those, and here every batch has another shape."""
    width, heads, ffn, eps = config.byte_width, config.byte_heads, config.byte_ffn, config.norm_eps
    return nn.Sequential(*(WithinBlock(width, heads, ffn, eps, causal) for _ in range(depth)))


def hashed(rows_NL: Tensor, rows: int) -> Tensor:
    """A number below `rows` for each beginning of each unit, the whole last: (N, L). Any number of units share one."""
    value_N, found = torch.zeros_like(rows_NL[:, 0]), []
    for symbol_N in rows_NL.unbind(1):
        value_N = (value_N * _MULTIPLIER + symbol_N + 1) % _MODULUS
        found.append(value_N % rows)
    return torch.stack(found, 1)


class UnitEncoder(nn.Module):
    """Rows of symbols to what the core reads, in the place of a table: rows_BTL to x_BTD."""

    def __init__(self, config: BytePoolConfig) -> None:
        super().__init__()
        self.bytes = Embedding(ALPHABET, config.byte_width)
        self.places = Embedding(config.unit, config.byte_width)
        self.layers = _layers(config, config.encoder_depth, causal=False)
        self.norm = RMSNorm(config.byte_width, config.norm_eps)
        if config.pool == "attention":
            self.queries = LocalLinear(config.byte_width, config.queries)
        self.up = LocalLinear(config.queries * config.byte_width, config.width)
        self.attends, self.hashes = config.pool == "attention", config.hashes
        if config.hashes:
            self.whole = Embedding(config.hashes, config.width)

    @property
    def weight(self) -> Tensor:
        """A tensor of the part's type, on its device."""
        return self.bytes.weight

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, rows_BTL: Tensor) -> Tensor:
        rows_NL, which_N = torch.unique(rows_BTL.flatten(0, 1), dim=0, return_inverse=True)
        # Of a row that says nothing one place is read, so that every row has a vector.
        lengths = Lengths(((rows_NL != NOTHING) & (rows_NL != END)).sum(1).clamp(min=1))
        x_PW = self.bytes(lengths.packed(rows_NL[lengths.order_N])) + self.places(lengths.place_P)
        for layer in self.layers:
            x_PW = layer(x_PW, lengths)
        x_ND = lengths.back(self.up(self._pool(self.norm(x_PW), lengths)))
        if self.hashes:
            x_ND = x_ND + self.whole(hashed(rows_NL, self.hashes)[:, -1])
        return x_ND[which_N].view(*rows_BTL.shape[:2], -1)

    def _pool(self, x_PW: Tensor, lengths: Lengths) -> Tensor:
        """The mean over each unit's bytes, or several weighted ones side by side."""
        parts = lengths.by_length(x_PW)
        if not self.attends:
            return torch.cat([part.mean(1) for part in parts])
        weights = [torch.softmax(part.float(), 1).to(x_PW.dtype) for part in lengths.by_length(self.queries(x_PW))]
        return torch.cat([(w.mT @ part).flatten(1) for w, part in zip(weights, parts, strict=True)])


class ByteDecoder(nn.Module):
    """From the core's states to the symbols of the units that follow."""

    never: Tensor

    def __init__(self, config: BytePoolConfig) -> None:
        super().__init__()
        self.unit, self.causal = config.unit, config.byte_head == "autoregressive"
        if self.causal:
            self.bytes = Embedding(ALPHABET, config.byte_width)
        self.hashes = config.hashes if self.causal else 0
        if self.hashes:
            self.begun = Embedding(config.hashes, config.byte_width)
        self.places = Embedding(config.unit, config.byte_width)
        self.state = LocalLinear(config.width, config.unit * config.byte_width)
        self.layers = _layers(config, config.decoder_depth, causal=self.causal)
        self.norm = RMSNorm(config.byte_width, config.norm_eps)
        self.head = LocalLinear(config.byte_width, ALPHABET)
        never = torch.zeros(2, ALPHABET)
        never[0, [NOTHING, END]] = never[1, [NOTHING, DOCUMENT]] = _NEVER
        self.register_buffer("never", never, persistent=False)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def nats(self, states_ND: Tensor, rows_NL: Tensor) -> Tensor:
        """−log p of each unit's symbols given the core's state before it, (N,); 0 for rows without symbols."""
        lengths, places = self._lengths(rows_NL)
        rows_NL = rows_NL[lengths.order_N]
        targets_P = lengths.packed(rows_NL)
        x_PW = self._run(states_ND[lengths.order_N], rows_NL, lengths, places)
        targets_P = torch.where(targets_P > NOTHING, targets_P, IGNORE)
        nats_P = cross_entropy(*self._masked(x_PW, lengths.place_P), targets_P, "none")
        nats_N = nats_P.new_zeros(len(rows_NL)).index_add_(0, lengths.unit_P, nats_P)
        return lengths.back(nats_N)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def logits(self, states_ND: Tensor, rows_NL: Tensor) -> tuple[Tensor, Lengths]:
        """(logits_PV in fp32 of each symbol of the sorted units, how they are sorted)."""
        lengths, places = self._lengths(rows_NL)
        x_PW = self._run(states_ND[lengths.order_N], rows_NL[lengths.order_N], lengths, places)
        x_PX, w_VX = self._masked(x_PW, lengths.place_P)
        return (x_PX @ w_VX.T).float(), lengths

    def judge(self, states_ND: Tensor, rows_NL: Tensor) -> tuple[Tensor, Tensor]:
        """(log p of each unit, whether each of its symbols is the likeliest), (N,) both. Every row has a symbol."""
        logits_PV, lengths = self.logits(states_ND, rows_NL)
        targets_P1 = lengths.packed(rows_NL[lengths.order_N])[:, None]
        picked_P = logits_PV.gather(1, targets_P1)[:, 0]
        log_p_N, misses_N = logits_PV.new_zeros(2, len(rows_NL)).unbind()
        log_p_N.index_add_(0, lengths.unit_P, picked_P - logits_PV.logsumexp(1))
        misses_N.index_add_(0, lengths.unit_P, (picked_P < logits_PV.amax(1)).to(misses_N.dtype))
        return lengths.back(log_p_N), lengths.back(misses_N) == 0

    def _lengths(self, rows_NL: Tensor) -> tuple[Lengths, Lengths]:
        """(the symbols that are predicted, the places that are computed)."""
        lengths = Lengths((rows_NL > NOTHING).sum(1).clamp(min=1))
        if self.causal:
            return lengths, lengths
        return lengths, Lengths(torch.full_like(rows_NL[:, 0], self.unit))

    def _run(self, states_ND: Tensor, rows_NL: Tensor, lengths: Lengths, places: Lengths) -> Tensor:
        """The last states of the predicted symbols."""
        state_QW = self.state(states_ND).view(len(rows_NL) * self.unit, -1)
        at_P = lengths.unit_P * self.unit + lengths.place_P
        if self.causal:
            before_NL = F.pad(rows_NL[:, :-1], (1, 0), value=NOTHING).clamp(min=NOTHING)
            x_PW = state_QW[at_P] + self.bytes(lengths.packed(before_NL)) + self.places(lengths.place_P)
            if self.hashes:
                x_PW = x_PW + self.begun(lengths.packed(hashed(before_NL, self.hashes)))
            for layer in self.layers:
                x_PW = layer(x_PW, lengths)
        else:
            x_QW = state_QW + self.places(places.place_P)
            for layer in self.layers:
                x_QW = layer(x_QW, places)
            x_PW = x_QW[at_P]
        return cast("Tensor", self.norm(x_PW))

    def _masked(self, x_PW: Tensor, place_P: Tensor) -> tuple[Tensor, Tensor]:
        """States and head, each with two columns more, whose product forbids what cannot stand in a place."""
        first_P2 = torch.stack((place_P == 0, place_P > 0), 1).to(x_PW.dtype)
        return torch.cat((x_PW, first_P2), 1), torch.cat((self.head.weight, self.never.T.to(x_PW.dtype)), 1)


class BytePool(Decoder):
    """A causal language model over units. All weights are zero until `initialise` or a load sets them."""

    config: BytePoolConfig

    def __init__(self, config: BytePoolConfig) -> None:
        super().__init__(config)
        del self.lm_head
        self.model.embed_tokens = UnitEncoder(config)  # type: ignore[assignment]
        self.byte_decoder = ByteDecoder(config)

    @property
    def row(self) -> tuple[int, ...]:
        return (self.config.unit,)

    def head_weight(self) -> Tensor:
        """The matrix (symbols, byte_width) that predicts bytes."""
        return self.byte_decoder.head.weight

    def forward(
        self,
        ids_BT: Tensor,
        targets_BT: Tensor | None = None,
        reduction: str = "sum",
        walk: Callable[[Decoder, Tensor, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Loss in nats, of the units that `targets_BT` holds.

        ids_BT: rows_BTL of units (unit_rows.py), int64. targets_BT: the rows to predict; one without symbols, or of
        −100, weighs nothing. reduction "sum" gives a scalar, "none" gives (B, T). Without targets: the core's states.
        Raises ModelError where there are more units than the trained context, and for a `walk`: there is neither layer
        dropout nor an early exit here.
        """
        if walk is not None:
            raise ModelError("a byte-pooled model runs all its layers", mend="leave layer dropout and exits out")
        batch, length = ids_BT.shape[:2]
        if length > self.config.context:
            raise ModelError(
                f"{length} units are more than the model's context of {self.config.context}",
                mend="cut the text into windows",
            )
        states_BTD = self.model(ids_BT)
        if targets_BT is None:
            return cast("Tensor", states_BTD)
        nats_N = self.byte_decoder.nats(states_BTD.flatten(0, 1), targets_BT.flatten(0, 1))
        return cast("Tensor", nats_N.sum() if reduction == "sum" else nats_N.view(batch, length))
