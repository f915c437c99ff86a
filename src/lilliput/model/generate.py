"""Writing text: a key-value cache, one small pass a token, and the choice of the next token.

At width 256 a token is some tens of microseconds of arithmetic, so what counts is the number of operator calls.
`Generator` therefore works on its own copy of the weights, prepared once: norm scales folded into the matrices
that follow them, q, k, v joined, gate and up joined, and the rotary pairs of q and k made neighbours, so that
turning them is one complex product. The logits are the decoder's up to rounding. A token reads every weight once, so
memory sets the pace of the larger products: oneDNN spreads even a single row over the threads, where MKL uses one; of
the small ones, the call does, and MKL's is the shorter.
PanGu-π blocks take no further products: a shortcut's matrices are joined to qkv and to the attention's output, which
leaves a GELU and a joining of rows; the terms of an activation are computed side by side, two calls more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lilliput.errors import ConfigError, ModelError
from lilliput.model.decoder import Decoder
from lilliput.model.depths_cache import route_of, routed
from lilliput.model.gemm import usable, written_product
from lilliput.model.layers import Attention, Block
from lilliput.model.pangu import Series, Shortcut


def _neighbours(rows: Tensor, heads: int, head_dim: int) -> Tensor:
    """Reorder each head's rows from Hugging Face's (first half, second half) to pairs (i, i + head_dim/2)."""
    return rows.view(heads, 2, head_dim // 2, -1).transpose(1, 2).reshape(rows.shape)


def _qkv(attention: Attention, scale_D: Tensor) -> tuple[Tensor, Tensor | None]:
    heads, kv_heads, head_dim = attention.heads, attention.kv_heads, attention.head_dim
    parts = ((attention.q_proj, heads), (attention.k_proj, kv_heads))
    weight = torch.cat(
        [_neighbours(part.matrix, count, head_dim) for part, count in parts] + [attention.v_proj.matrix]
    )
    bias = None
    if attention.q_proj.bias is not None:
        turned = [_neighbours(part.bias[:, None], count, head_dim)[:, 0] for part, count in parts]
        bias = torch.cat([*turned, attention.v_proj.bias])
    return weight * scale_D, bias


def _qk_scale(attention: Attention) -> Tensor | None:
    """The scales of the norms of queries and keys, a row for each head, in the order of the turned pairs."""
    if not attention.qk_norm:
        return None
    norms = ((attention.q_norm, attention.heads), (attention.k_norm, attention.kv_heads))
    rows = [_neighbours(norm.weight[:, None], 1, attention.head_dim).T.expand(count, -1) for norm, count in norms]
    return torch.cat(rows)


class _Layer:
    """One layer's prepared weights."""

    def __init__(self, block: Block) -> None:
        attention, mlp = block.self_attn, block.mlp
        self.qkv, self.qkv_bias = _qkv(attention, block.input_layernorm.weight)
        self.qk_scale = _qk_scale(attention)
        self.out, self.out_bias = attention.o_proj.matrix, attention.o_proj.bias
        gate_up = torch.cat((mlp.gate_proj.matrix, mlp.up_proj.matrix))
        self.gate_up = gate_up * block.post_attention_layernorm.weight
        biased = mlp.gate_proj.bias is not None
        self.gate_up_bias = torch.cat((mlp.gate_proj.bias, mlp.up_proj.bias)) if biased else None
        self.down, self.down_bias = mlp.down_proj.matrix, mlp.down_proj.bias
        self.route = route_of(block)
        self.parts: list[int] | None = None
        if (shortcut := getattr(attention, "shortcut", None)) is not None:
            self._join(shortcut, block.input_layernorm.weight)
        self.series: tuple[Tensor, Tensor] | None = None
        if isinstance(series := getattr(mlp, "act_fn", None), Series):
            scale_21F = torch.stack((series.scale_1, series.scale_2))[:, None]
            self.series = scale_21F, torch.stack((series.shift_1, series.shift_2))[:, None]

    def _join(self, shortcut: Shortcut, scale_D: Tensor) -> None:
        """Set the shortcut's first matrix below qkv and its second beside the attention's output."""
        # GELU(x) = x/√2 · (1 + erf(x/√2)) · 1/√2: so it takes two light calls, where PyTorch's goes through oneDNN.
        inner = shortcut.in_proj.weight * scale_D * 0.5**0.5
        outer = shortcut.out_proj.weight * 0.5**0.5
        # An odd bottleneck is filled up: rows of odd length could not be read as complex pairs.
        odd = inner.shape[0] % 2
        self.parts = [self.qkv.shape[0], inner.shape[0] + odd]
        self.qkv = torch.cat((self.qkv, F.pad(inner, (0, 0, 0, odd))))
        if self.qkv_bias is not None:
            self.qkv_bias = F.pad(self.qkv_bias, (0, self.parts[1]))
        self.out = torch.cat((self.out, F.pad(outer, (0, odd))), dim=1)


class Generator:
    """A decoder ready to write `batch` texts at once; holds the cache of up to `context` positions."""

    @torch.inference_mode()
    def __init__(self, model: Decoder, batch: int) -> None:
        config = model.config
        self.config, self.batch, self.position = config, batch, 0
        body = model.model
        self.embedding = body.embed_tokens.weight
        self.head = self._last_map(model)
        self.linear = written_product if usable(self.embedding, self.head) else F.linear
        self.layers = [_Layer(block) for block in body.layers if isinstance(block, Block)]
        self.turn_TE = torch.complex(body.cos.float(), body.sin.float())
        shape = (config.depth, 2, batch, config.kv_heads, config.context, config.head_dim)
        self.cache = self.embedding.new_zeros(shape)
        # Of the routed layers, which cached positions count.
        counted = (config.depth, batch, config.context) if config.capacity else (0,)
        self.counted = torch.zeros(counted, dtype=torch.bool, device=self.embedding.device)

    @torch.inference_mode()
    def feed(self, ids_BT: Tensor) -> Tensor:
        """Take in ids that follow the cached ones and return the logits_BV (fp32) after the last.

        The first call takes a prompt, later ones a single position each. Raises ModelError where the cache
        would overflow.
        """
        length, start = ids_BT.shape[1], self.position
        if start + length > self.config.context or (start and length > 1):
            raise ModelError(f"{length} ids cannot follow {start} in a context of {self.config.context}")
        x_ND = self._embed(ids_BT).view(-1, self.config.width)
        turn_TE = self.turn_TE[start : start + length, None]
        for index, layer in enumerate(self.layers):
            if layer.route is not None:
                x_ND = routed(self, x_ND, layer, layer.route, index)
                continue
            x_ND = self._attend(x_ND, layer, self.cache[index], turn_TE)
            x_ND = self._transform(x_ND, layer)
        self.position += length
        last_BD = x_ND.view(self.batch, length, -1)[:, -1]
        return self.linear(self._norm(last_BD), self.head, None).float()

    def _last_map(self, model: Decoder) -> Tensor:
        """What the last states, normed without a scale, are multiplied with."""
        return model.head_weight() * model.model.norm.weight

    def _embed(self, ids_BT: Tensor) -> Tensor:
        return F.embedding(ids_BT, self.embedding)

    def rewind(self) -> None:
        """Forget everything that was fed."""
        self.position = 0

    def _norm(self, x_ND: Tensor) -> Tensor:
        return F.rms_norm(x_ND, (self.config.width,), None, self.config.norm_eps)

    def _project(
        self, x_ND: Tensor, layer: _Layer, shape: tuple[int, int], turn_E: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(turned queries and keys_BTHE, values_BTKE, a shortcut's inner states_NS or None) of states.

        shape: (B, T). turn_E: the complex turns, of a shape that fits (B, T, 1, head_dim / 2).
        """
        heads, kv_heads, head_dim = self.config.heads, self.config.kv_heads, self.config.head_dim
        wide = self.linear(self._norm(x_ND), layer.qkv, layer.qkv_bias)
        qkv, inner_NS = wide.split_with_sizes(layer.parts, dim=1) if layer.parts else (wide, None)
        qkv_BTHE = qkv.view(*shape, heads + 2 * kv_heads, head_dim)
        qk_BTHE, v_BTKE = qkv_BTHE[:, :, : heads + kv_heads], qkv_BTHE[:, :, heads + kv_heads :]
        if layer.qk_scale is not None:
            qk_BTHE = F.rms_norm(qk_BTHE, (head_dim,), None, self.config.norm_eps) * layer.qk_scale
        pairs = torch.view_as_complex(qk_BTHE.float().view(*qk_BTHE.shape[:-1], head_dim // 2, 2))
        return torch.view_as_real(pairs * turn_E).flatten(-2).to(x_ND.dtype), v_BTKE, inner_NS

    def _rejoin(self, x_ND: Tensor, out_ND: Tensor, inner_NS: Tensor | None, layer: _Layer) -> Tensor:
        """The states after attention and, where there is one, the shortcut beside it."""
        if inner_NS is not None:
            out_ND = torch.cat((out_ND, torch.addcmul(inner_NS, inner_NS, inner_NS.erf())), dim=1)
        return x_ND + self.linear(out_ND, layer.out, layer.out_bias)

    def _attend(self, x_ND: Tensor, layer: _Layer, cache: Tensor, turn_TE: Tensor) -> Tensor:
        config, start, length = self.config, self.position, x_ND.shape[0] // self.batch
        heads, kv_heads, head_dim = config.heads, config.kv_heads, config.head_dim
        qk_BTHE, v_BTKE, inner_NS = self._project(x_ND, layer, (self.batch, length), turn_TE)
        end = start + length
        cache[0, :, :, start:end] = qk_BTHE[:, :, heads:].transpose(1, 2)
        cache[1, :, :, start:end] = v_BTKE.transpose(1, 2)
        k_BKTE, v_BKTE = cache[0, :, :, :end], cache[1, :, :, :end]
        if length == 1:  # the query heads that share a key-value head stand as its query positions
            q_BKGE = qk_BTHE[:, 0, :heads].view(self.batch, kv_heads, heads // kv_heads, head_dim)
            out_ND = F.scaled_dot_product_attention(q_BKGE, k_BKTE, v_BKTE).reshape(self.batch, -1)
        else:
            q_BHTE = qk_BTHE[:, :, :heads].transpose(1, 2)
            out_BHTE = F.scaled_dot_product_attention(
                q_BHTE, k_BKTE, v_BKTE, is_causal=True, enable_gqa=heads != kv_heads
            )
            out_ND = out_BHTE.transpose(1, 2).reshape(x_ND.shape[0], -1)
        return self._rejoin(x_ND, out_ND, inner_NS, layer)

    def _transform(self, x_ND: Tensor, layer: _Layer) -> Tensor:
        gate_NF, up_NF = self.linear(self._norm(x_ND), layer.gate_up, layer.gate_up_bias).chunk(2, dim=-1)
        if layer.series is None:
            hidden_NF = F.silu(gate_NF)
        else:
            scale_21F, shift_21F = layer.series
            hidden_NF = F.silu(torch.addcmul(shift_21F, gate_NF, scale_21F), inplace=True).sum(0)
        return x_ND + self.linear(hidden_NF.mul_(up_NF), layer.down, layer.down_bias)


@torch.inference_mode()
def choose(
    logits_BV: Tensor,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator | None,
) -> Tensor:
    """The next id of each row: the most likely at temperature 0, else drawn from softmax(logits / temperature)
    cut to the top_k most likely and then to the fewest that hold top_p of the probability."""
    if temperature == 0:
        return logits_BV.argmax(-1)
    logits_BV = logits_BV / temperature
    if top_k is not None and top_k < logits_BV.shape[1]:
        least_B1 = logits_BV.topk(top_k).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -torch.inf)
    p_BV = torch.softmax(logits_BV, -1)
    if top_p is not None and top_p < 1:
        sorted_BV, order_BV = p_BV.sort(descending=True, stable=True)
        # A token is dropped when those before it already hold top_p; the first always stays.
        dropped_BV = sorted_BV.cumsum(-1) - sorted_BV >= top_p
        p_BV = p_BV.masked_fill(dropped_BV.gather(-1, order_BV.argsort(-1)), 0.0)
    return torch.multinomial(p_BV, 1, generator=generator)[:, 0]


def generate(
    model: Decoder,
    ids_BT: Tensor,
    max_new: int,
    *,
    temperature: float = 1.0,
    top_p: float | None = None,
    top_k: int | None = None,
    seed: int = 0,
    stop_ids: Sequence[int] = (),
    writer: Generator | None = None,
) -> Iterator[Tensor]:
    """Continue a batch of equally long prompts, yielding the (B,) next ids, at most `max_new` times.

    temperature: 0 is greedy. The same seed gives the same text on the same machine. A row that has produced one
    of `stop_ids` repeats it; the end comes when every row has. When the context is full, the last half of it
    is read again as a new prompt and writing goes on from there; a prompt longer than the context is cut to
    its last positions. writer: of the model, for as many texts, where it is to be of another kind than `Generator`.
    Raises ConfigError for impossible settings, ModelError for an empty prompt or ids
    outside the vocabulary.
    """
    _check(model, ids_BT, max_new, temperature, top_p, top_k)
    device = ids_BT.device
    random = torch.Generator(device).manual_seed(seed) if temperature else None
    stops = torch.tensor(list(stop_ids), dtype=torch.long, device=device)

    def pick(logits_BV: Tensor) -> Tensor:
        return choose(logits_BV, temperature, top_k, top_p, random)

    return _write(writer or Generator(model, ids_BT.shape[0]), ids_BT, max_new, pick, stops)


def _write(
    writer: Generator, prompt_BT: Tensor, max_new: int, pick: Callable[[Tensor], Tensor], stops: Tensor
) -> Iterator[Tensor]:
    context = writer.config.context
    read = feed_BT = prompt_BT[:, -context:]
    written: list[Tensor] = []
    stopped_B = torch.zeros(prompt_BT.shape[0], dtype=torch.bool, device=prompt_BT.device)
    for _ in range(max_new):
        if writer.position + feed_BT.shape[1] > context:
            writer.rewind()
            read = torch.cat((read, *(new[:, None] for new in written)), dim=1)[:, -max(1, context // 2) :]
            written, feed_BT = [], read
        new_B = pick(writer.feed(feed_BT))
        if len(stops):
            new_B = torch.where(stopped_B, feed_BT[:, -1], new_B)
            stopped_B = stopped_B | torch.isin(new_B, stops)
        written.append(new_B)
        feed_BT = new_B[:, None]
        yield new_B
        if len(stops) and bool(stopped_B.all()):
            return


def check_settings(
    ids: Tensor, max_new: int, temperature: float, top_p: float | None, top_k: int | None
) -> None:
    """Refuse impossible settings and an empty prompt."""
    if max_new < 0:
        raise ConfigError(f"max_new is {max_new}", where="max_new", mend="give 0 or more")
    if not 0 <= temperature < float("inf"):
        raise ConfigError(
            f"temperature is {temperature}", where="temperature", mend="give 0 (greedy) or more"
        )
    if top_p is not None and not 0 < top_p <= 1:
        raise ConfigError(f"top_p is {top_p}", where="top_p", mend="give a number above 0, at most 1")
    if top_k is not None and top_k < 1:
        raise ConfigError(f"top_k is {top_k}", where="top_k", mend="give 1 or more")
    if ids.ndim != 2 or 0 in ids.shape:
        raise ModelError("the prompt is empty", mend="begin with the BOS token")


def _check(
    model: Decoder, ids_BT: Tensor, max_new: int, temperature: float, top_p: float | None, top_k: int | None
) -> None:
    check_settings(ids_BT, max_new, temperature, top_p, top_k)
    if int(ids_BT.min()) < 0 or int(ids_BT.max()) >= model.config.vocab_size:
        raise ModelError(
            f"the prompt has ids outside the vocabulary of {model.config.vocab_size}",
            mend="encode it with the model's own tokenizer",
        )
