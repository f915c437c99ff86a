"""The page of a run and its model card: whole, self-contained, escaped, and silent about what is absent."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
import yaml

from lilliput.report.card import model_card
from lilliput.report.page import run_page, smooth
from lilliput.report.text import amount, flatten

RESULTS: dict[str, Any] = {
    "name": "demo <run>",
    "model": "/models/demo",
    "parameters": 1_017_856,
    "recipe": {"corpus": [{"source": "builtin:python", "weight": 1.0}], "seed": 0, "train": {"lr": None}},
    "notes": ["learning rate 0.003: 0.3118·C^-0.125"],
    "corpus": {"documents": 12_345, "bytes": 25_000_000},
    "tokenizer": {"vocab_size": 2048, "bytes_per_token": 3.21},
    "shape": {"summary": "4 × 128", "depth": 4, "width": 128, "heads": 4, "vocab_size": 2048, "context": 256},
    "held_out": {"bits_per_byte": 1.8123, "low": 1.79, "high": 1.84, "documents": 120, "bytes": 400_000},
    "baselines": {"uniform": 8.0, "xz": 2.31},
    "samples": [{"prompt": "def ", "text": "main(<script>alert(1)</script>):"}],
    "cost": {"seconds": 301.2, "tokens": 10_000_000, "epochs": 1.5, "flops": 6.1e13, "peak_memory": 900_000_000},
    "versions": {"python": "3.11.2", "torch": "2.13.0"},
}
METRICS: list[dict[str, Any]] = [
    {"step": step, "tokens": step * 4096, "loss": 7.0 / step**0.3, "lr": 1e-3} for step in range(1, 200)
]
METRICS[50]["loss"] = None
METRICS += [{"step": s, "tokens": s * 4096, "evaluation": {"bits_per_byte": 3.0 - s / 200}} for s in (50, 100, 150)]


class Links(HTMLParser):
    """Collects what a page would fetch, and checks that tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag in ("script", "link", "iframe", "img"):
            self.fetched.append(tag)
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_whole_and_self_contained() -> None:
    page = run_page(RESULTS, METRICS)
    parser = Links()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    assert parser.fetched == []
    for expected in ("demo &lt;run&gt;", "1.8123", "[1.7900, 1.8400]", "xz -9", "1.02M", "builtin:python", "5m01s"):
        assert expected in page
    assert "<script>alert" not in page
    assert page.count("<svg") == 3
    assert len(page) < 200_000


@pytest.mark.parametrize("absent", [*RESULTS, None])
def test_page_leaves_out_what_is_absent(absent: str | None) -> None:
    results = {key: value for key, value in RESULTS.items() if key != absent} if absent else {}
    page = run_page(results, [])
    parser = Links()
    parser.feed(page)
    assert parser.open == []
    assert "None" not in page


def test_no_interval_is_said_not_invented() -> None:
    results = {**RESULTS, "held_out": {"bits_per_byte": 1.8, "low": None, "high": None}}
    assert "takes two documents" in run_page(results, METRICS)
    assert "takes two documents" in model_card(results)


def test_card_has_front_matter_and_figures() -> None:
    card = model_card(RESULTS)
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "transformers"
    assert "1,017,856 parameters" in card
    assert "1.8123. 95 % interval over documents: 1.7900 to 1.8400." in card
    assert "AutoModelForCausalLM" in card
    assert "| the same text with xz -9 | 2.3100 |" in card
    assert "`builtin:python`: 10,000,000 tokens" in card


def test_smooth_keeps_constants_and_ends() -> None:
    assert smooth([2.0] * 7, 3) == pytest.approx([2.0] * 7)
    assert smooth([0.0, 3.0, 6.0], 5) == pytest.approx([0.0, 3.0, 6.0])


def test_words() -> None:
    assert amount(1_017_856) == "1.02M"
    assert amount(1_017_856, exact=True) == "1,017,856"
    assert amount(None) == "–"
    assert amount(True) == "yes"
    assert amount([1, "a"]) == "1, a"
    assert amount(0.00031234) == "0.0003123"
    assert flatten({"a": {"b": 1}, "c": [{"d": 2}], "e": [1, 2]}) == {"a.b": 1, "c.0.d": 2, "e": [1, 2]}
