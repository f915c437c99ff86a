"""A tiny encoder with a real tokenizer."""

import inspect
import statistics
from dataclasses import replace
from functools import cache
from typing import Any

import torch

from lilliput.model.encoder import Encoder, initialise_encoder
from lilliput.model.encoder_config import EncoderConfig
from lilliput.tokenizer.load import Tokenizer
from lilliput.tokenizer.special import Specials, for_encoder
from lilliput.tokenizer.train_wordpiece import train_wordpiece

TEXT = inspect.getsource(statistics)


@cache
def tokenizer() -> tuple[Tokenizer, Specials]:
    return for_encoder(train_wordpiece([TEXT], 400))


def shape(**changes: Any) -> EncoderConfig:
    made, special = tokenizer()
    plain = EncoderConfig(
        vocab_size=made.vocab_size, depth=2, width=32, heads=4, ffn=64, context=24, **special.ids()
    )
    return replace(plain, **changes)


def encoder(seed: int = 0, **changes: Any) -> Encoder:
    """One whose every parameter has been moved from its start, so that nothing equals by chance."""
    model = Encoder(shape(**changes))
    initialise_encoder(model, seed)
    shake(model)
    return model.eval()


def shake(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))


def rows(length: int = 24, count: int = 4, seed: int = 1) -> torch.Tensor:
    """ids_BS of texts of several lengths, padded with −100."""
    _, special = tokenizer()
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, tokenizer()[0].vocab_size, (count, length), generator=generator)
    ids[:, 0] = special.cls
    for at in range(1, count):
        ids[at, length - 5 * at :] = -100
    return ids
