"""Splits by the files' names, examples from another split than the items', and a quick look at some items."""

import json
import tarfile

import pytest
from task_support import write_rows

from lilliput.errors import UserError
from lilliput.evaluate.task import open_task


def _row(number, answer="A"):
    return {"question": f"q{number}", **{letter: letter.lower() for letter in "ABCD"}, "answer": answer}


@pytest.fixture
def ceval(tmp_path):
    """Two subjects as C-Eval has them, items and examples."""
    for subject, first in (("law", 0), ("logic", 10)):
        for split, count in (("dev", 3), ("val", 4)):
            rows = [_row(first + number, "BCD"[number % 3]) for number in range(count)]
            write_rows(tmp_path / "ceval" / split / f"{subject}_{split}.jsonl", rows)
    return tmp_path


def test_examples_stand_before_the_items_of_their_part(ceval):
    task = open_task("ceval", ceval, shots=2)
    assert (task.shots, len(task.items), task.parts.groups) == (2, 8, ["law"] * 4 + ["logic"] * 4)
    assert task.parts.over_groups
    assert task.parts.categories["law"] == ["humanities"]
    def asked(number):
        return f"q{number}\nA. a\nB. b\nC. c\nD. d\n答案："

    title = "以下是中国关于{}的单项选择题，请选出其中的正确答案。\n\n"
    assert task.before[0] == title.format("法学") + f"{asked(0)} B\n\n{asked(1)} C\n\n"
    assert task.before[4] == title.format("逻辑学") + f"{asked(10)} B\n\n{asked(11)} C\n\n"
    # The data is the same, whatever stands before it.
    assert task.hash == open_task("ceval", ceval).hash


def test_more_examples_than_there_are(ceval):
    with pytest.raises(UserError, match="4 examples are asked, and law has 3") as raised:
        open_task("ceval", ceval, shots=4)
    assert raised.value.mend == "ask for at most 3"


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("mine", [{"query": "a", "choices": ["b", "c"], "gold": 0}], "mine has no examples for shots here"),
        ("ceval", [_row(1)], "ceval has no examples for shots here"),
        ("blimp", [{"sentence_good": "a", "sentence_bad": "b"}], "blimp has no examples"),
        ("xsum", [{"document": "a", "summary": "b"}], "xsum has no examples"),
    ],
)
def test_items_are_never_their_own_examples(tmp_path, name, rows, message):
    write_rows(tmp_path / f"{name}.jsonl", rows)
    with pytest.raises(UserError, match=message):
        open_task(name, tmp_path, shots=1)


def test_a_folder_without_the_examples_split(tmp_path):
    write_rows(tmp_path / "ceval" / "law.jsonl", [_row(1)])
    assert len(open_task("ceval", tmp_path).items) == 1
    with pytest.raises(UserError, match="none of the files is of the split") as raised:
        open_task("ceval", tmp_path, shots=1)
    assert "dev" in raised.value.mend


def test_a_split_without_answers_is_not_taken_for_another(tmp_path):
    write_rows(tmp_path / "ceval" / "test" / "law_test.jsonl", [{**_row(1), "answer": ""}])
    with pytest.raises(UserError, match="none of the files is of the split that is wanted"):
        open_task("ceval", tmp_path)


def test_shards_of_the_hub_and_its_names(tmp_path):
    rows = [{"goal": f"g{number}", "sol1": "a", "sol2": "b", "label": 1} for number in range(4)]
    folder = tmp_path / "piqa" / "plain_text"
    for split, own in (("train", rows[:1]), ("validation", rows[1:])):
        write_rows(folder / f"{split}-00000-of-00001.jsonl", own)
    (tmp_path / "piqa" / "README.md").write_text("no rows")
    (tmp_path / "piqa" / "dataset_infos.json").write_text(json.dumps({"no": "rows"}))
    task = open_task("piqa", tmp_path, shots=1)
    assert [item.query for item in task.items] == [f"Question: g{number}\nAnswer:" for number in (1, 2, 3)]
    assert task.before[0] == "Question: g0\nAnswer: b\n\n"


def test_an_archive_with_many_files(ceval):
    with tarfile.open(ceval / "packed.tar.xz", "w:xz") as archive:
        archive.add(ceval / "ceval", ".")
    (ceval / "ceval").rename(ceval / "aside")
    (ceval / "packed.tar.xz").rename(ceval / "ceval.tar.xz")
    task = open_task("ceval", ceval, shots=1)
    (ceval / "aside").rename(ceval / "ceval")
    (ceval / "ceval.tar.xz").unlink()
    unpacked = open_task("ceval", ceval, shots=1)
    assert (task.hash, task.before, task.parts) == (unpacked.hash, unpacked.before, unpacked.parts)


def test_a_quick_look_takes_items_evenly(ceval):
    task = open_task("ceval", ceval, limit=4)
    assert [item.query.split("\n")[0] for item in task.items] == ["q0", "q2", "q10", "q12"]
    assert (task.parts.groups, task.total) == (["law", "law", "logic", "logic"], 8)
    assert len(open_task("ceval", ceval, limit=100).items) == 8
