"""Tasks through `lm-eval`, as far as they go without it: who is asked, and what is made of its answers."""

import pytest

from lilliput.errors import UserError
from lilliput.evaluate import hub, task
from lilliput.evaluate.known import known_tasks
from lilliput.evaluate.task import find_task


def _sample(choices, log_p, target, right, doc=None, before="q"):
    return {
        "arguments": [(before, f" {choice}") for choice in choices],
        "filtered_resps": [(value, False) for value in log_p],
        "target": target,
        "acc": float(right),
        "doc": doc or {},
    }


def test_without_the_extra_both_ways_are_named(monkeypatch):
    monkeypatch.setattr(task, "installed", lambda: False)
    with pytest.raises(UserError, match="the data of piqa is not here") as raised:
        find_task("piqa", None)
    assert "DIR/piqa.jsonl (.parquet, .csv, .json) and add --data DIR" in raised.value.mend
    assert "pip install 'lilliput[eval]'" in raised.value.mend
    # What lm-eval does not have is not promised.
    with pytest.raises(UserError, match="the data of eprstmt is not here") as raised:
        find_task("eprstmt", None)
    assert "lilliput[eval]" not in raised.value.mend


@pytest.mark.parametrize(("target", "right"), [(0, False), ("1", True), ("[1, 2]", True), ([0], False), ("bb", None)])
def test_choices_are_normalised_by_bytes(target, right):
    # By the whole the first is best, by bytes the second.
    sample = _sample(["a", "longer choice"], [-1.0, -2.0], target, False)
    score = hub._scored([("arc_easy", sample)], known_tasks()["arc_easy"], ["arc_easy"])
    assert score.right.tolist() == [False]
    assert (None if right is None else [right]) == (None if score.right_norm is None else score.right_norm.tolist())


def test_equally_long_choices_need_no_normalising():
    samples = [("boolq", _sample(["x1", "x2"], [-1.0, -2.0], "anything", right)) for right in (True, False)]
    assert hub._scored(samples, known_tasks()["boolq"], ["boolq"]).right_norm.tolist() == [True, False]


@pytest.mark.parametrize(
    ("name", "tasks", "doc", "part", "category"),
    [
        ("mmlu", ["mmlu_anatomy", "mmlu_virology"], {"subject": "anatomy"}, "anatomy", "STEM"),
        ("cmmlu", ["cmmlu_arts", "cmmlu_agronomy"], {}, "arts", "humanities"),
        ("ceval", ["ceval-valid_law", "ceval-valid_logic"], {}, "law", "humanities"),
        ("agieval", ["agieval_sat_en", "agieval_jec_qa_ca"], {}, "sat-en", "English"),
        ("blimp", ["blimp_a_b", "blimp_c"], {"UID": "a_b", "linguistics_term": "binding"}, "a_b", "binding"),
    ],
)
def test_parts_are_those_of_local_files(name, tasks, doc, part, category):
    said = known_tasks()[name]
    score = hub._scored([(tasks[0], _sample(["A", "B"], [-1.0, -2.0], 0, True, doc))], said, tasks)
    assert score.parts.groups == [part]
    assert score.parts.categories[part] == [category]


def test_last_words_have_a_perplexity():
    sample = _sample(["word"], [-2.0], " word", True)
    figures = hub._scored([("lambada_openai", sample)], known_tasks()["lambada"], ["lambada_openai"]).figures
    assert figures["perplexity"] == pytest.approx(7.389056)


def test_a_quick_look_takes_items_of_all_tasks_evenly():
    assert hub._evenly({"a": 4, "b": 2, "c": 2}, 4, 8) == {"a": [0, 2], "b": [0], "c": [0]}
