"""A byte-pooled model for transformers, 4.56 or later. Written by Lilliput.

Text is a flat run of symbols (tokenization_lilliput_byte_pool.py). To the outside this is a causal language model over
symbols: `logits` at a symbol are those of the next one. Within, a unit's bytes are encoded and pooled to one vector,
the core (transformers' Llama) reads these, and its state after a unit is decoded to the next unit's symbols. With the
parallel head the bytes of a unit do not see each other.
"""

# mypy: ignore-errors
import torch
from torch import nn
from torch.nn import functional as F
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaModel, LlamaRMSNorm

from .configuration_lilliput_byte_pool import LilliputBytePoolConfig

PAD, END, DOCUMENT, ALPHABET = 0, 257, 258, 259
NEVER = -1e9
HEAD_DIM = 32


def hashed(rows, count):
    """A number below `count` for each beginning of each unit, the whole last."""
    value, found = torch.zeros_like(rows[:, 0]), []
    for symbols in rows.unbind(1):
        value = (value * 1_000_003 + symbols + 1) % (2**31 - 1)
        found.append(value % count)
    return torch.stack(found, 1)


class LilliputBytePoolAttention(nn.Module):
    """Attention within units (units, symbols, width)."""

    def __init__(self, width):
        super().__init__()
        self.heads = width // HEAD_DIM
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x, mask):
        count, length, width = x.shape
        q, k, v = self.qkv(x).view(count, length, 3, self.heads, HEAD_DIM).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(out.transpose(1, 2).reshape(count, length, width))


class LilliputBytePoolBlock(nn.Module):
    """Attention and SwiGLU."""

    def __init__(self, width, eps):
        super().__init__()
        self.norm_1 = LlamaRMSNorm(width, eps)
        self.attention = LilliputBytePoolAttention(width)
        self.norm_2 = LlamaRMSNorm(width, eps)
        self.gate_up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x, mask):
        x = x + self.attention(self.norm_1(x), mask)
        gate, up = self.gate_up(self.norm_2(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class LilliputUnitEncoder(nn.Module):
    """Rows of symbols (units, limit) to vectors (units, hidden_size)."""

    def __init__(self, config):
        super().__init__()
        width, self.attends = config.byte_width, config.pool == "attention"
        queries = 4 if self.attends else 1
        self.bytes = nn.Embedding(ALPHABET, width)
        self.places = nn.Embedding(config.unit_bytes, width)
        self.layers = nn.ModuleList(
            LilliputBytePoolBlock(width, config.rms_norm_eps) for _ in range(config.encoder_depth)
        )
        self.norm = LlamaRMSNorm(width, config.rms_norm_eps)
        if self.attends:
            self.queries = nn.Linear(width, queries, bias=False)
        self.up = nn.Linear(queries * width, config.hidden_size, bias=False)
        self.hashes = config.hashes
        if self.hashes:
            self.whole = nn.Embedding(self.hashes, config.hidden_size)

    def forward(self, rows):
        pooled = self._pooled(rows)
        return pooled + self.whole(hashed(rows, self.hashes)[:, -1]) if self.hashes else pooled

    def _pooled(self, rows):
        real = (rows != PAD) & (rows != END)
        # Of a row that says nothing one place is read.
        real[:, 0] |= ~real.any(1)
        x = self.bytes(rows) + self.places.weight
        for layer in self.layers:
            x = layer(x, real[:, None, None])
        x = self.norm(x)
        if not self.attends:
            weight = real / real.sum(1, keepdim=True)
            return self.up((x * weight[..., None].to(x.dtype)).sum(1))
        scores = self.queries(x).float().masked_fill(~real[..., None], -torch.inf)
        return self.up((torch.softmax(scores, 1).to(x.dtype).mT @ x).flatten(1))


class LilliputByteDecoder(nn.Module):
    """States (units, hidden_size) and the symbols that follow, as rows, to logits (units, limit, alphabet)."""

    def __init__(self, config):
        super().__init__()
        width, self.causal, self.limit = config.byte_width, config.byte_head == "autoregressive", config.unit_bytes
        if self.causal:
            self.bytes = nn.Embedding(ALPHABET, width)
        self.hashes = config.hashes if self.causal else 0
        if self.hashes:
            self.begun = nn.Embedding(self.hashes, width)
        self.places = nn.Embedding(self.limit, width)
        self.state = nn.Linear(config.hidden_size, self.limit * width, bias=False)
        self.layers = nn.ModuleList(
            LilliputBytePoolBlock(width, config.rms_norm_eps) for _ in range(config.decoder_depth)
        )
        self.norm = LlamaRMSNorm(width, config.rms_norm_eps)
        self.head = nn.Linear(width, ALPHABET, bias=False)

    def forward(self, states, rows):
        x = self.state(states).view(len(states), self.limit, -1) + self.places.weight
        mask = None
        if self.causal:
            before = F.pad(rows[:, :-1], (1, 0))
            x = x + self.bytes(before)
            if self.hashes:
                x = x + self.begun(hashed(before, self.hashes))
            mask = torch.ones(self.limit, self.limit, dtype=torch.bool, device=rows.device).tril()
        for layer in self.layers:
            x = layer(x, mask)
        logits = self.head(self.norm(x)).float()
        never = torch.zeros(self.limit, ALPHABET, device=logits.device)
        never[:, PAD] = never[0, END] = NEVER
        never[1:, DOCUMENT] = NEVER
        return logits + never


class LilliputBytePoolForCausalLM(PreTrainedModel, GenerationMixin):
    """A causal language model over the symbols of units."""

    config_class = LilliputBytePoolConfig
    base_model_prefix = "model"
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.model.embed_tokens = LilliputUnitEncoder(config)
        self.byte_decoder = LilliputByteDecoder(config)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.embed_tokens.bytes

    def _rows(self, symbols):
        """(rows (units, limit), the unit of each symbol, its place): the last unit may lack its end."""
        ends = symbols >= END
        unit = torch.cumsum(ends.long(), 0) - ends.long()
        count = int(unit[-1]) + 1
        first = torch.full((count,), len(symbols), device=symbols.device)
        first.scatter_reduce_(0, unit, torch.arange(len(symbols), device=symbols.device), "amin")
        place = torch.arange(len(symbols), device=symbols.device) - first[unit]
        limit = self.config.unit_bytes
        rows = symbols.new_zeros(count, limit)
        kept = place < limit  # the end of a unit as long as may be is not in its row
        rows[unit[kept], place[kept]] = symbols[kept]
        return rows, unit, place

    def _of_one(self, symbols):
        """Logits (symbols, alphabet) of what follows each symbol of one text."""
        rows, unit, place = self._rows(symbols)
        states = self.model(inputs_embeds=self.model.embed_tokens(rows)[None], use_cache=False).last_hidden_state[0]
        # What follows the last symbol of unit u is the first of unit u + 1, by the state after u; what follows another
        # one is by the state before its unit, which for the first unit there is none.
        following = torch.cat((rows[1:], rows.new_zeros(1, rows.shape[1])))
        logits = self.byte_decoder(states, following)
        within = symbols < END
        before = unit - within.long()
        at = torch.where(within, place + 1, 0)
        out = logits.new_zeros(len(symbols), ALPHABET)
        known = before >= 0
        full = known & (at >= self.config.unit_bytes)
        plain = known & ~full
        out[plain] = logits[before[plain], at[plain]]
        out[full] = NEVER
        out[full, END] = 0
        return out

    def forward(self, input_ids, attention_mask=None, labels=None, **kwargs):
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        rows = []
        for symbols, seen in zip(input_ids, attention_mask.bool(), strict=True):
            logits = self.model.embed_tokens.bytes.weight.new_zeros(len(symbols), ALPHABET, dtype=torch.float32)
            logits[seen] = self._of_one(symbols[seen])
            rows.append(logits)
        logits, loss = torch.stack(rows), None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        return CausalLMOutputWithPast(loss=loss, logits=logits)

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **kwargs):
        return {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
