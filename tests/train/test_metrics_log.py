import json
import math
from pathlib import Path

from lilliput.train.metrics import Metrics, read_metrics


def rows(folder: Path) -> list[dict[str, object]]:
    return read_metrics(folder / "metrics.jsonl")


def test_rows_are_json_even_where_the_loss_is_not_a_number(tmp_path: Path) -> None:
    log = Metrics(tmp_path, 0)
    log.write({"step": 1, "loss": math.nan, "evaluation": {"x": math.inf}})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "step": 1,
        "loss": None,
        "evaluation": {"x": None},
    }
    log.close()


def test_a_resume_cuts_rows_that_will_come_again(tmp_path: Path) -> None:
    log = Metrics(tmp_path, 0)
    for step in range(1, 6):
        log.write({"step": step})
    log.write({"step": 5, "evaluation": {"x": 1.0}})
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')  # torn by a kill
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 5]
    log = Metrics(tmp_path, 5)
    assert log.evaluated == {5}
    log.cut(3)
    assert log.evaluated == set()
    log.write({"step": 4})
    log.close()
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4]


def test_tensorboard_events_are_written(tmp_path: Path) -> None:
    import pytest

    pytest.importorskip("tensorboard")
    log = Metrics(tmp_path, 0, tensorboard=True)
    log.write({"step": 1, "loss": 2.5})
    log.close()
    assert list((tmp_path / "tensorboard").glob("events.*"))
