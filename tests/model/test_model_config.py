import pytest
from model_support import SHAPES, config

from lilliput.errors import ModelError
from lilliput.model import Decoder, ModelConfig


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_counts_are_exact(changes):
    model = Decoder(config(**changes))
    stored = sum(parameter.numel() for parameter in model.parameters())
    assert model.config.parameters() == stored
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed_tokens" not in name]
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
    ],
)
def test_impossible_shapes_are_refused(changes, names):
    with pytest.raises(ModelError) as caught:
        config(**changes)
    assert names in str(caught.value.where)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
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
    with pytest.raises(ModelError, match=named):
        ModelConfig.from_hf({**config().to_hf(), **changes})


def test_harmless_differences_are_accepted():
    raw = config().to_hf() | {
        "rope_scaling": {"rope_type": "default"},
        "bos_token_id": None,
        "eos_token_id": [3, 4],
    }
    raw |= {"rope_interleaved": False, "is_llama_config": True, "sliding_window": None}
    read = ModelConfig.from_hf(raw)
    assert (read.bos_id, read.eos_id) == (3, 3)


def test_absent_keys_mean_the_defaults_of_transformers():
    transformers = pytest.importorskip("transformers")
    read = ModelConfig.from_hf({"model_type": "llama"})
    theirs = transformers.LlamaConfig()
    assert read.width == theirs.hidden_size
    assert read.ffn == theirs.intermediate_size
    assert read.depth == theirs.num_hidden_layers
    assert read.vocab_size == theirs.vocab_size
    assert read.head_dim == theirs.head_dim
    assert read.norm_eps == theirs.rms_norm_eps
    assert read.context == theirs.max_position_embeddings
    assert read.tied == theirs.tie_word_embeddings
    assert read.rope_theta == theirs.rope_parameters["rope_theta"]
