"""Encoders as ONNX: the graph computes what transformers computes from the same directory, whatever the batch."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_support import encoder, rows, shake, shape, tokenizer

from lilliput.cli.main import run
from lilliput.errors import ConfigError, LilliputError, MissingExtra, ModelError
from lilliput.export import onnx
from lilliput.export.committee_dir import save_committee
from lilliput.export.encoder_dir import save_encoder
from lilliput.model.encoder import Classifier, initialise_encoder

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
LABELS = ["a", "b", "c"]


def classifier(seed: int, **changes: object) -> Classifier:
    made = Classifier(shape(**changes), len(LABELS))
    initialise_encoder(made, seed)
    shake(made)
    return made.eval()


def saved(folder: Path, kind: str) -> Path:
    pieces = tokenizer()[0]
    if kind == "committee":
        members = [classifier(0), classifier(1, depth=1)]
        return save_committee(folder, members, pieces, LABELS, "softmax", {}, "card")
    if kind == "masked":
        return save_encoder(folder, encoder(), pieces, {}, "card")
    changes = {"conv": 1, "channels": 3} if kind == "conv" else {}
    return save_encoder(folder, classifier(0, **changes), pieces, {}, "card", labels=LABELS)


@pytest.mark.usefixtures("own_modules")
@pytest.mark.parametrize("kind", ["masked", "classifier", "conv", "committee"])
def test_the_graph_gives_what_transformers_gives(tmp_path: Path, kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    done = onnx.export_onnx(saved(tmp_path / "m", kind), tmp_path / "m" / "onnx")
    assert done["parity"]["largest_difference"] < 1e-4
    assert {file.name for file in (tmp_path / "m" / "onnx").iterdir()} == {
        "model.onnx", "export.json", "config.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    head = transformers.AutoModelForMaskedLM if kind == "masked" else transformers.AutoModelForSequenceClassification
    theirs = head.from_pretrained(tmp_path / "m", trust_remote_code=True).eval()
    session = onnxruntime.InferenceSession(done["file"], providers=["CPUExecutionProvider"])
    for ids in (rows(), rows(length=7, count=1)):
        mask = (ids >= 0).long()
        shown = ids.clamp(min=0)
        found = session.run(None, {"input_ids": shown.numpy(), "attention_mask": mask.numpy()})[0]
        with torch.no_grad():
            wanted = theirs(input_ids=shown, attention_mask=mask).logits.numpy()
        kept = mask.bool().numpy() if kind == "masked" else slice(None)
        assert np.abs(found - wanted)[kept].max() < 1e-4
    # What is written again replaces it, and nothing else is ever written over.
    onnx.export_onnx(tmp_path / "m", tmp_path / "m" / "onnx")
    with pytest.raises(ConfigError, match="that is what it is made from"):
        onnx.export_onnx(tmp_path / "m", tmp_path / "m")


def test_a_graph_that_differs_is_not_left_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path / "m", "classifier")
    monkeypatch.setattr(onnx, "parity", lambda model, run: float("nan"))
    with pytest.raises(LilliputError, match="from PyTorch's"):
        onnx.export_onnx(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_models_and_formats_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="llama model is no encoder"):
        onnx.export_onnx(tmp_path, tmp_path / "out")
    assert run(["export", str(tmp_path), "--to", "gguff", "--json", "--quiet"]) == 2
    assert "no format called 'gguff'" in json.loads(capfd.readouterr().out)["error"]["message"]


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r"onnxruntime.*lilliput\[onnx\]"):
        onnx.export_onnx(saved(tmp_path / "m", "classifier"), tmp_path / "out")
    assert not onnx.has_runtime()
    assert not (tmp_path / "out").exists()


def test_encoders_are_timed_in_both_engines(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "one", "masked")
    saved(tmp_path / "many", "committee")
    (tmp_path / "shape.yaml").write_text(
        "objective: masked\ncorpus: builtin:python\ntokenizer: {vocab_size: 300}\n"
        "model: {depth: 1, width: 16, heads: 2, context: 20}\n"
    )
    words = [str(tmp_path / name) for name in ("one", "many", "shape.yaml")]
    assert run(["speed", *words, "--batch", "1", "--batch", "3", "--threads", "1", "--json", "--quiet"]) == 0
    found = json.loads(capfd.readouterr().out)["rows"]
    assert [(row["batch"], row["members"], row["positions"]) for row in found] == [
        (1, 1, 24), (3, 1, 24), (1, 2, 24), (3, 2, 24), (1, 1, 20), (3, 1, 20),
    ]  # fmt: skip
    for row in found:
        assert row["pytorch"]["ms"] > 0 < row["onnx"]["ms"]
        assert row["parity"] < 1e-4
    assert [row["weights"] for row in found[::2]] == ["given", "given", "random"]
    assert run(["speed", words[0], "--length", "5", "--quiet"]) == 0
    assert "ONNX Runtime" in capfd.readouterr().out
    assert run(["speed", words[0], "tiny", "--quiet"]) == 2
    assert "in one call" in capfd.readouterr().err
