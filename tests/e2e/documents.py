"""The commands that README.md and docs/ show, and how each is tried.

Fenced blocks: `console` (lines after `$ ` are commands, the others are output), `bash` or `sh` (every line is one) and
`python`. A block after `<!-- not run: REASON -->` is only checked. Every `lilliput make` is cut to a tiny
budget. Commands that install, need a GPU or run a study are checked for what they name. A command with the
comment `# refused` must fail as a wrong request, with the error the block shows.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from lilliput.cli.main import app
from lilliput.cli.make import default_folder, split_words
from lilliput.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*) *$")
_NOT_RUN = re.compile(r"<!-- not run: \S.* -->")
_TINY = ("budget.params=60k", "tokenizer.vocab_size=384")
# What a command may say that fixes the shape, or the tokenizer at least.
_SHAPED = ("model.", "from=", "inherit.teacher=")
_WITH_TOKENIZER = ("tokenizer.from=", "tokenizer.compact=", "inherit.teacher=")
_SHORT = ("train.tokens=16k", "evaluate.bytes=10k")


@dataclass(frozen=True)
class Block:
    """A fenced block of a document. line: where it begins. run: whether it may be run."""

    file: Path
    line: int
    language: str
    text: str
    run: bool

    @property
    def commands(self) -> list[str]:
        """Its shell commands, continued lines joined."""
        joined = self.text.replace("\\\n", " ")
        if self.language == "console":
            return [line[2:] for line in joined.splitlines() if line.startswith("$ ")]
        if self.language in ("bash", "sh"):
            return [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        return []

    def shown_after(self, command: str) -> str:
        """The output that the block shows for a command."""
        lines = self.text.splitlines()
        begin = lines.index(f"$ {command}") + 1
        end = next((at for at in range(begin, len(lines)) if lines[at].startswith("$ ")), len(lines))
        return "\n".join(lines[begin:end]).strip()


def runs_taken_for_granted(file: Path) -> set[str]:
    """The run folders under runs/ that a document uses and makes nowhere itself."""
    text = file.read_text(encoding="utf-8")
    made = set(re.findall(r"--out runs/([\w.-]+)|make\(.*\"runs/([\w.-]+)\"", text))
    made = {name for pair in made for name in pair if name}
    if re.search(r"make demo\b", text):
        made.add("demo")
    return set(re.findall(r"\bruns/([\w.-]+)", text)) - made


def documents() -> list[Path]:
    """README.md and every page of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(file: Path) -> list[Block]:
    """The fenced blocks of a document, in order."""
    found: list[Block] = []
    start, language, indent, held = 0, "", "", []
    previous, run = "", True
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if not start and fence:
            start, language, indent, held = number, fence["language"], fence["indent"], []
            run = not _NOT_RUN.search(previous)
        elif start and line.strip() == "```":
            found.append(Block(file, start, language, "\n".join(held), run))
            start = 0
        elif start:
            held.append(line.removeprefix(indent))
        if line.strip():
            previous = line
    return found


def words_of(command: str) -> list[str]:
    """The words of the first program a command line calls, without comments and pipes."""
    words = shlex.split(command, comments=True)
    for index, word in enumerate(words):
        if word in ("|", ">", ">>", "&&", ";", "<"):
            return words[:index]
    return words


def runnable(command: str) -> bool:
    """Whether a command can be run here in seconds."""
    words = words_of(command)
    if not words or words[0] in ("make", "pip", "git", "cd", "torchrun", "export", "source", "python"):
        return False
    return words[:3] != ["lilliput", "study", "run"] and "cuda" not in words


def shrink(command: str) -> str:
    """`command` with every `lilliput make` in it cut to seconds; its run folder stays the one it would be."""
    words = words_of(command)
    if words[:2] != ["lilliput", "make"] or "--help" in words:
        return command
    given = [word for word in words[2:] if not word.startswith("--")]
    if "--out" in words:
        given.remove(words[words.index("--out") + 1])
    extra = list(_SHORT)
    if not any(word.startswith(_SHAPED) for word in given):
        extra += _TINY[:1] if any(word.startswith(_WITH_TOKENIZER) for word in given) else _TINY
    if not any(word.startswith("corpus=") for word in given):
        extra.append("corpus=notes.txt")
    if "--out" not in words:
        extra += ["--out", str(default_folder(load_recipe(*split_words(given))))]
    begin = " ".join(shlex.quote(word) for word in words)
    return command.replace(command[: _end_of_first(command)], f"{begin} {' '.join(extra)}", 1)


def _end_of_first(command: str) -> int:
    """Where the first program's words end: at a comment, a pipe or the end."""
    found = re.search(r"\s(#|\||>|&&|;|<)\s?", command)
    return found.start() if found else len(command)


def complaint(command: str) -> str | None:
    """What is wrong with a command that is not run: a verb, target or file it names does not exist."""
    words = words_of(command)
    if not words:
        return None
    if words[0] == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        missing = [word for word in words[1:] if "=" not in word and word not in targets]
        return f"no make target {missing[0]}" if missing else None
    if words[0] == "python" and len(words) > 1 and words[1].endswith(".py"):
        return None if (ROOT / words[1]).is_file() else f"no file {words[1]}"
    if words[0] == "lilliput":
        import typer

        group = typer.main.get_command(app)
        verb = words[1] if len(words) > 1 else "--help"
        return None if verb.startswith("--") or verb in group.commands else f"no verb {verb}"
    return None
