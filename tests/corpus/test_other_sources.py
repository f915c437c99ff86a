"""`builtin:python` and `hf:`."""

import ast
import json
from pathlib import Path

import pytest

from lilliput.corpus import ReadReport, read_source, source_identity
from lilliput.corpus.builtin import python_texts
from lilliput.errors import CorpusError, MissingExtra
from lilliput.recipe import SourceSpec


def read(source: str, field: str = "text") -> list[str]:
    return list(read_source(SourceSpec(source=source, field=field), ReadReport()))


def test_this_python_gives_its_help_and_its_modules() -> None:
    texts = dict(python_texts(ReadReport()))
    assert ast.parse(texts["json/decoder.py"])
    assert any(name.startswith("help/") for name in texts)
    assert not [name for name in texts if "site-packages" in name or "test" in name.split("/")[:-1]]
    documents = read("builtin:python")
    assert documents == read("builtin:python")
    assert sum(map(len, documents)) > 5_000_000
    assert source_identity(SourceSpec(source="builtin:python")) == source_identity(SourceSpec(source="builtin:python"))


@pytest.mark.parametrize("source", ["builtin:pyhton", "builtin:english"])
def test_an_unknown_built_in_names_the_one_there_is(source: str) -> None:
    with pytest.raises(CorpusError, match="builtin:python"):
        read(source)


def test_an_address_is_refused() -> None:
    with pytest.raises(CorpusError, match="download it"):
        read("https://example.org/text.txt")


@pytest.fixture
def data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A local folder in the form of a hub data set."""
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for split in ("train", "test"):
        rows = [{"text": f"{split} {number}", "id": number} for number in range(50)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"hf:{tmp_path}"


def test_a_data_set_is_streamed_by_split_and_field(data_set: str) -> None:
    assert read(data_set) == [f"train {number}" for number in range(50)]
    assert read(f"{data_set}:test") == [f"test {number}" for number in range(50)]
    train, test = (source_identity(SourceSpec(source=data_set + split)) for split in (":train", ":test"))
    assert train != test


def test_what_a_data_set_lacks_is_named(data_set: str) -> None:
    with pytest.raises(CorpusError, match=r"no split 'tset'; there are train, test.*:test"):
        read(f"{data_set}:tset")
    with pytest.raises(CorpusError, match="no row has text in the field 'body'; the fields are text, id"):
        read(data_set, "body")
    with pytest.raises(CorpusError, match="cannot be read"):
        read("hf:/no/such/folder")
    with pytest.raises(CorpusError, match="not the name of a data set"):
        read("hf:")


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtra, match="lilliput\\[hf\\]"):
        read("hf:anything")
