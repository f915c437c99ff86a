"""Small decoders of every shape that matters, with weights far enough from their start to tell mistakes."""

import torch

from lilliput.model import Decoder, ModelConfig, initialise

SHAPES = {
    "tied": {},
    "untied": {"tied": False},
    "gqa": {"heads": 4, "kv_heads": 2, "width": 48, "head_dim": 12, "ffn": 101},
    "one-kv-head": {"heads": 4, "kv_heads": 1, "width": 48, "head_dim": 16, "tied": False},
    "wide-heads": {"heads": 2, "kv_heads": 1, "width": 48, "head_dim": 32, "depth": 1},
    "biased": {"attention_bias": True, "mlp_bias": True, "rope_theta": 500.0, "norm_eps": 1e-6},
    "mistral": {"model_type": "mistral", "heads": 4, "kv_heads": 2, "width": 48, "head_dim": 12, "tied": False},
    "qwen2": {"model_type": "qwen2", "attention_bias": True, "output_bias": False, "heads": 4, "kv_heads": 2},
    "qwen3": {"model_type": "qwen3", "qk_norm": True, "heads": 4, "kv_heads": 2, "head_dim": 12, "norm_eps": 1e-2},
    "qwen3-biased": {"model_type": "qwen3", "qk_norm": True, "attention_bias": True, "heads": 3, "width": 40},
    "pangu": {"family": "pangu"},
    "pangu-shortcut": {"family": "pangu", "shortcut": 7, "series": 1, "attention_bias": True, "tied": False},
    "pangu-series": {"family": "pangu", "shortcut": 0, "mlp_bias": True, "heads": 4, "kv_heads": 2},
}
SHARES = {
    "ffn": {"ffn": "all"},
    "ffn-lora": {"ffn": "interior", "lora": 3},
    "output": {"attention_output": "1-3", "ffn": "all", "lora": 2},
    "looped": {"loops": 3},
    "looped-lora": {"loops": 2, "looped": "interior", "lora": 3},
    "both": {"loops": 2, "looped": "2-5", "ffn": "2-5", "lora": 2},
}
_SHARED = {"depth": 6, "heads": 4, "kv_heads": 2, "width": 40, "head_dim": 10, "attention_bias": True, "mlp_bias": True}
SHAPES |= {f"shared-{name}": {**_SHARED, "share": share} for name, share in SHARES.items()}


def config(**changes: object) -> ModelConfig:
    """The odd shape of the tests (width 40, 5 heads of 8), changed as asked."""
    base = {
        "vocab_size": 97,
        "depth": 3,
        "width": 40,
        "heads": 5,
        "head_dim": 8,
        "ffn": 70,
        "bos_id": 0,
        "eos_id": 1,
        "context": 64,
    }
    merged = {**base, **changes}
    merged.setdefault("kv_heads", merged["heads"])
    return ModelConfig(**merged)  # type: ignore[arg-type]


def decoder(seed: int = 0, **changes: object) -> Decoder:
    """A decoder whose every tensor, norms and biases too, is random."""
    model = Decoder(config(**changes))
    initialise(model, seed)
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.1)
    return model


def ids(batch: int, length: int, vocab: int = 97, seed: int = 0) -> torch.Tensor:
    """Random ids."""
    return torch.randint(0, vocab, (batch, length), generator=torch.Generator().manual_seed(seed))
