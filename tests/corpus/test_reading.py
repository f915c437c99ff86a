"""Reading every kind of source, and what happens where the data are odd."""

import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from lilliput.corpus import streams
from lilliput.corpus.report import ReadReport
from lilliput.corpus.sources import read_source, source_identity
from lilliput.errors import CorpusError, MissingExtra
from lilliput.recipe import SourceSpec

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
PARAGRAPHS = [f"Paragraph {number}: " + "the quick brown fox. " * 20 for number in range(600)]
TEXT = "\n\n".join(PARAGRAPHS)


def read(source: Path | str, field: str = "text", *, whole: bool = False) -> tuple[list[str], ReadReport]:
    report = ReadReport()
    return list(read_source(SourceSpec(source=str(source), field=field), report, whole=whole)), report


def refusal(source: Path | str, field: str = "text") -> CorpusError:
    with pytest.raises(CorpusError) as caught:
        read(source, field)
    assert caught.value.where
    assert caught.value.mend
    return caught.value


@pytest.mark.parametrize("packed", PACKERS)
def test_text_plain_and_packed(tmp_path: Path, packed: str) -> None:
    file = tmp_path / f"book.txt{packed}"
    file.write_bytes(PACKERS[packed](TEXT.encode()))
    documents, report = read(file)
    assert "\n\n".join(documents) == TEXT
    assert len(documents) > 50
    assert (report.documents, report.bytes, report.odd) == (len(documents), sum(map(len, documents)), {})
    assert report.position == file.stat().st_size
    assert read(file, whole=True)[0] == [TEXT]


@pytest.mark.parametrize("packed", PACKERS)
def test_jsonl_plain_and_packed(tmp_path: Path, packed: str) -> None:
    file = tmp_path / f"rows.jsonl{packed}"
    rows = [{"text": text, "source": "x"} for text in [*PARAGRAPHS, "naïve\r\n中文\u2028👩"]]
    file.write_bytes(PACKERS[packed]("\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()))
    documents, report = read(file)
    assert documents == [row["text"] for row in rows]
    assert report.odd == {}


@pytest.mark.parametrize("packed", PACKERS)
def test_parquet_plain_and_packed(tmp_path: Path, packed: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    plain = tmp_path / "plain.parquet"
    table = pyarrow.table({"id": list(range(601)), "body": [*PARAGRAPHS, None]})
    parquet.write_table(table, plain, row_group_size=100)
    file = tmp_path / f"rows.parquet{packed}"
    file.write_bytes(PACKERS[packed](plain.read_bytes()))
    documents, report = read(file, "body")
    assert documents == PARAGRAPHS
    assert report.number("no_field") == 1
    error = refusal(file, "text")
    assert "id, body" in error.message
    assert "field: body" in str(error.mend)


def test_several_frames_and_members_are_read_to_the_end(tmp_path: Path) -> None:
    for packed in (".gz", ".xz", ".zst"):
        file = tmp_path / f"two.txt{packed}"
        file.write_bytes(PACKERS[packed](b"one " * 100) + PACKERS[packed](b"two " * 100))
        assert read(file, whole=True)[0] == ["one " * 100 + "two " * 100]


@pytest.mark.parametrize("packed", [".gz", ".xz", ".zst"])
def test_a_truncated_archive_gives_its_readable_part_and_a_warning(
    tmp_path: Path, packed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = PACKERS[packed](json.dumps(list(range(200_000))).encode())
    file = tmp_path / f"cut.txt{packed}"
    file.write_bytes(data[: len(data) * 2 // 3])
    documents, report = read(file, whole=True)
    assert len(documents[0]) > 10_000
    assert report.number("truncated") == 1
    report.warn()
    assert f"cut.txt{packed}, after" in capsys.readouterr().err
    file.write_bytes(data[:10])
    assert "breaks off" in refusal(file).message


@pytest.mark.parametrize("packed", [".gz", ".xz", ".zst"])
def test_a_damaged_archive_is_an_error_that_names_the_file(tmp_path: Path, packed: str) -> None:
    data = bytearray(PACKERS[packed](TEXT.encode()))
    # The middle; for gzip its check sum, because damage inside often looks like an early end.
    at = len(data) - 8 if packed == ".gz" else len(data) // 2
    data[at : at + 4] = bytes(255 - byte for byte in data[at : at + 4])
    file = tmp_path / f"bad.txt{packed}"
    file.write_bytes(data)
    error = refusal(file)
    assert "damaged" in error.message
    assert str(file) in str(error.where)
    file.write_bytes(b"plain text, not an archive at all, whatever its name says" * 10)
    assert "damaged" in refusal(file).message


def test_invalid_utf8_is_replaced_counted_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "latin.txt"
    file.write_bytes(("garçon " * 3).encode("latin-1") + b"valid \xe4\xb8\xad end \xe4\xb8")
    documents, report = read(file)
    assert documents == ["gar\ufffdon " * 3 + "valid 中 end \ufffd\ufffd"]
    assert report.number("invalid_utf8") == 5
    report.warn()
    assert "not UTF-8, each replaced by U+FFFD: 5 (first: " in capsys.readouterr().err


def test_a_character_across_chunks_is_no_flaw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "CHUNK", 5)
    file = tmp_path / "text.txt"
    file.write_text("中文👩é" * 200, encoding="utf-8")
    documents, report = read(file, whole=True)
    assert documents == ["中文👩é" * 200]
    assert report.odd == {}


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello world")
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a row"}\n')
    assert read(tmp_path)[0] == ["hello world", "a row"]


def test_nuls_are_kept_and_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\x00two and some more text")
    (tmp_path / "b.jsonl").write_text('{"text": "th\\u0000ree"}\n')
    documents, report = read(tmp_path)
    assert documents == ["one\x00two and some more text", "th\x00ree"]
    assert report.number("nul") == 2


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["Some plain English text. " * 50, "中文文本，没有空格。\n" * 50])
def test_utf16_is_refused_with_the_way_to_mend_it(tmp_path: Path, encoding: str, text: str) -> None:
    (tmp_path / "wide.txt").write_bytes(text.encode(encoding))
    error = refusal(tmp_path / "wide.txt")
    assert "UTF-16" in error.message or "not UTF-8" in error.message
    assert "iconv" in str(error.mend)


def test_other_encodings_archives_and_binaries_are_refused(tmp_path: Path) -> None:
    (tmp_path / "gbk.txt").write_bytes("天亮时忽然上来一个老婆婆，我让点座位给她。".encode("gbk") * 20)
    assert "not UTF-8" in refusal(tmp_path / "gbk.txt").message
    (tmp_path / "packed.txt").write_bytes(gzip.compress(TEXT.encode()))
    assert ".gz" in refusal(tmp_path / "packed.txt").message
    (tmp_path / "program.txt").write_bytes(bytes(range(256)) * 20 + b"\x00" * 5000)
    assert "binary" in refusal(tmp_path / "program.txt").message


def test_rows_that_cannot_be_used_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ['{"text": "good"}', "{broken", "[1]", '"text"', "", '{"body": "other"}', '{"text": 3}', '{"text": " "}']
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + '\n{"text": "end", "n": ' + "[" * 100_000 + "\n")
    documents, report = read(tmp_path / "rows.jsonl")
    assert documents == ["good"]
    assert {kind: seen.n for kind, seen in report.odd.items()} == {"bad_rows": 4, "no_field": 2, "empty_rows": 1}
    report.warn()
    told = capsys.readouterr().err
    assert "no JSON object, skipped: 4" in told
    assert "rows.jsonl, row 2" in told


def test_a_field_that_no_row_has_is_refused_with_the_fields_there_are(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"id": 1, "content": "x"}\n{"id": 2, "content": "y", "title": "z"}\n')
    error = refusal(file)
    assert "id, content, title" in error.message
    assert error.mend == f"corpus: {{source: {file}, field: content}}"
    assert read(file, "content")[0] == ["x", "y"]


def test_lone_surrogates_in_json_are_replaced_and_counted(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a\\ud800b \\ud83d\\ude00"}\n')
    documents, report = read(tmp_path / "rows.jsonl")
    assert documents == ["a\ufffdb 😀"]
    assert report.number("lone_surrogates") == 1


def test_a_json_list_is_refused_and_a_json_file_of_rows_is_read(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text('[\n{"text": "a"}\n]')
    assert "JSON Lines" in refusal(tmp_path / "list.json").message
    (tmp_path / "rows.json").write_text('{"text": "a"}\n{"text": "b"}\n')
    assert read(tmp_path / "rows.json")[0] == ["a", "b"]
    (tmp_path / "other.jsonl").write_text("not json\nat all\n")
    assert "no line is a JSON object" in refusal(tmp_path / "other.jsonl").message


def test_a_line_too_long_for_a_row_is_skipped_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LONGEST_LINE", 1_000_000)
    long = json.dumps({"text": "x" * 3_000_000})
    (tmp_path / "rows.jsonl").write_text(f'{{"text": "before"}}\n{long}\n{{"text": "after"}}\n{long}')
    documents, report = read(tmp_path / "rows.jsonl")
    assert documents == ["before", "after"]
    assert (report.number("long_lines"), report.odd["long_lines"].bytes) == (2, 2 * len(long))


def test_documents_over_a_megabyte_are_divided_and_counted(tmp_path: Path) -> None:
    long = "A sentence of a very long book. " * 100_000
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": long}) + '\n{"text": "short"}\n')
    documents, report = read(tmp_path / "rows.jsonl")
    assert "".join(documents) == long + "short"
    assert max(map(len, documents)) <= 1_000_000
    assert (report.number("divided"), report.odd["divided"].bytes) == (1, len(long))
    assert read(tmp_path / "rows.jsonl", whole=True)[0] == [long, "short"]


def test_empty_files_are_counted_and_an_empty_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.txt").write_text("  \n\n  \n")
    error = refusal(tmp_path)
    assert "no text" in error.message
    assert "empty files, which gave no text: 1" in error.message
    (tmp_path / "c.txt").write_text("text")
    documents, report = read(tmp_path)
    assert documents == ["text"]
    assert report.number("empty_files") == 1


def test_identity_follows_content_and_not_place(tmp_path: Path) -> None:
    def key(file: Path) -> dict[str, object]:
        return source_identity(SourceSpec(source=str(file)))

    for folder, text in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "text.txt").write_text(text)
    assert key(tmp_path / "a") == key(tmp_path / "b" / "text.txt") != key(tmp_path / "c")


def test_missing_packages_name_their_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package, file in (("zstandard", "a.txt.zst"), ("pyarrow", "a.parquet")):
        monkeypatch.setitem(__import__("sys").modules, package, None)
        (tmp_path / file).write_bytes(b"x" * 100)
        with pytest.raises(MissingExtra, match="lilliput\\[data\\]"):
            read(tmp_path / file)


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + b"x" * 100)
    assert "Parquet" in refusal(tmp_path / "a.parquet").message
