"""How much memory a step of training takes: an estimate from the shape, for one process on a CPU.

What a step keeps is read off the autograd graph of `model.layers`, `model.loss`, `model.gemm` and of AdamW, tensor by
tensor (`torch.autograd.graph.saved_tensors_hooks` shows the same list), and is exact. On top comes what the heap
cannot use again: `model.heap` has glibc keep freed memory, and a block that was freed takes in only smaller ones as
long as a small object of the graph lies between it and its neighbour. These shares (`_Slack`) are fitted to measured
growth, over 40 shapes of 1 to 26 layers; the same shape measured twice differs by up to 7 %. `bench/train_memory.py`
measures how well the estimate holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lilliput.model.byte_pool_config import BytePoolConfig
from lilliput.model.loss import chunk_rows
from lilliput.model.sharing import extents, unrolled

if TYPE_CHECKING:
    from lilliput.model.config import ModelConfig

_MB = 1 << 20
# What the first step brings into a process that has only imported this package: code that is read when it is first
# run, and modules of torch that are imported when the optimizer (or the compiler) is made.
_LIBRARIES, _COMPILER = 52 * _MB, 160 * _MB


@dataclass(frozen=True)
class _Slack:
    """Fitted shares of memory that the heap holds and the step does not use at its peak."""

    passing: float = 0.52
    """Of the tensors freed within the forward pass: the holes they leave."""
    layer: float = 0.61
    """Of one layer's activations: what the backward pass works with."""
    head: float = 2.8
    """Copies of the head's gradient, some in use, some holes that nothing else is large enough to need."""
    weights: float = 2.0
    """Copies of one layer's gradients."""
    gradients: float = 0.71
    """Of the gradients that find no room where activations were."""


_SLACK = _Slack()


@dataclass(frozen=True)
class _Layer:
    """Bytes of one layer in the forward pass: kept for the backward pass, as activations and as copies of weights,
    and passing (freed before the layer ends)."""

    activations: int
    copies: int
    passing: int


def step_bytes(
    shape: ModelConfig, micro_sequences: int, *, precision: str = "fp32", compile: bool = False, passes: int = 1
) -> int:
    """Peak memory in bytes that training takes over what the process had before the model was built: weights,
    gradients, AdamW's two moments, activations, loss, work space and what the heap cannot use again.

    micro_sequences: windows of `shape.context` tokens in one forward and backward pass. precision: fp32 or bf16.
    compile: with compiled layers. passes: micro batches in a step; where there are more, the gradients of the first
    lie beside the activations of the next, and the graph of each is taken to be gone before the next begins.
    """
    tokens = micro_sequences * shape.context
    parameters = 4 * shape.parameters()
    layer = _layer(shape, tokens, precision, compile)
    table = 4 * shape.vocab_size * shape.width
    tables = table * (1 if shape.tied else 2)
    body = parameters - tables
    held = 3 * parameters + (parameters if passes > 1 else 0)
    kept = shape.depth * (layer.activations + layer.copies + _SLACK.passing * layer.passing) + _sums(shape)
    # The last norm's input, both its results and the gradient that the loss leaves.
    ends = 4 * 4 * tokens * shape.width
    half = precision == "bf16"
    # Autocast adds a rounded head; gradients of matrices begin as bf16.
    loss = _loss_bytes(shape, tokens, precision) + (_SLACK.head + half / 2) * table
    late = max(0, body - shape.depth * layer.activations) if passes == 1 else 0
    weights = _SLACK.weights / (2 if half else 1) * (4 * unrolled(shape).parameters() - tables) / shape.depth
    backward = _SLACK.gradients * late + weights + 2 * table
    work = _SLACK.layer * layer.activations + max(loss, backward)
    return int(held + kept + ends + work) + (_COMPILER if compile else _LIBRARIES)


def activation_bytes(shape: ModelConfig, precision: str = "fp32", compile: bool = False) -> float:
    """What one token adds to a step's memory in the layers: kept tensors and the holes of passing ones."""
    layer = _layer(shape, 1, precision, compile)
    local = 4 * shape.local_activations() if isinstance(shape, BytePoolConfig) else 0.0
    return shape.depth * (layer.activations + _SLACK.passing * layer.passing) + local


def _layer(shape: ModelConfig, tokens: int, precision: str, compile: bool) -> _Layer:
    """The forward pass of one layer over `tokens` positions."""
    width, ffn = shape.width, shape.ffn
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    item = 2 if precision == "bf16" else 4  # of what comes out of matrix products
    joined = width * (query + 2 * key) + 2 * width * ffn
    # Kept: q, k, v as one tensor, q and k turned, what attention gives; gate and up as one tensor and their product.
    products = 3 * query + 3 * key + 3 * ffn + 2 * shape.shortcut
    # In fp32 whatever the precision: the reciprocal of each norm's root mean square, attention's log-sum-exp.
    rows = 2 + shape.heads
    if compile:
        # Kept too: both residual streams and the norms' results. Passing: the outputs added to the stream.
        activations = tokens * (4 * (2 * width + rows) + item * (2 * width + products))
        passing = tokens * item * 2 * width
    else:
        series = 2 * ffn if shape.series > 1 else 0
        # Kept besides: the normed input before its scale, SiLU of the gate (of a series: its arguments and sum).
        activations = tokens * (4 * (4 * width + rows) + item * (2 * width + products + ffn + series))
        # Squares in the norms, in bf16 also their results before they are rounded; six halves of q and k in turning
        # them; the outputs added to the stream, a shortcut's and a series' terms.
        squares = 2 * width if item == 4 else 4 * width
        outputs = 2 * width + 3 * (query + key) + series + (2 * width if shape.shortcut else 0)
        passing = tokens * (4 * squares + item * outputs)
    if item == 4:
        return _Layer(activations, 4 * joined, passing)
    # Autocast rounds every matrix; those that are joined first pass by in fp32.
    unrounded = 0 if compile else round(_SLACK.passing * 4 * joined)
    return _Layer(activations, 2 * shape.layer_matrix_parameters() + unrounded, passing)


def _sums(shape: ModelConfig) -> int:
    """Bytes of the sums W + B·A that are kept besides: of the matrices that are not joined with others, which are
    copied anyway."""
    share, sizes = shape.share, extents(shape)
    if share is None:
        return 0
    outputs = ("self_attn.o_proj", "mlp.down_proj")
    return 4 * sum(len(share.adapted(part, shape.depth)) * math.prod(sizes[part]) for part in outputs)


def _loss_bytes(shape: ModelConfig, tokens: int, precision: str) -> int:
    """Work space of the chunked cross-entropy: the logits of a chunk, their softmax and, from the second chunk on, the
    gradient of the chunk before; in bf16 the logits twice and a rounded gradient."""
    rows = chunk_rows(shape.vocab_size, torch.device("cpu"))
    more = rows < tokens
    item = (12 if more else 10) if precision == "bf16" else (12 if more else 8)
    return item * min(rows, tokens) * shape.vocab_size
