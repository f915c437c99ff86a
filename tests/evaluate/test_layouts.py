"""The rows of each benchmark as its publisher has them, and the items they become; and rows that become none."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from task_support import write_rows

from lilliput.errors import UserError
from lilliput.evaluate.known import Known, known_tasks
from lilliput.evaluate.layout import Layout, laid_out
from lilliput.evaluate.row import Row
from lilliput.evaluate.task import open_task

# task: (a row, what is asked of it, the number of the right choice)
ROWS = {
    "piqa": (
        {"goal": "open a jar", "sol1": "turn the lid", "sol2": "eat it", "label": 0},
        [("Question: open a jar\nAnswer:", " turn the lid"), ("Question: open a jar\nAnswer:", " eat it")],
        0,
    ),
    "winogrande": (
        {"sentence": "The cup beat the _ in size.", "option1": "jar", "option2": "pot", "answer": "2"},
        [("The cup beat the jar", " in size."), ("The cup beat the pot", " in size.")],
        1,
    ),
    "boolq": (
        {"question": "is water wet", "passage": "Water is wet.", "answer": True},
        [("Water is wet.\nQuestion: is water wet?\nAnswer:", f" {word}") for word in ("no", "yes")],
        1,
    ),
    "ax_b": (
        {"sentence1": "A cat sat.", "sentence2": "A cat ran.", "label": "not_entailment", "idx": 3, "logic": ""},
        [("A cat sat.\nQuestion: A cat ran. Yes or no?\nAnswer:", f" {word}") for word in ("yes", "no")],
        1,
    ),
    "arc_easy": (
        {"id": "x", "question": "Why?", "choices": {"text": ["so", "no"], "label": ["1", "2"]}, "answerKey": "2"},
        [("Question: Why?\nAnswer:", " so"), ("Question: Why?\nAnswer:", " no")],
        1,
    ),
    "openbook_qa": (
        {"question_stem": "Plants need", "choices": {"text": ["sun", "hats"], "label": ["A", "B"]}, "answerKey": " A"},
        [("Plants need", " sun"), ("Plants need", " hats")],
        0,
    ),
    "eprstmt": (
        {"id": 1, "sentence": "很好", "label": "Positive"},
        [("内容：“很好”。情绪分类：", "消极"), ("内容：“很好”。情绪分类：", "积极")],
        1,
    ),
    "c3": (
        {"context": ["男：你好", "女：好"], "question": "谁?", "choice": ["他", "她"], "answer": "她"},
        [("文章：男：你好\n女：好\n问题：谁?\n答案：", choice) for choice in ("他", "她")],
        1,
    ),
    "mmlu": (
        {"question": " Two? ", "subject": "basic_sums", "choices": ["1", "2", "3", "4"], "answer": 1},
        [("Two?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:", f" {letter}") for letter in "ABCD"],
        1,
    ),
    "cmmlu": (
        {"Question": "二?", "A": "1", "B": "2", "C": "3", "D": "4", "Answer": "B"},
        [("二?\nA. 1\nB. 2\nC. 3\nD. 4\n答案：", f" {letter}") for letter in "ABCD"],
        1,
    ),
    "agieval": (
        {"passage": None, "question": "二?", "options": ["(A)1", "(B)2"], "label": ["B", "。"], "answer": None},
        [("问题：二? 选项：(A)1 (B)2\n答案：从A到B, 我们应选择", f" {text}") for text in ("(A)1", "(B)2")],
        1,
    ),
}
ROWS["ceval"] = ({**ROWS["cmmlu"][0], "question": "二?", "answer": "B", "explanation": ""}, *ROWS["cmmlu"][1:])


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_the_hub_becomes_an_item(tmp_path, name):
    row, asked, gold = ROWS[name]
    write_rows(tmp_path / f"{name}.jsonl", [row])
    task = open_task(name, tmp_path)
    (item,) = task.items
    assert item.asked(task.delimiter) == asked
    assert item.gold == (gold,)
    # As an example, it has its answer.
    assert item.example(task.delimiter) == "".join(asked[gold])


def test_two_fields_of_boolq_and_of_ax_b_may_be_numbers(tmp_path):
    write_rows(tmp_path / "boolq.jsonl", [{"question": "q", "passage": "p", "label": 0, "idx": 1}])
    write_rows(tmp_path / "ax_b.jsonl", [{"sentence1": "a", "sentence2": "b", "label": 0}])
    assert [open_task(name, tmp_path).items[0].gold for name in ("boolq", "ax_b")] == [(0,), (0,)]


def test_the_authors_rows_of_c3_hold_several_questions(tmp_path):
    questions = [{"question": q, "choice": ["a", "b"], "answer": "b"} for q in ("one", "two")]
    (tmp_path / "c3").mkdir()
    for split in ("train", "test"):
        write_rows(tmp_path / "c3" / f"c3-d-{split}.json", [])
        (tmp_path / "c3" / f"c3-d-{split}.json").write_text(str([[["x", "y"], questions, split]]).replace("'", '"'))
    task = open_task("c3", tmp_path, shots=1)
    assert [item.query for item in task.items] == [f"文章：x\ny\n问题：{q}\n答案：" for q in ("one", "two")]
    assert task.parts.groups == ["c3-d", "c3-d"]
    assert task.before[0] == "文章：x\ny\n问题：one\n答案：b\n\n"


def test_the_authors_csv_of_mmlu_has_no_header(tmp_path):
    (tmp_path / "mmlu" / "test").mkdir(parents=True)
    (tmp_path / "mmlu" / "test" / "sums_test.csv").write_text('"Two, or ""2""?",1,2,3,4,B\nOne?,1,2,3,4,A\n')
    task = open_task("mmlu", tmp_path)
    assert [item.gold for item in task.items] == [(1,), (0,)]
    assert task.items[0].query.startswith('Two, or "2"?\nA. 1')
    assert task.before[0] == "The following are multiple choice questions (with answers) about sums.\n\n"


def test_xsum_and_parquet(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"document": "It rained. It rained on.", "summary": "Rain.", "id": "1"}] * 2
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "xsum.parquet")
    task = open_task("xsum", tmp_path)
    assert (task.kind, len(task.items), task.items[0].summary) == ("summary", 2, "Rain.")
    (tmp_path / "xsum.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="not a sound Parquet file"):
        open_task("xsum", tmp_path)


def test_parquet_without_the_extra_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "xsum.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match="pyarrow") as raised:
        open_task("xsum", tmp_path)
    assert "lilliput[data]" in raised.value.mend


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("piqa", {"label": -1}, "gold is -1, with choices 0 to 1"),
        ("piqa", {"label": None}, "gold is absent"),
        ("piqa", {"sol1": ""}, "choices holds an empty text"),
        ("piqa", {"sol1": None}, "choices is a list, not a list of texts"),
        ("piqa", {"goal": None}, "goal is absent, not text"),
        ("piqa", {"goal": ["a"]}, "goal is a list, not text"),
        ("winogrande", {"sentence": "no gap"}, "its fields give no contexts|its fields give no ending"),
        ("winogrande", {"answer": ""}, "its fields give no gold"),
        ("boolq", {"answer": "perhaps"}, "its fields give no gold"),
        ("boolq", {"answer": [True]}, "its fields give no gold"),
        ("arc_easy", {"answerKey": "E"}, "its fields give no gold"),
        ("arc_easy", {"choices": ["so", "no"]}, "its fields give no"),
        ("eprstmt", {"label": "Neutral"}, "its fields give no gold"),
        ("c3", {"context": 3}, "its fields give no query"),
        ("c3", {"choice": []}, "holds 0 of the two or more|its fields give no gold"),
        ("mmlu", {"answer": "E"}, "gold is 'E', with choices 0 to 3"),
        ("mmlu", {"choices": ["1", "2"]}, "its fields give no query"),
        ("mmlu", {"subject": 3}, "subject is 3, not text"),
        ("agieval", {"label": "XY"}, "gold is a list"),
        ("ax_b", {"label": "perhaps"}, "gold is 'perhaps', not the number"),
    ],
)
def test_a_damaged_row_is_refused_with_its_line(tmp_path, name, change, message):
    place = write_rows(tmp_path / f"{name}.jsonl", [ROWS[name][0], {**ROWS[name][0], **change}])
    with pytest.raises(UserError, match=message) as raised:
        open_task(name, tmp_path)
    assert raised.value.where == f"{place}:2"


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_row_without_one_of_its_fields_is_refused(tmp_path, name):
    row = dict(ROWS[name][0])
    known = {field for made in known_tasks()[name]["layouts"] for field in Layout(made, ("query", "ending")).fields}
    row.pop(sorted(known & row.keys())[0])
    write_rows(tmp_path / f"{name}.jsonl", [row])
    with pytest.raises(UserError) as raised:
        open_task(name, tmp_path)
    assert "fields" in f"{raised.value.message} {raised.value.mend}" or "none of the rows" in raised.value.message


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.sampled_from(["", "A", "1", "_ b", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "label"]), inner),
    max_leaves=6,
)


@pytest.mark.parametrize("name", sorted(ROWS))
@given(values=st.lists(_VALUES, min_size=9, max_size=9), whole=st.booleans())
@settings(max_examples=25, deadline=None)
def test_whatever_stands_in_a_row_it_is_an_item_or_refused(name, values, whole):
    said = known_tasks()[name]
    known = Known.of(said["kind"], said)
    fields = dict(zip(ROWS[name][0], values, strict=False))
    # One field wrong, or all.
    changed = fields if whole else {**ROWS[name][0], **dict(list(fields.items())[:1])}
    row, item = Row(changed, "here", "part"), None
    with contextlib.suppress(UserError):
        item = known.kind.item(laid_out(row, known.layouts, known.kind.own)) if known.counts(row) else None
    assert item is None or all(0 <= number < len(item.asked(" ")) for number in item.gold)


def test_a_row_is_data_and_never_a_template():
    layout = Layout({"query": "{{ text }}", "choices": "both", "gold": "0"}, ("query",))
    found = layout.apply(Row({"text": "{{ 7 * 7 }} {% for %}", "both": ["{{ a }}", "b"]}, "here", "part"))
    assert found.fields == {"query": "{{ 7 * 7 }} {% for %}", "choices": ["{{ a }}", "b"], "gold": 0}
