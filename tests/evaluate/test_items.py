"""Rows of tasks: found by name in every layout, and refused with file and line where something is wrong."""

import gzip
import io
import json
import lzma
import tarfile

import pytest
from task_support import write_rows

from lilliput.errors import UserError
from lilliput.evaluate.choice import choice_item
from lilliput.evaluate.items import find_rows, names_in, read_rows
from lilliput.evaluate.last_word import Passage, passage
from lilliput.evaluate.pairs import pair

ROWS = [{"query": "a", "choices": ["b", "c"], "gold": 1}, {"query": "ü", "choices": ["d", "e"], "gold": 0}]
TEXT = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def _zst(data: bytes) -> bytes:
    return pytest.importorskip("zstandard").ZstdCompressor().compress(data)


@pytest.mark.parametrize(
    ("ending", "pack"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress), (".zst", _zst)]
)
def test_a_file_plain_or_packed(tmp_path, ending, pack):
    (tmp_path / f"mine.jsonl{ending}").write_bytes(pack(TEXT.encode()))
    rows = list(read_rows(find_rows(tmp_path, ["mine"])))
    assert [row.fields for row in rows] == ROWS
    assert [row.part for row in rows] == ["mine", "mine"]
    assert [row.where for row in rows] == [f"{tmp_path}/mine.jsonl{ending}:{line}" for line in (1, 2)]
    assert names_in(tmp_path) == ["mine"]


@pytest.mark.parametrize("ending", ["", ".gz", ".xz"])
def test_a_folder_or_an_archive_of_parts(tmp_path, ending):
    folder = tmp_path / "set"
    for name in ("two", "one"):
        write_rows(folder / f"{name}.jsonl", ROWS[:1])
    (folder / "README.md").write_text("no rows")
    with tarfile.open(tmp_path / f"packed.tar{ending}", f"w:{ending[1:]}") as archive:
        archive.add(folder, "inside")
    for name, place in (("set", "set"), ("packed", f"packed.tar{ending}:inside")):
        rows = list(read_rows(find_rows(tmp_path, ["gone", name])))
        assert [(row.part, row.where) for row in rows] == [
            (part, f"{tmp_path}/{place}/{part}.jsonl:1") for part in ("one", "two")
        ]
    assert names_in(tmp_path) == ["packed", "set"]
    assert find_rows(tmp_path, ["gone"]) is None


def test_empty_lines_count_and_are_no_rows(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n" + TEXT.replace("\n", "\n\n"))
    assert [row.where[-2:] for row in read_rows(tmp_path / "a.jsonl")] == [":2", ":4"]


@pytest.mark.parametrize(
    ("data", "message", "where"),
    [
        (b"", "not one row", "a.jsonl"),
        (b'{"a": 1}\n{"a": \n', "no JSON", "a.jsonl:2"),
        (b"[1]\n", "no JSON object", "a.jsonl:1"),
        (b"[" * 100_000, "no JSON", "a.jsonl:1"),
        (b'{"a": "\xff"}\n', "not UTF-8", "a.jsonl"),
    ],
)
def test_what_is_no_row_is_refused_with_its_line(tmp_path, data, message, where):
    (tmp_path / "a.jsonl").write_bytes(data)
    with pytest.raises(UserError, match=message) as raised:
        list(read_rows(tmp_path / "a.jsonl"))
    assert raised.value.where == f"{tmp_path}/{where}"
    assert raised.value.mend


def test_a_file_cut_off_and_a_damaged_archive(tmp_path):
    whole = lzma.compress(TEXT.encode() * 5000)
    (tmp_path / "a.jsonl.xz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"damaged|ends too early"):
        list(read_rows(tmp_path / "a.jsonl.xz"))
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:xz") as archive:
        entry = tarfile.TarInfo("one.jsonl")
        entry.size = len(TEXT.encode())
        archive.addfile(entry, io.BytesIO(TEXT.encode()))
    (tmp_path / "b.tar.xz").write_bytes(held.getvalue()[:100])
    with pytest.raises(UserError, match="archive is damaged"):
        list(read_rows(tmp_path / "b.tar.xz"))
    (tmp_path / "c.tar").write_bytes(b"no archive")
    with pytest.raises(UserError, match="archive is damaged"):
        list(read_rows(tmp_path / "c.tar"))


CHOICE = {"query": "a", "choices": ["b", "c"], "gold": 1}
PAIR = {"sentence_good": "a b", "sentence_bad": "b a"}
PASSAGE = {"context": "once upon a", "continuation": "time"}


@pytest.mark.parametrize(
    ("make", "row", "message"),
    [
        (choice_item, {**CHOICE, "query": 3}, "query is 3, not text"),
        (choice_item, {**CHOICE, "query": "\ud800"}, "query holds lone surrogates"),
        (choice_item, {**CHOICE, "choices": ["b"]}, "choices holds 1 of the two"),
        (choice_item, {**CHOICE, "choices": ["b", 2]}, "choices is a list, not a list of texts"),
        (choice_item, {**CHOICE, "choices": ["b", " "]}, "choices holds an empty text"),
        (choice_item, {**CHOICE, "choices": ["b", "\ud800"]}, "choices holds lone surrogates"),
        (choice_item, {**CHOICE, "gold": 2}, "gold is 2, with choices 0 to 1"),
        (choice_item, {**CHOICE, "gold": -1}, "gold is -1, with choices 0 to 1"),
        (choice_item, {**CHOICE, "gold": True}, "gold is True, not the number"),
        (choice_item, {**CHOICE, "gold": "C"}, "gold is 'C', with choices 0 to 1"),
        (choice_item, {**CHOICE, "gold": "d"}, "gold is 'd', not the number, letter or text"),
        (choice_item, {**CHOICE, "gold": []}, "gold is a list, not the number"),
        (choice_item, {**CHOICE, "gold": [0, 2]}, "gold is 2, with choices 0 to 1"),
        (choice_item, {**CHOICE, "choices": ["1", "0"], "gold": "1"}, "text of one choice and the place of another"),
        (choice_item, {"query": "a", "choices": ["b", "c"]}, "gold is absent"),
        (choice_item, {"ctx": "a", "endings": ["b", "c"], "label": ""}, "label is '', not the number"),
        (pair, {**PAIR, "sentence_bad": ""}, "sentence_bad is empty"),
                (passage, {**PASSAGE, "continuation": " "}, "continuation is empty"),
    ],
)
def test_a_row_that_makes_no_item_says_why(tmp_path, make, row, message):
    (found,) = read_rows(write_rows(tmp_path / "a.jsonl", [row]))
    with pytest.raises(UserError, match=message) as raised:
        make(found)
    assert raised.value.where == f"{tmp_path}/a.jsonl:1"


def test_the_layouts_of_rows(tmp_path):
    def made(make, row):
        (found,) = read_rows(write_rows(tmp_path / "part.jsonl", [row]))
        return make(found)

    assert made(choice_item, CHOICE) == made(choice_item, {"ctx": "a", "endings": ["b", "c"], "label": "1", "ind": 4})
    assert made(passage, PASSAGE) == Passage("once upon a", "time")
