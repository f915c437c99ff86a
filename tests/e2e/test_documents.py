"""README.md and docs/ say what is true: every command shown runs, every link leads somewhere."""

import re
import shutil
from pathlib import Path

import pytest
from documents import ROOT, Block, blocks, complaint, documents, runnable, runs_taken_for_granted, shrink

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FILES = {str(file.relative_to(ROOT)): file for file in documents()}


@pytest.mark.parametrize("name", FILES)
def test_every_link_leads_somewhere(name):
    file = FILES[name]
    for target in LINK.findall(file.read_text(encoding="utf-8")):
        if "://" in target or target.startswith("#"):
            continue
        path, _, anchor = target.partition("#")
        assert (file.parent / path).exists(), f"{name}: {target}"
        if anchor:
            assert anchor in _anchors(file.parent / path), f"{name}: {target}"


def _anchors(file: Path) -> set[str]:
    """The anchors of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", FILES)
def test_every_command_that_cannot_run_here_names_what_exists(name):
    for block in blocks(FILES[name]):
        for command in block.commands:
            assert complaint(command) is None, f"{name}:{block.line}: {command}: {complaint(command)}"


# A page of many commands takes minutes on a slow machine.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [name for name, file in FILES.items() if blocks(file)])
def test_every_command_runs(name, shell, tiny_run, tmp_path):
    folder = tmp_path / "work"
    shutil.copytree(shell.folder, folder, ignore=shutil.ignore_patterns("runs"))
    for run in runs_taken_for_granted(FILES[name]):
        shutil.copytree(tiny_run["run"], folder / "runs" / run)
    here = type(shell)(folder)
    for block in blocks(FILES[name]):
        if not block.run:
            continue
        for command in block.commands:
            if runnable(command):
                _run_command(block, command, here)
        if block.language == "python":
            _run_python(block, here)


def _run_command(block: Block, command: str, here) -> None:
    place = f"{block.file.name}:{block.line}: {command}"
    refused = command.endswith("# refused")
    done = here(command if refused else shrink(command), stdin="Once upon a time\n")
    assert done.returncode == (2 if refused else 0), f"{place}\n{done.stderr}"
    if refused:
        assert done.stderr.strip() == block.shown_after(command), place


def _run_python(block: Block, here) -> None:
    settings = ", ".join(f'"{setting}"' for setting in ("budget.params=60k", "train.tokens=16k"))
    code = re.sub(r'(load_recipe\("\w+", \[[^\]]*)\]', rf"\1, {settings}]", block.text)
    file = Path(here.folder, "example.py")
    file.write_text(code, encoding="utf-8")
    done = here("python example.py")
    assert done.returncode == 0, f"{block.file.name}:{block.line}\n{done.stderr}"


def test_the_recipe_keys_are_all_documented():
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    from recipe_table import table

    assert table() in page, "docs/recipes.md: run `python tests/e2e/recipe_table.py` and paste what it prints"


def test_every_room_has_a_page():
    rooms = {folder.name for folder in (ROOT / "src" / "lilliput").iterdir() if (folder / "__init__.py").is_file()}
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert rooms - {room for room in rooms if f"`{room}/`" in index} == set()
