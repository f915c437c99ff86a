"""What the models that we read and write are to `transformers`: their `config.json`, by `model_type`.

Besides Llama (with it SmolLM and SmolLM2) these are its nearest relatives, which differ from it in a few facts: biases,
norms of queries and keys, an attention window, and what an absent key means. The facts are declared here as data, as
transformers 5 has them in its configuration classes; everything else is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lilliput.errors import ModelError

# The model_type of families that transformers does not know: each model directory brings their class along.
PANGU = "lilliput_pangu"
SHARED = "lilliput_shared"
DEPTHS = "lilliput_depths"
BYTE_POOL = "lilliput_byte_pool"
OWN = {"pangu": PANGU, "shared": SHARED, "mixture-of-depths": DEPTHS, "byte-pool": BYTE_POOL}


@dataclass(frozen=True)
class Architecture:
    """One `model_type`.

    model_class: its name in transformers. attention_bias: whether q, k, v have biases, output_bias: whether the
    attention's output has one, mlp_bias; None where config.json says it, for the output: where it follows
    attention_bias. qk_norm: queries and keys pass an RMSNorm over head_dim before they are turned. whole_heads:
    transformers refuses a width that the heads do not divide. window: which layers a sliding window holds for, "all",
    "some" (use_sliding_window, max_window_layers, layer_types) or "none". defaults: of absent keys, where not Llama's.
    """

    model_class: str
    attention_bias: bool | None = False
    output_bias: bool | None = None
    mlp_bias: bool | None = False
    qk_norm: bool = False
    whole_heads: bool = False
    window: str = "none"
    defaults: Mapping[str, Any] = field(default_factory=dict)


_LLAMA: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_QWEN = {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "bos_token_id": None,
    "eos_token_id": None,
}
_MISTRAL = {"intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072}
_WINDOW, _WINDOW_LAYERS = 4096, 28  # sliding_window and max_window_layers where absent

ARCHITECTURES = {
    "llama": Architecture("LlamaForCausalLM", attention_bias=None, mlp_bias=None, whole_heads=True),
    "mistral": Architecture("MistralForCausalLM", window="all", defaults=_MISTRAL),
    "qwen2": Architecture(
        "Qwen2ForCausalLM", attention_bias=True, output_bias=False, window="some", defaults=_QWEN
    ),
    "qwen3": Architecture(
        "Qwen3ForCausalLM", attention_bias=None, qk_norm=True, window="some", defaults={**_QWEN, "head_dim": 128}
    ),
    DEPTHS: Architecture("LilliputDepthsForCausalLM", attention_bias=None, mlp_bias=None, whole_heads=True),
    PANGU: Architecture("LilliputPanguForCausalLM", attention_bias=None, mlp_bias=None, whole_heads=True),
    SHARED: Architecture("LilliputSharedForCausalLM", attention_bias=None, mlp_bias=None, whole_heads=True),
    BYTE_POOL: Architecture("LilliputBytePoolForCausalLM", attention_bias=None, mlp_bias=None, whole_heads=True),
}

_SHARE = "share_"  # begins the keys of config.json that say which weights are shared

# Keys that change what the model computes and that we do not implement: each may be present only with a value that
# means "off".
_UNSUPPORTED = (
    "quantization_config",
    "attention_dropout",
    "rope_interleaved",
    "use_qk_norm",
    "no_rope_layers",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "final_logit_softcapping",
    "attn_logit_softcapping",
)
# The same for factors, where 1 means "off".
_UNSUPPORTED_FACTORS = (
    "partial_rotary_factor",
    "logits_scaling",
    "residual_multiplier",
    "embedding_multiplier",
    "attention_multiplier",
)
# Why a relative is none, by the beginning of its model_type.
_STRANGERS = {
    "gemma": "scales its embeddings, adds one to its norms' weights and has a GELU",
    "mixtral": "is a mixture of experts",
    "qwen2_moe": "is a mixture of experts",
    "qwen3_moe": "is a mixture of experts",
    "olmoe": "is a mixture of experts",
    "deepseek": "has latent attention",
    "smollm3": "leaves every fourth layer without rotary positions",
    "ministral": "has a sliding window in some of its layers",
    "phi3": "stores q, k, v and gate, up as joined matrices",
    "olmo": "puts its norms in other places",
    "granite": "scales its residual stream and its logits",
    "gpt2": "has learned positions and LayerNorm",
    "gpt_neox": "has parallel halves of a layer and LayerNorm",
}


def read(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of a ModelConfig from a `config.json`. An absent key means transformers' default for this model_type.

    Raises ModelError that names whatever this decoder does not implement, and ValueError, TypeError or
    ZeroDivisionError for a size that is none.
    """
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise _stranger(kind, where)
    known = ARCHITECTURES[kind]
    rope_theta = _rope(raw, where)
    _check_plain(raw, where)
    given = {**_LLAMA, **known.defaults, **raw}
    heads, width, depth = (given[name] for name in ("num_attention_heads", "hidden_size", "num_hidden_layers"))
    heads, width, depth, context = int(heads), int(width), int(depth), int(given["max_position_embeddings"])
    kv_heads, head_dim = given["num_key_value_heads"], given["head_dim"]
    _check_window(raw, known, depth, context, where)
    implicit = head_dim is None and "head_dim" not in known.defaults
    eos_id = _first(given["eos_token_id"], default=0)
    return {
        "model_type": kind,
        "vocab_size": int(given["vocab_size"]),
        "depth": depth,
        "width": width,
        "heads": heads,
        "kv_heads": heads if kv_heads is None else int(kv_heads),
        "head_dim": width // heads if implicit else int(head_dim),
        "ffn": int(given["intermediate_size"]),
        "bos_id": _first(given["bos_token_id"], default=eos_id),
        "eos_id": eos_id,
        "tied": bool(raw.get("tie_word_embeddings", False)),
        "context": context,
        "rope_theta": rope_theta,
        "norm_eps": float(given["rms_norm_eps"]),
        "attention_bias": _fixed(known.attention_bias, raw.get("attention_bias", False)),
        "output_bias": known.output_bias,
        "mlp_bias": _fixed(known.mlp_bias, raw.get("mlp_bias", False)),
        "qk_norm": known.qk_norm,
        "family": next((family for family, own in OWN.items() if own == kind), "llama"),
        "shortcut": int(raw.get("shortcut_size", 0)) if kind == PANGU else 0,
        "series": int(raw.get("activation_series", 1)) if kind == PANGU else 1,
        "share": _share(raw) if kind == SHARED else None,
        "capacity": float(raw["routed_capacity"]) if kind == DEPTHS else 0.0,
        "routed_every": int(raw["routed_every"]) if kind == DEPTHS else 2,
    }


def _share(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What `own_keys` wrote of the layers that share weights."""
    return {key.removeprefix(_SHARE): value for key, value in raw.items() if key.startswith(_SHARE)}


def own_keys(kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `config.json` of a family of ours: where its class lies, and its own fields."""
    name = ARCHITECTURES[kind].model_class.removesuffix("ForCausalLM")
    prefix = _SHARE if kind == SHARED else ""
    return {
        "auto_map": {
            "AutoConfig": f"configuration_{kind}.{name}Config",
            "AutoModel": f"modeling_{kind}.{name}Model",
            "AutoModelForCausalLM": f"modeling_{kind}.{name}ForCausalLM",
        },
        **{f"{prefix}{key}": value for key, value in fields.items()},
    }


def bias_keys(kind: str, attention_bias: bool, mlp_bias: bool) -> dict[str, Any]:
    """The keys of `config.json` about biases, as far as this model_type leaves them open, and about attention: no
    dropout, and no sliding window where an absent key would mean one."""
    known = ARCHITECTURES[kind]
    return {
        **({"attention_bias": attention_bias} if known.attention_bias is None else {}),
        "attention_dropout": 0.0,
        **({"mlp_bias": mlp_bias} if known.mlp_bias is None else {}),
        **({"sliding_window": None} if known.window != "none" else {}),
        **({"use_sliding_window": False} if known.window == "some" else {}),
    }


def _fixed(known: bool | None, said: object) -> bool:
    return bool(said) if known is None else known


def _check_plain(raw: Mapping[str, Any], where: str) -> None:
    """Refuse what changes the computation in a way that we do not implement."""
    for key in _UNSUPPORTED:
        if raw.get(key):
            raise _unsupported(key, raw[key], where)
    for key in _UNSUPPORTED_FACTORS:
        if raw.get(key) not in (None, 1, 1.0):
            raise _unsupported(key, raw[key], where)
    if raw.get("hidden_act", "silu") not in ("silu", "swish"):
        raise _unsupported("hidden_act", raw["hidden_act"], where)


def _check_window(raw: Mapping[str, Any], known: Architecture, depth: int, context: int, where: str) -> None:
    """Refuse a sliding window that hides anything: one that some layer has and that is shorter than the context."""
    if known.window == "none":
        if raw.get("sliding_window"):
            raise _unsupported("sliding_window", raw["sliding_window"], where)
        return
    window = raw.get("sliding_window", _WINDOW)
    if known.window == "some":
        window = window if raw.get("use_sliding_window", False) else None
        kinds = raw.get("layer_types")
        if kinds is None:
            if int(raw.get("max_window_layers", _WINDOW_LAYERS)) >= depth:
                return
        elif not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
            if window is None or set(kinds) - {"full_attention", "sliding_attention"}:
                raise _unsupported("layer_types", kinds, where)
        else:
            return
    if window is not None and int(window) < context:
        raise ModelError(
            f"the model has a sliding window: each position sees {window} of its context of {context} "
            "(sliding_window), which this decoder does not implement",
            where=where,
            mend=f'set "max_position_embeddings": {window} in config.json: up to there the window hides nothing',
        )


def _rope(raw: Mapping[str, Any], where: str) -> float:
    """The rotary base, from either spelling; ModelError where positions are scaled."""
    theta: Any = raw.get("rope_theta", 1e4)
    for key in ("rope_parameters", "rope_scaling"):
        rope = raw.get(key)
        if not rope:
            continue
        if not isinstance(rope, Mapping) or any(isinstance(value, Mapping) for value in rope.values()):
            raise _unsupported(key, rope, where)
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default" or rope.get("partial_rotary_factor", 1.0) not in (None, 1, 1.0):
            raise _unsupported(key, dict(rope), where)
        theta = rope.get("rope_theta", theta)
    try:
        return float(theta)
    except (TypeError, ValueError) as error:
        raise ModelError(f"rope_theta is {theta!r}, not a number", where=where) from error


def _stranger(kind: object, where: str) -> ModelError:
    why = next((f": it {why}" for name, why in _STRANGERS.items() if str(kind).startswith(name)), "")
    names = list(ARCHITECTURES)
    return ModelError(
        f"model_type {kind!r} is not supported{why}",
        where=where,
        mend=f"give a model whose model_type is {', '.join(names[:-1])} or {names[-1]}",
    )


def _unsupported(key: str, value: object, where: str) -> ModelError:
    return ModelError(
        f"the model uses {key}={value!r}, which this decoder does not implement",
        where=where,
        mend=f"give a model without {key}",
    )


def _first(value: Any, default: int) -> int:
    """A token id from an id, a list of them or null."""
    if isinstance(value, list):
        value = value[0] if value else None
    return default if value is None else int(value)
