"""The same answers as `lm-eval` on real items, at the same BOS policy and prompt.

Skipped where `lm-eval` (the extra `eval`) is not installed, and, for its own model class, `accelerate`. That class runs
the model directory that ours writes; BOS is put first, nothing stands before a sentence of a pair, a space before a
choice.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from task_support import small_model, write_rows

from lilliput.errors import UserError
from lilliput.evaluate.hub import HubTask, hub_task
from lilliput.evaluate.items import read_rows
from lilliput.evaluate.known import known_tasks, shape_of
from lilliput.evaluate.likelihood import likelihoods
from lilliput.evaluate.task import open_task, run_task, score_task
from lilliput.export.hf import save_model_dir
from lilliput.tokenizer.train import train_tokenizer

pytest.importorskip("lm_eval")
pytestmark = [pytest.mark.data, pytest.mark.slow]
ITEMS = 40
_METRICS = ("acc", "acc_norm", "acc_bytes")


@pytest.fixture(scope="module")
def data(data_dir, tmp_path_factory):
    """The first items of real benchmarks, as rows of one layout."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("arc_easy", "hellaswag", "blimp", "lambada"):
        items = open_task(name, data_dir / "benchmarks").items
        write_rows(folder / f"{name}.jsonl", [_row(item) for item in items[:: len(items) // ITEMS][:ITEMS]])
    return folder


def _row(item):
    if hasattr(item, "query"):
        return {"query": item.query, "choices": list(item.choices), "gold": item.gold[0]}
    if hasattr(item, "good"):
        return {"sentence_good": item.good, "sentence_bad": item.bad, "UID": "all"}
    return {"context": item.context, "continuation": item.word}


@pytest.fixture(scope="module")
def ours(data):
    texts = [line for file in sorted(data.glob("*.jsonl")) for line in file.read_text().splitlines()]
    tokenizer = train_tokenizer(texts, 600)
    return small_model(tokenizer, context=128), tokenizer


@pytest.fixture(scope="module")
def theirs(ours, tmp_path_factory):
    pytest.importorskip("accelerate")
    from lm_eval.models.huggingface import HFLM

    place = str(save_model_dir(tmp_path_factory.mktemp("model") / "model", *ours, {}))
    return HFLM(pretrained=place, tokenizer=place, device="cpu", dtype="float32", batch_size=8, add_bos_token=True)


def _task(files, cache, monkeypatch, **config):
    """A task of `lm-eval`'s on local files, by their splits."""
    from lm_eval.api.task import ConfigurableTask

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    return ConfigurableTask(
        config={
            "task": "mine", "dataset_path": "json", "test_split": "test",
            "dataset_kwargs": {"data_files": files, "cache_dir": str(cache)},
            "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in _METRICS],
            "output_type": "multiple_choice", **config,
        }
    )  # fmt: skip


def _by_lm_eval(theirs, file, cache, monkeypatch, shots=0, **config):
    import lm_eval

    task = _task(file if isinstance(file, dict) else {"test": str(file)}, cache, monkeypatch, **config)
    found = lm_eval.simple_evaluate(
        model=theirs, tasks=[task], num_fewshot=shots, log_samples=True, bootstrap_iters=1000
    )
    return found["results"]["mine"], sorted(found["samples"]["mine"], key=lambda sample: sample["doc_id"])


@pytest.mark.parametrize("name", ["arc_easy", "hellaswag"])
def test_choices_item_for_item(name, ours, theirs, data, tmp_path, monkeypatch):
    template = {"doc_to_text": "{{query}}", "doc_to_choice": "{{choices}}", "doc_to_target": "{{gold}}"}
    results, samples = _by_lm_eval(theirs, data / f"{name}.jsonl", tmp_path, monkeypatch, **template)
    task = open_task(name, data)
    found = run_task(*ours, task)
    requests = [(item.query, f" {choice}") for item in task.items for choice in item.choices]
    log_p = likelihoods(*ours, requests, title=None).log_p
    expected = [response[0] for sample in samples for response in sample["filtered_resps"]]
    np.testing.assert_allclose(log_p, expected, atol=2e-3, rtol=1e-5)
    for item, sample, values in zip(task.items, samples, log_p.reshape(len(task.items), -1), strict=True):
        sizes = [len(choice.encode()) for choice in item.choices]
        assert float(values.argmax() in item.gold) == sample["acc"]
        assert float((values / sizes).argmax() in item.gold) == sample["acc_bytes"]
    assert found["acc"] == pytest.approx(results["acc,none"])
    assert found["acc_norm"] == pytest.approx(results["acc_bytes,none"])
    assert found["stderr"] == pytest.approx(results["acc_stderr,none"])


def test_pairs_item_for_item(ours, theirs, data, tmp_path, monkeypatch):
    # Their own template puts a space before the sentence; here nothing stands there, as in docs/evaluate.md.
    template = {
        "doc_to_text": "", "doc_to_choice": "{{[sentence_good, sentence_bad]}}", "doc_to_target": 0,
        "target_delimiter": "",
    }  # fmt: skip
    results, samples = _by_lm_eval(theirs, data / "blimp.jsonl", tmp_path, monkeypatch, **template)
    task = open_task("blimp", data)
    requests = [("", sentence) for item in task.items for sentence in (item.good, item.bad)]
    log_p = likelihoods(*ours, requests, title=None).log_p.reshape(-1, 2)
    expected = [[response[0] for response in sample["filtered_resps"]] for sample in samples]
    np.testing.assert_allclose(log_p, expected, atol=1e-3, rtol=1e-5)
    assert (log_p[:, 0] > log_p[:, 1]).astype(float).tolist() == [sample["acc"] for sample in samples]
    paradigms = run_task(*ours, task)["paradigms"]
    right = sum(row["acc"] * row["items"] for row in paradigms.values())
    assert right / ITEMS == pytest.approx(results["acc,none"])


def test_last_words_item_for_item(ours, theirs, data):
    from lm_eval.api.instance import Instance

    rows = [json.loads(line) for line in (data / "lambada.jsonl").read_text().splitlines()]
    requests = [(row["context"], f" {row['continuation']}") for row in rows]
    asked = [Instance("loglikelihood", {}, request, at) for at, request in enumerate(requests)]
    expected = theirs.loglikelihood(asked, disable_tqdm=True)
    found = likelihoods(*ours, requests, title=None)
    np.testing.assert_allclose(found.log_p, [value for value, _ in expected], atol=1e-3, rtol=1e-5)
    assert found.greedy.tolist() == [greedy for _, greedy in expected]
    # The likeliest token of each place, so that greedy answers are not all wrong.
    assert not found.greedy.all()


@pytest.mark.parametrize("name", ["mmlu", "cmmlu"])
def test_a_subject_with_examples_item_for_item(name, ours, theirs, data_dir, tmp_path, monkeypatch):
    import lm_eval.tasks
    import yaml

    folder, said = tmp_path / "data", known_tasks()[name]
    files = {"test": ("split", ITEMS), "dev": ("examples", 2)}
    for split, (which, count) in files.items():
        rows = read_rows(data_dir / "benchmarks" / f"{name}.tar.xz", shape_of(said, which))
        held = [_as_on_the_hub(row.fields) for row in rows if row.part == "anatomy"][:count]
        files[split] = str(write_rows(folder / name / f"anatomy_{split}.jsonl", held))
    # The templates are lm-eval's own.
    theirs_at = Path(lm_eval.tasks.__file__).parent / ("mmlu/default" if name == "mmlu" else name)
    config = {}
    for file in ("_default_template_yaml", f"{name}_anatomy.yaml"):
        config |= yaml.safe_load((theirs_at / file).read_text(encoding="utf-8"))
    kept = ("doc_to_text", "doc_to_choice", "doc_to_target", "description", "fewshot_split", "fewshot_config")
    template = {field: config[field] for field in kept}
    results, samples = _by_lm_eval(theirs, files, tmp_path / "cache", monkeypatch, shots=2, **template)
    task = open_task(name, folder, shots=2)
    asked = [
        (before + query, text)
        for before, item in zip(task.before, task.items, strict=True)
        for query, text in item.asked(task.delimiter)
    ]
    assert asked == [tuple(one) for sample in samples for one in sample["arguments"]]
    score = score_task(*ours, task)
    assert score.right.astype(float).tolist() == [sample["acc"] for sample in samples]
    assert 0 < score.to_dict()["acc"] == pytest.approx(results["acc,none"])


def _as_on_the_hub(fields):
    if "choice0" not in fields:
        return fields
    return {
        "question": fields["question"], "subject": "anatomy", "answer": int(fields["answer"]),
        "choices": [fields[f"choice{number}"] for number in range(4)],
    }  # fmt: skip


def test_our_model_as_theirs(ours, data, tmp_path, monkeypatch):
    """`lm-eval` asks our model: what a task of the hub's gives is what the same rows here give."""
    template = {"doc_to_text": "{{query}}", "doc_to_choice": "{{choices}}", "doc_to_target": "{{gold}}"}
    task = _task({"test": str(data / "arc_easy.jsonl")}, tmp_path, monkeypatch, **template)
    hub = HubTask("arc_easy", known_tasks()["arc_easy"], 0, {"mine": task}, ITEMS)
    local = open_task("arc_easy", data)
    found, expected = score_task(*ours, hub, title="hub"), score_task(*ours, local)
    assert found.right.tolist() == expected.right.tolist()
    assert found.right_norm.tolist() == expected.right_norm.tolist()
    row = run_task(*ours, hub)
    assert (row["items"], row["of"], row["whole"], row["shots"]) == (ITEMS, ITEMS, True, 0)
    assert row["versions"]["lm_eval"]
    assert (found.tokens, found.cut) == (expected.tokens, expected.cut)
    some = HubTask("arc_easy", known_tasks()["arc_easy"], 0, {"mine": task}, ITEMS, {"mine": [1, 5]})
    assert score_task(*ours, some).right.tolist() == expected.right[[1, 5]].tolist()


def test_without_a_network_one_message_says_what_to_do(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="piqa cannot be fetched") as raised:
        hub_task("piqa", known_tasks()["piqa"])
    assert "--data DIR" in raised.value.mend
    with pytest.raises(UserError, match="blimp takes no examples"):
        hub_task("blimp", known_tasks()["blimp"], shots=1)


def test_the_names_are_theirs():
    from lm_eval.tasks import TaskManager

    names = {name for said in known_tasks().values() for name in _listed(said.get("lm_eval", []))}
    assert names <= set(TaskManager().all_tasks)


def _listed(names):
    return names if isinstance(names, list) else [names]
