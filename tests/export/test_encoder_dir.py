"""Encoders against the oracle: transformers' own BERT."""

import pytest
import torch
from encoder_support import encoder, rows, shake, shape, tokenizer

from lilliput.errors import ModelError
from lilliput.export.encoder_dir import load_classifier, load_encoder, save_encoder
from lilliput.model.encoder import Classifier, initialise_encoder

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("own_modules")


def _as_hf(ids):
    real = ids >= 0
    return {"input_ids": torch.where(real, ids, tokenizer()[1].pad), "attention_mask": real.long()}


@pytest.mark.parametrize("conv", [0, 2])
def test_masked_logits_equal_those_of_transformers(tmp_path, conv):
    ours = encoder(conv=conv, channels=3)
    save_encoder(tmp_path / "m", ours, tokenizer()[0], {}, "card")
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "m", trust_remote_code=True).eval()
    assert type(theirs).__name__ == ("LilliputEncoderForMaskedLM" if conv else "BertForMaskedLM")
    ids = rows()
    with torch.no_grad():
        wanted, found = theirs(**_as_hf(ids)).logits, ours(ids)
    assert torch.allclose(found[ids >= 0], wanted[ids >= 0], atol=1e-4)
    assert sum(p.numel() for p in ours.parameters()) == ours.config.parameters()


@pytest.mark.parametrize("conv", [0, 1])
def test_classifiers_equal_those_of_transformers(tmp_path, conv):
    ours = Classifier(shape(conv=conv, channels=3), 3)
    initialise_encoder(ours, 0)
    shake(ours)
    ours.eval()
    save_encoder(tmp_path / "m", ours, tokenizer()[0], {}, "card", labels=["a", "b", "c d"])
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "m", trust_remote_code=True)
    ids = rows()
    with torch.no_grad():
        assert torch.allclose(ours(ids), theirs.eval()(**_as_hf(ids)).logits, atol=1e-4)
    again, _, labels = load_classifier(tmp_path / "m")
    assert labels == ["a", "b", "c d"]
    with torch.no_grad():
        assert torch.equal(again.eval()(ids), ours(ids))


def test_what_transformers_saves_is_read(tmp_path):
    raw = shape().to_hf()
    theirs = transformers.BertForMaskedLM(transformers.BertConfig(**raw)).eval()
    theirs.save_pretrained(tmp_path / "m")
    tokenizer()[0].save(tmp_path / "m")
    ours, _, _ = load_encoder(tmp_path / "m")
    ids = rows()
    with torch.no_grad():
        assert torch.allclose(ours.eval()(ids)[ids >= 0], theirs(**_as_hf(ids)).logits[ids >= 0], atol=1e-4)


def test_what_a_text_comes_to_does_not_depend_on_its_padding():
    model = encoder(conv=2, channels=3)
    ids = rows()
    short = ids[3:, :9]
    with torch.no_grad():
        assert torch.allclose(model(ids)[3, :9], model(short)[0], atol=1e-5)
    model.train()
    front = model.bert.embeddings.front
    x, real = torch.randn(2, 6, 8), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    wide = torch.cat((x, torch.full((2, 3, 8), 9.0)), dim=1)
    more = torch.cat((real, torch.zeros(2, 3, dtype=torch.bool)), dim=1)
    assert torch.allclose(front(x, real)[real], front(wide, more)[:, :6][real], atol=1e-5)


def test_batch_norm_equals_pytorchs_where_nothing_is_padded():
    from lilliput.model.conv import MaskedBatchNorm

    ours, theirs = MaskedBatchNorm(3), torch.nn.BatchNorm2d(3)
    x, real = torch.randn(4, 3, 5, 6), torch.ones(4, 1, 5, 1)
    for _ in range(3):
        assert torch.allclose(ours(x, real), theirs(x), atol=1e-5)
    assert torch.allclose(ours.running_var, theirs.running_var)
    ours.eval(), theirs.eval()
    assert torch.allclose(ours(x, real), theirs(x), atol=1e-5)


def test_weights_of_another_shape_are_refused(tmp_path):
    save_encoder(tmp_path / "m", encoder(), tokenizer()[0], {}, "card")
    text = (tmp_path / "m" / "config.json").read_text()
    (tmp_path / "m" / "config.json").write_text(text.replace('"intermediate_size": 64', '"intermediate_size": 65'))
    with pytest.raises(ModelError, match="wrong shape"):
        load_encoder(tmp_path / "m")
    with pytest.raises(ModelError, match="no classifier"):
        load_classifier(tmp_path / "m")
