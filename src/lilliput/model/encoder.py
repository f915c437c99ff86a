"""The encoder: BERT-shaped (1810.04805), its tensors named as Hugging Face names them.

Text comes as ids with PAD (−100) behind it; a padded position is seen by no other. Each layer adds and then norms
(post-norm). With a conv front end (conv.py) the embedded text passes that first.

Shape suffixes: B sequences, S positions, D width, N predicted positions, L labels, H heads, E head_dim.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lilliput.errors import ModelError
from lilliput.model.conv import ConvFront
from lilliput.model.decoder import Embedding
from lilliput.model.encoder_config import EncoderConfig
from lilliput.model.gemm import linear
from lilliput.model.init import drawn
from lilliput.model.layers import Linear, joined
from lilliput.model.loss import cross_entropy
from lilliput.model.neighbours import turn_to_neighbours

PAD = -100  # in rows of ids: no token here; in rows of targets: nothing to predict here


class Embeddings(nn.Module):
    """Pieces, positions and token types added up, normed; then the front end, if there is one."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.word_embeddings = Embedding(config.vocab_size, config.width)
        self.position_embeddings = Embedding(config.context, config.width)
        self.token_type_embeddings = Embedding(config.types, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.front = ConvFront(config.conv, config.channels) if config.conv else None

    def forward(self, ids_BS: Tensor, real_BS: Tensor, types_BS: Tensor | None = None) -> Tensor:
        places_S = torch.arange(ids_BS.shape[1], device=ids_BS.device)
        types = torch.zeros_like(ids_BS) if types_BS is None else types_BS
        x_BSD = self.word_embeddings(ids_BS) + self.token_type_embeddings(types)
        x_BSD = self.dropout(self.LayerNorm(x_BSD + self.position_embeddings(places_S)))
        out_BSD: Tensor = x_BSD if self.front is None else self.front(x_BSD, real_BS)
        return out_BSD


class _Projections(nn.Module):
    """Queries, keys and values."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.query = Linear(config.width, config.width)
        self.key = Linear(config.width, config.width)
        self.value = Linear(config.width, config.width)


class _Output(nn.Module):
    """A matrix whose result is added to the stream, which is normed after."""

    def __init__(self, inputs: int, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = Linear(inputs, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, stream_BSD: Tensor) -> Tensor:
        out_BSD: Tensor = self.LayerNorm(self.dropout(self.dense(x)) + stream_BSD)
        return out_BSD


class _Attention(nn.Module):
    """Every position sees every real one."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.self = _Projections(config)
        self.output = _Output(config.width, config)
        self.heads, self.dropout = config.heads, config.dropout

    def forward(self, x_BSD: Tensor, seen_B11S: Tensor | None) -> Tensor:
        batch, length, width = x_BSD.shape
        own = self.self
        qkv = joined(x_BSD, own.query, own.key, own.value).view(batch, length, 3, self.heads, -1)
        q_BHSE, k_BHSE, v_BHSE = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        rate = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q_BHSE, k_BHSE, v_BHSE, attn_mask=seen_B11S, dropout_p=rate)
        out_BSD: Tensor = self.output(out.transpose(1, 2).reshape(batch, length, width), x_BSD)
        return out_BSD


class _Intermediate(nn.Module):
    """The first half of the feed-forward."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = Linear(config.width, config.ffn)


class EncoderLayer(nn.Module):
    """Attention, then the feed-forward with GELU, each added to the stream and normed."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.intermediate = _Intermediate(config)
        self.output = _Output(config.ffn, config)

    def forward(self, x_BSD: Tensor, seen_B11S: Tensor | None) -> Tensor:
        x_BSD = self.attention(x_BSD, seen_B11S)
        out_BSD: Tensor = self.output(F.gelu(self.intermediate.dense(x_BSD)), x_BSD)
        return out_BSD


class _Layers(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(EncoderLayer(config) for _ in range(config.depth))


class EncoderBody(nn.Module):
    """Embeddings and layers: ids_BS, PAD where there is no token, to states_BSD."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = _Layers(config)

    def forward(self, ids_BS: Tensor, types_BS: Tensor | None = None) -> Tensor:
        if ids_BS.shape[1] > self.config.context:
            raise ModelError(
                f"{ids_BS.shape[1]} positions are more than the model's context of {self.config.context}",
                mend="cut the text",
            )
        real_BS = ids_BS >= 0
        # Without padding there is nothing to hide, and attention is quicker without a mask.
        seen_B11S = None if bool(real_BS.all()) else _seen(real_BS)
        x_BSD = self.embeddings(torch.where(real_BS, ids_BS, self.config.pad_id), real_BS, types_BS)
        for layer in self.encoder.layer:
            x_BSD = layer(x_BSD, seen_B11S)
        states_BSD: Tensor = x_BSD
        return states_BSD


def _seen(real_BS: Tensor) -> Tensor:
    """What attention may see, (B, 1, 1, S): the real positions, and the first even of a row without any (a process's
    share is filled up with such), since attention to nothing gives no numbers."""
    first_S = torch.arange(real_BS.shape[1], device=real_BS.device) == 0
    return (real_BS | first_S)[:, None, None, :]


class _Transform(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = Linear(config.width, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, config.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(F.gelu(self.dense(x)))
        return out


class _Predictions(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.transform = _Transform(config)


class _MaskedHead(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.predictions = _Predictions(config)


class Encoder(nn.Module):
    """A masked language model. All matrices are zero until `initialise_encoder` or a load sets them."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.bert = EncoderBody(config)
        self.cls = _MaskedHead(config)

    def forward(
        self, ids_BS: Tensor, targets_BS: Tensor | None = None, reduction: str = "sum", types_BS: Tensor | None = None
    ) -> Tensor:
        """Logits or loss.

        ids_BS: int64, PAD behind the text. targets_BS: the id to predict, PAD where none; None asks for logits_BSV in
        fp32. With targets: cross-entropy in nats over the positions that have one, which alone reach the head;
        reduction "sum" gives a scalar, "none" the N values in the order of the positions.
        """
        x_BSD = self.bert(ids_BS, types_BS)
        table_VD, head = self.bert.embeddings.word_embeddings.weight, self.cls.predictions
        if targets_BS is None:
            return linear(head.transform(x_BSD), table_VD, head.bias).float()
        asked_BS = targets_BS >= 0
        if not bool(asked_BS.any()):  # a few short texts may have no masked token at all
            nothing: Tensor = 0.0 * x_BSD.sum()
            return nothing if reduction == "sum" else x_BSD.new_empty(0)
        x_ND = head.transform(x_BSD[asked_BS])
        # One more channel, always one, carries the bias: the chunked loss knows no other.
        x_ND = torch.cat((x_ND, x_ND.new_ones(len(x_ND), 1)), dim=1)
        table = torch.cat((table_VD, head.bias[:, None]), dim=1)
        return cross_entropy(x_ND, table, targets_BS[asked_BS], reduction)


class _Pooler(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = Linear(config.width, config.width)


class _Pooled(EncoderBody):
    """The body, and of its states the first alone, [CLS]: tanh of a matrix."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.pooler = _Pooler(config)

    def forward(self, ids_BS: Tensor, types_BS: Tensor | None = None) -> Tensor:
        states_BSD = super().forward(ids_BS, types_BS)
        return torch.tanh(self.pooler.dense(states_BSD[:, 0]))


class Classifier(nn.Module):
    """An encoder with a head of `labels` outputs on [CLS]."""

    def __init__(self, config: EncoderConfig, labels: int) -> None:
        super().__init__()
        self.config, self.labels = config, labels
        self.bert = _Pooled(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = Linear(config.width, labels)

    def forward(self, ids_BS: Tensor) -> Tensor:
        """ids_BS: int64, PAD behind the text. Returns logits_BL, fp32."""
        logits_BL: Tensor = self.classifier(self.dropout(self.bert(ids_BS)))
        return logits_BL.float()


def initialise_encoder(model: Encoder | Classifier, seed: int) -> None:
    """Fill the model by its `config.init`: normal numbers of σ = 0.02 as BERT has them ("constant"), or 1/√inputs
    ("fan-in"; an embedding's inputs are its width); norms one, biases zero. "neighbours" is fan-in with heads that
    begin turned to the tokens beside them (neighbours.py), where no convolution stands before them. The convolutions,
    which batch norm scales anyway, always by their inputs, and a classifier's last matrix always by 0.02, so that it
    begins undecided. In place. Each tensor's numbers follow from the seed and its name alone."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            shape = tuple(parameter.shape)
            if len(shape) == 1:
                parameter.fill_(0.0 if name.endswith(".bias") else 1.0)
                continue
            inputs = parameter[0].numel()
            by_inputs = len(shape) == 4 or (model.config.init != "constant" and not name.startswith("classifier"))
            parameter.copy_(drawn(name, shape, seed) * (inputs**-0.5 if by_inputs else 0.02))
    if model.config.init == "neighbours" and not model.config.conv:
        first = cast("EncoderLayer", model.bert.encoder.layer[0]).attention.self
        positions = model.bert.embeddings.position_embeddings.weight
        turn_to_neighbours(model.config, positions, first.query.weight, first.key.weight, seed)
