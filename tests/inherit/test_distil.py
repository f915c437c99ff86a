"""A student learns what a teacher says, through an id map too, resumes exactly, and is refused what cannot be."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from distil_support import CONTEXT, CPU, VOCAB, Stream, decoder, settings, windows
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from lilliput.errors import CheckpointError, ConfigError
from lilliput.inherit.distil import Distil, live_bytes, step_cost
from lilliput.model import Decoder, gemm
from lilliput.model.carve import carve_model, whole
from lilliput.train.checkpoint import found
from lilliput.train.loop import train
from lilliput.train.metrics import read_metrics
from lilliput.train.objectives import Causal, split

KEPT = (0, 1, 3, 7, 8, 11, 20, 21, 30, 41)


def divergence(student: Decoder, objective: Distil, given: torch.Tensor) -> float:
    objective.begin(student, 0)
    with torch.no_grad():
        objective.loss(student, given)
    return objective.figures(student)["divergence"]


def cut(teacher: Decoder) -> Decoder:
    """The teacher with KEPT of its vocabulary: its compaction."""
    return carve_model(teacher, replace(whole(teacher.config), vocab=KEPT))


def with_rows(model: Decoder, rows: int) -> Decoder:
    """The model with `rows` more in its table and head, all zero."""
    padded = decoder(vocab_size=model.config.vocab_size + rows)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            own = padded.get_parameter(name)
            own.zero_()[tuple(slice(0, size) for size in tensor.shape)] = tensor
    return padded


def test_without_a_share_it_is_the_plain_objective() -> None:
    model, given = decoder(), windows()
    assert torch.equal(Distil(decoder(1), share=0.0).loss(model, given), Causal().loss(model, given))


def test_the_loss_is_the_mixture_over_all_targets() -> None:
    """Against whole logits: cross-entropy of the text, divergence of the two distributions, padding left out."""
    student, teacher, given = decoder(0), decoder(1, width=24, heads=3), windows()
    ids_BT, targets_BT = split(given)
    log_q, log_p = (torch.log_softmax(model(ids_BT) / 2, -1)[:-1] for model in (student, teacher))
    far = (log_p.exp() * (log_p - log_q)).sum()
    wanted = 0.25 * student(ids_BT, targets_BT) + 0.75 * 4 * far
    objective = Distil(teacher, share=0.75, temperature=2.0)
    loss = objective.loss(student, given)
    torch.testing.assert_close(loss, wanted)
    for ours, theirs in zip(
        torch.autograd.grad(loss, list(student.parameters())),
        torch.autograd.grad(wanted, list(student.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    figures = objective.figures(student)
    assert figures["divergence"] == pytest.approx(float(far.detach()) / (4 * CONTEXT), rel=1e-5)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_teacher_answers_in_the_students_precision() -> None:
    student, objective, given = decoder(0), Distil(decoder(1), share=0.5, temperature=2.0), windows()
    wanted = objective.loss(student, given).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective.loss(student, given)
        assert objective.teacher(split(given)[0]).states.dtype == torch.bfloat16  # type: ignore[attr-defined]
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.detach(), wanted, rtol=0.02, atol=0)
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters() if parameter.grad is not None)


def test_a_model_is_at_no_distance_from_itself() -> None:
    model, given = decoder(), windows()
    objective = Distil(decoder(), share=1.0)
    loss = objective.loss(model, given)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-4)
    assert max(float(part.abs().max()) for part in torch.autograd.grad(loss, list(model.parameters()))) < 1e-3


@pytest.mark.parametrize("rows", [0, 5])
def test_a_compaction_is_at_no_distance_from_what_it_was_cut_from(rows: int) -> None:
    """Among the kept pieces it says the same, and the bucket asks nothing of it; padded teachers too."""
    teacher, ids = decoder(), torch.tensor(KEPT)
    student, given = cut(teacher), windows(vocab=len(KEPT))
    objective = Distil(with_rows(teacher, rows), share=1.0, ids=ids)
    assert divergence(student, objective, given) == pytest.approx(0, abs=1e-5)
    # And another student is: the answers are those at the teacher's own numbers.
    other = decoder(3, vocab_size=len(KEPT))
    ids_BT = given[:-1, :-1]
    p_BTV = torch.softmax(teacher(ids[ids_BT]), -1)
    mass_BT1 = p_BTV[..., ids].sum(-1, keepdim=True)
    among, log_q = p_BTV[..., ids] / mass_BT1, torch.log_softmax(other(ids_BT), -1)
    wanted = (p_BTV[..., ids] * (among.log() - log_q)).sum() / ids_BT.numel()
    if rows == 0:
        assert divergence(other, objective, given) == pytest.approx(float(wanted.detach()), rel=1e-4)


@pytest.mark.parametrize(("teacher_rows", "student_rows"), [(9, 0), (0, 9), (4, 9)])
def test_rows_of_padding_on_either_side_are_no_pieces(teacher_rows: int, student_rows: int) -> None:
    """Rows that both have are one piece; what only the student has is to get nothing, and learns so."""
    student, given = with_rows(decoder(0), student_rows), windows()
    loss = Distil(with_rows(decoder(1), teacher_rows), share=1.0).loss(student, given)
    assert math.isfinite(float(loss.detach()))
    (grad_VD,) = torch.autograd.grad(loss, [student.model.embed_tokens.weight])
    assert grad_VD.isfinite().all()
    only = grad_VD[VOCAB + teacher_rows :]
    assert len(only) == max(0, student_rows - teacher_rows)
    assert len(only) == 0 or float(only.abs().max()) > 0


def test_training_towards_a_teacher_lowers_the_divergence(tmp_path: Path) -> None:
    teacher, student, given = decoder(1, width=24, heads=3), decoder(0, noise=0.0), windows()
    objective = Distil(teacher, share=1.0)
    before = divergence(student, objective, given)
    train(student, Stream(), settings(steps=40, lr=2e-2, save_every=40), tmp_path, device=CPU, objective=objective)
    assert divergence(student, objective, given) < 0.7 * before
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "loss" in row]
    assert all(row["loss"] == pytest.approx(row["divergence"], rel=1e-5) for row in rows)
    assert rows[-1]["divergence"] < 0.7 * rows[0]["divergence"]


def test_a_run_resumes_exactly_and_only_with_the_same_teacher(tmp_path: Path) -> None:
    def run(folder: str, **changes: Any) -> Decoder:
        student = decoder(0)
        objective = Distil(**{"teacher": decoder(1), "share": 0.5, "temperature": 2.0, **changes})
        train(student, Stream(), settings(), tmp_path / folder, device=CPU, objective=objective)
        return student

    student = run("a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(found(tmp_path / "b" / "checkpoints")[-1])
    resumed = run("b").state_dict()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in student.state_dict().items())
    names = ("loss", "cross_entropy", "divergence")
    rows = [read_metrics(tmp_path / run / "metrics.jsonl") for run in "ab"]
    left, right = ([[row[name] for name in names] for row in one] for one in rows)
    assert left == right
    for changes in ({"share": 0.25}, {"temperature": 1.0}, {"teacher": decoder(2)}):
        with pytest.raises(CheckpointError, match=next(iter(changes))):
            run("a", **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"share": -0.1}, "share"),
        ({"share": 1.1}, "share"),
        ({"share": math.nan}, "share"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"ids": torch.tensor([0, VOCAB])}, "id map"),
        ({"ids": torch.tensor([-1, 0])}, "id map"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        Distil(decoder(), **{"share": 0.5, **changes})
    assert caught.value.mend


def test_what_cannot_be_learned_from_is_refused() -> None:
    given = windows()
    with pytest.raises(ConfigError, match=f"longer than the teacher's context of {CONTEXT - 1}"):
        Distil(decoder(context=CONTEXT - 1), share=0.5).loss(decoder(), given)
    with pytest.raises(ConfigError, match="the student has 40 rows"):
        Distil(decoder(), share=0.5, ids=torch.arange(48)).check(decoder(vocab_size=40).config, CONTEXT)
    with pytest.raises(ConfigError, match="knows 40"):
        Distil(decoder(vocab_size=40), share=0.5).loss(decoder(), torch.full((2, CONTEXT + 1), 45))
    with pytest.raises(ConfigError, match="one process"):
        Distil(decoder(), share=0.5).loss(nn.Linear(2, 2), given)


def test_the_cost_of_a_step_is_what_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm, "ONEDNN", False)  # products that the counter knows
    student, teacher, given = decoder(), decoder(1, width=32, heads=4, depth=4, ffn=64), windows(8)

    ids_BT, targets_BT = split(given)

    def plain() -> torch.Tensor:
        return F.cross_entropy(student(ids_BT).flatten(0, 1), targets_BT.flatten(), reduction="sum")

    def counted(loss: Callable[[], torch.Tensor]) -> int:
        with FlopCounterMode(display=False) as counter:
            loss().backward()
        return counter.get_total_flops()

    ratio = counted(lambda: Distil(teacher, share=0.5).loss(student, given)) / counted(plain)
    assert ratio == pytest.approx(step_cost(student.config, teacher.config, CONTEXT), rel=0.05)


def test_the_memory_of_a_live_teacher_grows_with_all_it_is_made_of() -> None:
    student, teacher = decoder(0).config, decoder(1).config
    least = live_bytes(student, teacher, 64)
    assert least > 4 * teacher.parameters()
    assert live_bytes(student, teacher, 128) > least
    for larger in (replace(teacher, depth=9), replace(teacher, ffn=99), replace(teacher, vocab_size=999)):
        assert live_bytes(student, larger, 64) > least
    assert live_bytes(replace(student, vocab_size=999), teacher, 64) > least
