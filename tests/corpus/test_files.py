"""Which files a source names."""

from pathlib import Path

import pytest

from lilliput.corpus.files import find_files
from lilliput.corpus.report import ReadReport
from lilliput.errors import CorpusError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.txt", "a.md", "deep/er/c.jsonl.gz", "deep/d.parquet", "image.png", ".hidden.txt", ".git/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    return tmp_path


def names(source: Path | str, tree: Path, report: ReadReport | None = None) -> list[str]:
    return [file.path.relative_to(tree).as_posix() for file in find_files(str(source), report or ReadReport())]


def test_a_folder_gives_its_readable_files_sorted_and_counts_the_rest(tree: Path) -> None:
    report = ReadReport()
    assert names(tree, tree, report) == ["a.md", "b.txt", "deep/d.parquet", "deep/er/c.jsonl.gz"]
    assert report.number("skipped_files") == 1
    kinds = [(file.kind, file.compression) for file in find_files(str(tree), report)]
    assert kinds == [("text", ""), ("text", ""), ("parquet", ""), ("jsonl", ".gz")]


def test_globs(tree: Path) -> None:
    assert names(tree / "*.txt", tree) == ["b.txt"]
    assert names(tree / "**" / "*.gz", tree) == ["deep/er/c.jsonl.gz"]
    assert names(tree / "*", tree) == ["a.md", "b.txt"]


def test_home_and_environment_are_expanded(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tree))
    monkeypatch.setenv("BOOKS", str(tree / "deep"))
    assert names("~/b.txt", tree) == ["b.txt"]
    assert names("$BOOKS/d.parquet", tree) == ["deep/d.parquet"]
    with pytest.raises(CorpusError, match="variable NOWHERE is not set"):
        find_files("${NOWHERE}/x", ReadReport())


def test_a_file_named_outright_is_text_whatever_its_ending(tree: Path) -> None:
    (tree / "README").write_text("x")
    assert [file.kind for file in find_files(str(tree / "README"), ReadReport())] == ["text"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("b.text", "did you mean .*b.txt"),
        ("depe/er/c.jsonl.gz", "did you mean .*deep"),
        ("qqqqq", "holds: a.md, b.txt, deep, image.png"),
        ("*.jsonl", "no file that can be read"),
        ("dep/*.jsonl", "did you mean .*deep"),
        ("deep/table.csv", "not read.*JSONL"),
        ("deep/book.tar.xz", "not read.*unpack"),
    ],
)
def test_what_is_not_there_is_refused_with_the_nearest(tree: Path, source: str, words: str) -> None:
    (tree / "deep" / "table.csv").write_text("x")
    (tree / "deep" / "book.tar.xz").write_text("x")
    with pytest.raises(CorpusError, match=words):
        find_files(str(tree / source), ReadReport())


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_text("x")
    with pytest.raises(CorpusError, match="the folder holds no file that can be read"):
        find_files(str(tmp_path), ReadReport())


def test_links_to_folders_are_followed_once(tree: Path) -> None:
    (tree / "link").symlink_to(tree / "deep")
    (tree / "deep" / "circle").symlink_to(tree)
    (tree / "lost.txt").symlink_to(tree / "nowhere.txt")
    report = ReadReport()
    assert names(tree, tree, report) == ["a.md", "b.txt", "deep/d.parquet", "deep/er/c.jsonl.gz"]
    assert report.number("skipped_files") == 2


def test_what_is_no_regular_file_is_refused() -> None:
    with pytest.raises(CorpusError, match="neither a file nor a folder"):
        find_files("/dev/null", ReadReport())
