"""Overlap with a task: the formulas by hand, and subsets of one size."""

import json
from pathlib import Path

import pytest

from lilliput.corpus.overlap import overlap, subsets, task_counts
from lilliput.errors import ConfigError
from lilliput.recipe import SourceSpec


def test_both_overlaps_by_hand():
    task = task_counts(["the cat the dog", "The end"])
    found = overlap(["a dog", "the sea"], task)
    assert found.types == 2 / 4  # dog and the, of the, cat, dog, end
    assert found.weighted == 4 / 6
    assert (found.documents, found.bytes) == (2, 12)
    with pytest.raises(ConfigError, match="no word"):
        overlap(["a"], task_counts([" "]))


def test_subsets_are_of_one_size_and_rise_in_overlap(tmp_path):
    documents = [" ".join(["cat"] * (at % 10) + [f"x{at}y{n}" for n in range(10 - at % 10)]) for at in range(200)]
    (tmp_path / "text.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in documents))
    specs, task = [SourceSpec(source=str(tmp_path / "text.jsonl"))], task_counts(["cat"])
    found = subsets(specs, task, tmp_path / "out", 4, 1500)
    assert [one["of_a_document"] for one in found] == sorted(one["of_a_document"] for one in found)
    assert found[0]["of_a_document"] < found[-1]["of_a_document"]
    assert all(1500 <= one["bytes"] < 1500 + max(map(len, documents)) for one in found)
    lines = [line for one in found for line in Path(one["file"]).read_text().splitlines()]
    written = [json.loads(line)["text"] for line in lines]
    assert len(written) == len(set(written)) == sum(one["documents"] for one in found)
    assert set(written) <= set(documents)
    again = subsets(specs, task, tmp_path / "again", 4, 1500)
    assert [one["bytes"] for one in again] == [one["bytes"] for one in found]
    with pytest.raises(ConfigError, match="fewer than"):
        subsets(specs, task, tmp_path / "out", 4, 10**9)
    with pytest.raises(ConfigError, match="no 999 parts"):
        subsets(specs, task, tmp_path / "out", 999, None)


def test_subsets_may_lie_among_the_texts_but_never_take_their_place(tmp_path):
    for at in range(8):
        (tmp_path / f"{at}.txt").write_text("cat " * at + "sea " * (8 - at))
    folder, task = [SourceSpec(source=str(tmp_path))], task_counts(["cat"])
    found = subsets(folder, task, tmp_path / "parts", 2, None)
    assert sum(one["documents"] for one in found) <= 8
    with pytest.raises(ConfigError, match="the text itself"):
        subsets(folder, task, tmp_path / "parts", 2, None)
    with pytest.raises(ConfigError, match="not empty"):
        subsets(folder, task, tmp_path, 2, None)
