"""Every page we make, opened in a real browser: nothing fetched, no complaint, no sideways scrolling on a phone, charts
that can be seen, by light and by dark."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser_support import Seen, browser, look_at

from lilliput.cli.main import run

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(browser() is None, reason="no browser is installed"),
]

_LADDER = (
    "budget.params=60k model.depth=4 model.context=32 train.tokens=8k train.batch_tokens=1024 inherit.layers=uniform "
    "inherit.sequences=10 rounds.parts=2 evaluate.bytes=4k"
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a little text in documents."""
    import argparse
    import inspect
    import textwrap
    import typing

    folder = tmp_path_factory.mktemp("pages")
    sources = map(inspect.getsource, (argparse, inspect, typing, textwrap))
    texts = [text for source in sources for text in source.split("\n\n")]
    rows = [json.dumps({"text": text}) + "\n" for text in texts if len(text) > 80]
    (folder / "code.jsonl").write_text("".join(rows), encoding="utf-8")
    return folder


@pytest.fixture
def lilliput(work: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Run a command line there, in this process."""
    monkeypatch.chdir(work)

    def do(words: str) -> None:
        assert run(shlex.split(words)) == 0

    return do


@pytest.fixture(scope="module")
def ladder(work: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny ladder whose depth is fixed, so that the planner's best is an arm of its own."""
    from lilliput.lab.ladder.ask import read_ask
    from lilliput.lab.ladder.run import run_ladder

    ask = read_ask("tiny", [f"corpus={work / 'code.jsonl'}", *_LADDER.split()], rates=(1.0,), batches=())
    return run_ladder(ask, tmp_path_factory.mktemp("ladder") / "ladder")


def check(seen: Seen, charts: int) -> None:
    """What every page must be."""
    assert seen.console == []
    for frame in seen.frames:
        assert frame.fetched == []
        assert frame.scroll <= frame.width, f"{frame.title}: {frame.scroll} pixels on a screen of {frame.width}"
        assert frame.wide == []
        assert len(frame.charts) >= charts
        for width, height, marks, texts in frame.charts:
            # A strip of kept channels is flat and has no letters.
            assert width > 250
            assert height > 5
            assert marks >= 2
            assert texts or height < 60


def test_the_page_of_a_ladder_is_read_on_a_phone_and_in_the_dark(ladder: dict[str, Any], tmp_path: Path) -> None:
    assert ladder["planner"]["over_base"]["low"] < ladder["planner"]["over_base"]["high"]
    assert "the planner&#x27;s best" in Path(ladder["report"]).read_text(encoding="utf-8")
    light = look_at(Path(ladder["report"]), tmp_path)
    dark = look_at(Path(ladder["report"]), tmp_path, dark=True)
    check(light, 3)
    check(dark, 3)
    assert [frame.width for frame in light.frames] == [360, 1200]
    for one, other in zip(light.frames, dark.frames, strict=True):
        assert _bright(one.paper) > 200 > 60 > _bright(one.ink)
        assert _bright(other.paper) < 60 < 200 < _bright(other.ink)


def _bright(colour: str) -> float:
    """`rgb(246, 247, 249)` → 247."""
    parts = [int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    return sum(parts) / 3


def test_the_page_of_a_run_with_rounds(ladder: dict[str, Any], tmp_path: Path) -> None:
    check(look_at(Path(ladder["rungs"][-1]["model"]).parent / "report.html", tmp_path), 3)


def test_the_page_of_an_inheritance(
    ladder: dict[str, Any], lilliput: Callable[[str], None], work: Path, tmp_path: Path
) -> None:
    teacher = ladder["rungs"][2]["model"]
    lilliput(f"inherit {teacher} layers=1 --neurons l2 --corpus code.jsonl --out child")
    check(look_at(work / "child" / "report.html", tmp_path), 2)


def test_the_page_of_plans(lilliput: Callable[[str], None], work: Path, tmp_path: Path) -> None:
    lilliput("plan --params 300k --no-speed --out plans")
    check(look_at(work / "plans" / "plan.html", tmp_path), 0)


def test_the_page_of_a_compaction(
    ladder: dict[str, Any], lilliput: Callable[[str], None], work: Path, tmp_path: Path
) -> None:
    lilliput(f"tokenizer compact {ladder['rungs'][0]['model']} --corpus code.jsonl --vocab-size 300 --out small")
    check(look_at(work / "small" / "report.html", tmp_path), 1)
