"""Whatever a file holds: text, a count, or one clear error; never a traceback."""

import gzip
import json
import lzma
import os
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lilliput.corpus import Documents, ReadReport, build_corpus, read_source, source_identity
from lilliput.errors import LilliputError
from lilliput.recipe import SourceSpec

ENDINGS = [".txt", ".jsonl", ".json", ".parquet", *(f".txt{packed}" for packed in (".gz", ".xz", ".zst"))]
PACKERS = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.ZstdCompressor(write_checksum=True).compress}
ROWS = "".join(json.dumps({"text": f"Row {number} of the text, naïve 中文."}) + "\n" for number in range(200)).encode()
ANYTHING = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check_reading(file: Path) -> None:
    """Either documents that add up come, or one error that says how to mend it."""
    report = ReadReport()
    refused: LilliputError | None = None
    documents: list[str] = []
    try:
        documents = list(read_source(SourceSpec(source=str(file)), report))
    except LilliputError as error:
        refused = error
    if refused:
        assert refused.message
        assert refused.mend
        return
    assert documents
    assert report.bytes == sum(len(document.encode()) for document in documents)
    json.dumps(report.to_dict())


@ANYTHING
@given(st.binary(max_size=300), st.sampled_from(ENDINGS))
def test_any_bytes_under_any_ending(tmp_path: Path, data: bytes, ending: str) -> None:
    file = tmp_path / f"file{ending}"
    file.write_bytes(data)
    check_reading(file)


@ANYTHING
@given(st.sampled_from(list(PACKERS)), st.integers(0, 10_000), st.binary(min_size=1, max_size=6), st.booleans())
def test_any_damage_to_an_archive(tmp_path: Path, packed: str, at: int, damage: bytes, cut: bool) -> None:
    data = PACKERS[packed](ROWS)
    at %= len(data)
    file = tmp_path / f"file.jsonl{packed}"
    file.write_bytes(data[:at] if cut else data[:at] + damage + data[at + len(damage) :])
    check_reading(file)


def test_a_name_that_is_no_utf8_can_be_printed_and_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = os.path.join(os.fsencode(tmp_path), b"caf\xe9.txt")
    try:
        with open(name, "wb") as file:
            file.write(b"some text \xff with an odd byte, long enough to be cut in two at its end")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    spec = SourceSpec(source=str(tmp_path))
    found = build_corpus([spec], tmp_path)
    json.dumps([found, source_identity(spec)], ensure_ascii=False).encode()
    assert "caf\\udce9.txt" in capsys.readouterr().err


def test_pieces_of_a_growing_file_stay_where_they_are(tmp_path: Path) -> None:
    text = "".join(f"Paragraph {number} says something new.\n\n" for number in range(20_000))
    splits = []
    for name, size in (("a", len(text) // 2), ("b", len(text))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "book.txt").write_text(text[:size])
        build_corpus([SourceSpec(source=str(tmp_path / name))], tmp_path / name)
        splits.append([set(Documents(tmp_path / name, split)) for split in ("train", "dev")])
    (train, dev), (later_train, later_dev) = splits
    assert len(train - later_train) + len(dev - later_dev) <= 1
    assert not dev & later_train
