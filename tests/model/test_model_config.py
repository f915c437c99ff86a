from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_support import SHAPES, config

from lilliput.errors import ModelError
from lilliput.model import Decoder, ModelConfig
from lilliput.model.sharing import unrolled


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_counts_are_exact(changes):
    model = Decoder(config(**changes))
    stored = sum(parameter.numel() for parameter in model.parameters())
    assert model.config.parameters() == stored
    # What layers share is multiplied by each of them, with its LoRA added to it.
    multiplied = Decoder(unrolled(model.config))
    matrices = [p for name, p in multiplied.named_parameters() if p.ndim == 2 and "embed_tokens" not in name]
    head = model.config.vocab_size * model.config.width if model.config.tied else 0
    assert model.config.matrix_parameters() == sum(p.numel() for p in matrices) + head


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_config_json_round_trip(changes):
    assert ModelConfig.from_hf(config(**changes).to_hf()) == config(**changes)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"depth": 0}, "depth"),
        ({"head_dim": 7}, "head_dim"),
        ({"heads": 5, "kv_heads": 2}, "kv_heads"),
        ({"heads": 3, "width": 40}, "heads"),
        ({"family": "mamba"}, "family"),
        ({"init": "zeros"}, "init"),
        ({"shortcut": 8}, "shortcut"),
        ({"series": 2}, "series"),
        ({"family": "pangu", "shortcut": -2}, "shortcut"),
        ({"family": "pangu", "series": 3}, "series"),
        ({"family": "pangu", "shortcut": 0, "series": 1}, "family"),
        ({"model_type": "gemma"}, "model_type"),
        ({"model_type": "qwen2", "family": "pangu"}, "model_type"),
        ({"model_type": "qwen2"}, "attention_bias"),
        ({"model_type": "qwen2", "attention_bias": True}, "output_bias"),
        ({"model_type": "qwen2", "attention_bias": True, "output_bias": False, "mlp_bias": True}, "mlp_bias"),
        ({"model_type": "qwen3"}, "qk_norm"),
        ({"qk_norm": True}, "qk_norm"),
        ({"model_type": "mistral", "attention_bias": True}, "attention_bias"),
        ({"attention_bias": True, "output_bias": False}, "output_bias"),
    ],
)
def test_impossible_shapes_are_refused(changes, names):
    with pytest.raises(ModelError) as caught:
        config(**changes)
    assert names in str(caught.value.where)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "gpt2"}, "gpt2.*learned positions"),
        ({"model_type": "gemma2"}, "gemma2.*GELU"),
        ({"model_type": "gemma3_text"}, "gemma3_text.*GELU"),
        ({"model_type": "mixtral"}, "mixtral.*mixture"),
        ({"model_type": "qwen3_moe"}, "qwen3_moe.*mixture"),
        ({"model_type": "smollm3"}, "smollm3.*without rotary"),
        ({"model_type": "mamba"}, "mamba"),
        ({"model_type": None}, "None"),
        ({"model_type": ["llama"]}, "llama"),
        ({"num_local_experts": 8}, "num_local_experts"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "rope_parameters"),
        ({"model_type": "qwen2", "rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling"),
        ({"model_type": "qwen3", "head_dim": None}, "size"),
        ({"model_type": "mistral", "sliding_window": 63}, "sliding_window"),
        ({"model_type": "mistral", "sliding_window": "wide"}, "wide"),
        ({"model_type": "qwen2", "use_sliding_window": True, "layer_types": ["chunked_attention"]}, "layer_types"),
        ({"model_type": "qwen3", "layer_types": "sliding_attention"}, "layer_types"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, "rope_parameters"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "rope_parameters"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"attention_dropout": 0.1}, "attention_dropout"),
        ({"sliding_window": 128}, "sliding_window"),
        ({"logits_scaling": 8.0}, "logits_scaling"),
        ({"hidden_size": "wide"}, "wide"),
        ({"rope_theta": "big", "rope_parameters": None}, "rope_theta"),
    ],
)
def test_what_is_not_implemented_is_named(changes, named):
    with pytest.raises(ModelError, match=named) as caught:
        ModelConfig.from_hf({**config().to_hf(), **changes}, where="here")
    assert caught.value.where == "here"
    if "model_type" in changes and "not supported" in caught.value.message:
        assert "qwen3, lilliput_depths, lilliput_pangu, lilliput_shared or lilliput_byte_pool" in caught.value.mend


def test_harmless_differences_are_accepted():
    raw = config().to_hf() | {
        "rope_scaling": {"rope_type": "default"},
        "bos_token_id": None,
        "eos_token_id": [3, 4],
    }
    raw |= {"rope_interleaved": False, "is_llama_config": True, "sliding_window": None}
    read = ModelConfig.from_hf(raw)
    assert (read.bos_id, read.eos_id) == (3, 3)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_absent_keys_mean_the_defaults_of_transformers(kind):
    transformers = pytest.importorskip("transformers")
    read = ModelConfig.from_hf({"model_type": kind, "sliding_window": None})
    theirs = transformers.CONFIG_MAPPING[kind]()
    assert read.width == theirs.hidden_size
    assert read.ffn == theirs.intermediate_size
    assert read.depth == theirs.num_hidden_layers
    assert read.heads == theirs.num_attention_heads
    assert read.kv_heads == theirs.num_key_value_heads
    assert read.vocab_size == theirs.vocab_size
    assert read.head_dim == getattr(theirs, "head_dim", theirs.hidden_size // theirs.num_attention_heads)
    assert read.norm_eps == theirs.rms_norm_eps
    assert read.context == theirs.max_position_embeddings
    assert read.tied == theirs.tie_word_embeddings
    assert read.rope_theta == theirs.rope_parameters["rope_theta"]
    assert read.eos_id == (theirs.eos_token_id or 0)
    assert read.bos_id == (theirs.bos_token_id or read.eos_id)


def test_an_absent_window_of_mistral_is_in_force_beyond_4096():
    with pytest.raises(ModelError, match=r"4096 of its context of 131072 \(sliding_window\)"):
        ModelConfig.from_hf({"model_type": "mistral"})
    assert ModelConfig.from_hf({"model_type": "mistral", "max_position_embeddings": 4096}).context == 4096


@given(
    kind=st.sampled_from(["mistral", "qwen2", "qwen3"]),
    keys=st.fixed_dictionaries(
        {"max_position_embeddings": st.sampled_from([64, 4096, 4097])},
        optional={
            "use_sliding_window": st.booleans(),
            "sliding_window": st.sampled_from([None, 1, 63, 64, 65, 4096]),
            "max_window_layers": st.integers(0, 4),
            "layer_types": st.lists(st.sampled_from(["full_attention", "sliding_attention"]), min_size=3, max_size=3),
        },
    ),
)
def test_a_window_is_refused_exactly_where_it_hides_something_from_a_layer_of_transformers(kind, keys):
    transformers = pytest.importorskip("transformers")
    if kind == "mistral":
        keys = {name: value for name, value in keys.items() if name != "layer_types"}
    raw = {**config().to_hf(), "model_type": kind, "num_hidden_layers": 3, **keys}
    theirs = transformers.CONFIG_MAPPING[kind](num_hidden_layers=3, **keys)
    slides = kind == "mistral" or "sliding_attention" in theirs.layer_types
    window = theirs.sliding_window
    # Layers that slide without a window are a configuration that transformers cannot compute.
    hides = slides and (kind != "mistral" if window is None else window < raw["max_position_embeddings"])
    if hides:
        with pytest.raises(ModelError, match=r"sliding_window|layer_types"):
            ModelConfig.from_hf(raw)
    else:
        assert ModelConfig.from_hf(raw).model_type == kind


def test_the_model_type_follows_the_family_and_the_output_the_other_biases():
    pangu = config(family="pangu")
    assert pangu.model_type == "lilliput_pangu"
    assert replace(pangu, family="llama", shortcut=0, series=1).model_type == "llama"
    assert config(attention_bias=True, output_bias=True) == config(attention_bias=True)
    assert config(model_type="qwen3", qk_norm=True, heads=3, kv_heads=1).heads == 3


def test_the_identity_of_a_plain_shape_is_what_it_was_before_there_were_others():
    later = {"model_type", "qk_norm", "output_bias", "share", "capacity", "routed_every"}
    for changes in ({}, {"family": "pangu"}):
        assert set(asdict(config(**changes))) - set(config(**changes).identity()) == later
    qwen = config(model_type="qwen2", attention_bias=True, output_bias=False).identity()
    assert (qwen["model_type"], qwen["output_bias"]) == ("qwen2", False)
