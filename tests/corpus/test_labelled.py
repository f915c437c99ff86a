"""Texts with labels: tables, objects, and the published layouts."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lilliput.corpus.labelled import Fields, Rows, as_label, read_labelled
from lilliput.corpus.layouts import align, divided, read_set
from lilliput.errors import CorpusError


def _write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_tables_with_and_without_a_header_say_the_same(tmp_path):
    plain = read_labelled(_write(tmp_path / "a.csv", '"3","Title, quoted","a\nbody"\n"1","b","c"\n'))
    assert (plain.labels, plain.texts) == (["3", "1"], ["Title, quoted a\nbody", "b c"])
    headed = read_labelled(_write(tmp_path / "b.csv", "title,text,label\nb,c,1\n"))
    assert (headed.labels, headed.texts) == (["1"], ["b c"])
    tabs = read_labelled(_write(tmp_path / "c.tsv", "sentence\tclass\nso it is\tyes\n"))
    assert (tabs.labels, tabs.texts) == (["yes"], ["so it is"])


def test_objects_and_their_odd_labels(tmp_path):
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 1.0}, {"text": "", "label": "x"}]
    rows += [{"text": "c"}, {"text": "d", "label": []}]
    found = read_labelled(_write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n"))
    assert found.labels == ["1", "1", "x"]
    assert found.texts == ["a", "b", ""]
    assert found.dropped == {"rows without a label": 2}
    listed = read_labelled(_write(tmp_path / "b.json", json.dumps(rows[:2])))
    assert listed.labels == ["1", "1"]
    own = read_labelled(_write(tmp_path / "c.jsonl", '{"q": "x", "r": "y", "z": 0}'), Fields(("q", "r"), "z"))
    assert (own.labels, own.texts) == (["0"], ["x y"])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "a,b,c\n1,2,3\n", "nearly every row|row"),
        ("b.jsonl", '{"body": "x", "label": 1}', "no field for the text"),
        ("c.jsonl", '{"text": "x"}', "no field for the label"),
        ("d.jsonl", "nonsense", "line 1"),
        ("e.txt", "text", "tables and objects"),
        ("f.csv", "", "empty"),
        ("g.csv", 'text,label\n"not closed' + "x" * 150_000, "damaged table"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(tmp_path, name, text, said):
    if name == "a.csv":
        text = "\n".join(f"sentence {at},more" for at in range(30))
    with pytest.raises(CorpusError, match=said) as caught:
        read_labelled(_write(tmp_path / name, text))
    assert name in str(caught.value)


def test_texts_to_classify_need_no_label(tmp_path):
    assert read_labelled(_write(tmp_path / "a.txt", "one\n\ntwo\n"), labels=False).texts == ["one", "two"]
    assert read_labelled(_write(tmp_path / "b.jsonl", '{"text": "x"}'), labels=False).texts == ["x"]
    assert read_labelled(_write(tmp_path / "c.csv", "text\nx\ny\n"), labels=False).texts == ["x", "y"]


@given(st.one_of(st.integers(-1000, 1000), st.text(min_size=1).filter(str.strip)))
def test_a_label_keeps_what_it_says(value):
    assert as_label(value) == str(value).strip()
    if isinstance(value, int):
        assert as_label(float(value)) == as_label(value) == as_label(str(value))


def test_files_that_count_from_0_and_from_1_are_brought_together():
    train, test = Rows(["a", "b"], ["0", "1"]), Rows(["c", "d"], ["2", "1"])
    assert align(train, test)
    assert test.labels == ["1", "0"]
    same = Rows(["c"], ["1"])
    assert not align(Rows(["a", "b"], ["0", "1"]), same)
    assert same.labels == ["1"]


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 3), st.text(min_size=1, max_size=5)), min_size=40, max_size=80))
def test_a_division_keeps_every_row_once_whatever_the_order(pairs):
    rows = Rows([text for _, text in pairs], [str(label) for label, _ in pairs])
    train, test, _ = divided(rows)
    both = sorted(zip(train.texts + test.texts, train.labels + test.labels, strict=True))
    assert both == sorted(zip(rows.texts, rows.labels, strict=True))
    assert len(test) <= round(0.1 * len(rows)) + 4


def test_fewrels_own_layout(tmp_path):
    row = {"tokens": ["In", "Rome", "lived", "Ada", "."], "h": ["ada", "Q1", [[3]]], "t": ["rome", "Q2", [[1]]]}
    _write(tmp_path / "val_wiki.json", json.dumps({"P1": [row] * 10, "P2": [row] * 10}))
    _write(tmp_path / "pid2name.json", json.dumps({"P1": ["lives in", ""], "P2": ["born in", ""]}))
    found = read_set(tmp_path)
    assert found.train.texts[0] == "In # Rome # lived $ Ada $ ."
    assert (len(found.train), len(found.test)) == (18, 2)
    assert found.names == {"P1": "lives in", "P2": "born in"}


def test_ag_news_own_layout(tmp_path):
    _write(tmp_path / "train.csv", '"1","A","b"\n"2","C","d"\n')
    _write(tmp_path / "test.csv", '"2","E","f"\n')
    _write(tmp_path / "classes.txt", "World\nSports\n")
    found = read_set(tmp_path)
    assert found.train.texts == ["A b", "C d"]
    assert found.names == {"1": "World", "2": "Sports"}


def test_a_folder_of_several_sets_is_not_guessed(tmp_path):
    for name in ("one.csv", "two.csv"):
        _write(tmp_path / name, "1,a\n")
    with pytest.raises(CorpusError, match="several sets"):
        read_set(tmp_path)
    with pytest.raises(CorpusError, match="begins with three"):
        read_set(tmp_path / "three")


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "labels", "test"),
    [("ag_news", 4, 7600), ("dbpedia14", 14, 1400), ("fewrel.val_wiki", 16, 1120), ("fewrel.80_relations", 80, 1120)],
)
def test_the_papers_sets(data_dir, name, labels, test):
    found = read_set(data_dir / "classify" / name)
    assert len(set(found.train.labels)) == len(found.names) == labels
    assert len(found.test) == test
    assert set(found.test.labels) <= set(found.train.labels)
