"""What is written after prompts: each as if it stood alone, up to the end of its line; and summaries scored by it."""

import pytest
import torch
from task_support import small_model, small_tokenizer, write_rows

from lilliput.errors import ModelError
from lilliput.evaluate.rouge import rouge
from lilliput.evaluate.task import open_task, run_task, score_task
from lilliput.evaluate.writing import written
from lilliput.model.generate import generate

PROMPTS = [("The cat", " sat"), ("Nobody has ever", " been"), ("the child", " saw"), ("The cat that sat " * 9, " on")]


@pytest.fixture(scope="module")
def tokenizer():
    return small_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    return small_model(tokenizer)


def _alone(model, tokenizer, ids, max_new):
    """Greedy writing by itself, cut where the line or the text ends."""
    new = [int(new_B[0]) for new_B in generate(model, torch.tensor([ids]), max_new, temperature=0.0)]
    held = new[: new.index(tokenizer.eos_id)] if tokenizer.eos_id in new else new
    return tokenizer.decode(held).split("\n")[0].strip()


def test_each_prompt_as_if_alone(model, tokenizer):
    found = written(model, tokenizer, PROMPTS, 12, title=None)
    for (text, end), line in zip(PROMPTS[:3], found.texts, strict=False):
        ids = [tokenizer.bos_id, *tokenizer.encode(text + end)]
        assert line == _alone(model, tokenizer, ids, 12)
    # The long one loses the end of its first text and keeps the second: 48 positions less 12 to write.
    head, tail = (tokenizer.encode(text) for text in PROMPTS[3])
    ids = [tokenizer.bos_id, *head[: 36 - 1 - len(tail)], *tail]
    assert found.texts[3] == _alone(model, tokenizer, ids, 12)
    assert found.cut == 1
    assert 0 < found.tokens <= 4 * 12
    assert all("\n" not in line for line in found.texts)


def test_half_the_context_is_left_to_write_in(model, tokenizer):
    assert len(written(model, tokenizer, PROMPTS[:1], 1000, title=None).texts) == 1
    with pytest.raises(ModelError, match="the prompt's end is"):
        written(model, tokenizer, [("a", " long end" * 40)], 8, title=None)


def test_summaries_by_rouge(model, tokenizer, tmp_path):
    rows = [{"document": "The cat sat.", "summary": "a cat"}, {"document": "Nobody came.", "summary": "the child, it"}]
    write_rows(tmp_path / "xsum.jsonl", rows)
    task = open_task("xsum", tmp_path)
    score = score_task(model, tokenizer, task)
    lines = written(model, tokenizer, [(row["document"], "\n\nTL;DR:") for row in rows], 64, title=None).texts
    expected = [rouge(line, row["summary"]) for line, row in zip(lines, rows, strict=True)]
    assert score.results.tolist() == [one[2] for one in expected]
    assert score.right is None
    found = run_task(model, tokenizer, task)
    assert found["rouge1"] == pytest.approx(sum(one[0] for one in expected) / 2)
    assert found["rouge2_stderr"] is not None
    assert (found["acc"], found["items"], found["kind"]) == (None, 2, "summary")
