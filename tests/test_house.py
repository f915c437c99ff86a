"""The house rules that ruff, mypy and import-linter (all run by `make test`) do not know."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "lilliput"
FILES = {str(file.relative_to(SOURCE)): file for file in sorted(SOURCE.rglob("*.py"))}
# These pass pickles through, which run code when they are read.
_PICKLES = {"pickle", "dill", "joblib", "marshal", "shelve"}


def _tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", FILES)
def test_files_and_functions_stay_short(name):
    # A file rarely passes 350 lines, and never 400.
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) <= 400
    for node in ast.walk(_tree(name)):
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
            code = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            assert node.end_lineno - code[0].lineno < 60, f"{name}:{node.lineno} {node.name}"


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_swallowed_asserted_or_left_to_do(name):
    text = FILES[name].read_text(encoding="utf-8")
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text)
    for node in ast.walk(_tree(name)):
        place = f"{name}:{getattr(node, 'lineno', 0)}"
        assert not isinstance(node, ast.Assert), f"{place}: an assert is no message for people"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{place}: bare except"
            assert not (len(node.body) == 1 and isinstance(node.body[0], ast.Pass)), f"{place}: except: pass"


@pytest.mark.parametrize("name", FILES)
def test_no_pickle_is_read_or_written(name):
    for node in ast.walk(_tree(name)):
        place = f"{name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = {alias.name.split(".")[0] for alias in node.names} | {getattr(node, "module", None) or ""}
            assert not modules & _PICKLES, place
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert ast.unparse(node.func) not in ("torch.load", "torch.save"), place
            assert not any(keyword.arg == "allow_pickle" for keyword in node.keywords), place


@pytest.mark.parametrize("name", [name for name in FILES if name != "progress.py" and not name.startswith("cli/")])
def test_only_progress_and_the_command_line_print(name):
    for node in ast.walk(_tree(name)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{name}:{node.lineno}"


def test_every_module_says_what_it_is():
    silent = [name for name in FILES if _tree(name).body and not ast.get_docstring(_tree(name))]
    assert silent == []


def test_a_wheel_holds_every_file():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    held = {file for pattern in settings["package-data"]["lilliput"] for file in SOURCE.glob(pattern)}
    others = {file for file in SOURCE.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")}
    assert others == held
