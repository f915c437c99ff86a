"""What the tests of ladders share by import: a ladder small enough for seconds."""

import argparse
import ast
import difflib
import enum
import inspect
import json
import statistics
import textwrap
import typing
from pathlib import Path

_MODULES = (argparse, ast, difflib, enum, inspect, statistics, textwrap, typing)
SMALL = (
    "budget.params=40k", "model.context=32", "train.tokens=8k", "train.batch_tokens=1024", "inherit.layers=uniform",
    "inherit.sequences=10", "rounds.parts=2", "evaluate.bytes=4k", 'evaluate.prompts=["def "]',
)  # fmt: skip


def write_code(path: Path) -> Path:
    """Real text in small documents, so that some of them are held out."""
    pieces = [piece for module in _MODULES for piece in inspect.getsource(module).split("\n\n") if len(piece) > 80]
    path.write_text("".join(json.dumps({"text": piece}) + "\n" for piece in pieces), encoding="utf-8")
    return path
