"""The command line: one table of verbs, and the entry point `lilliput`.

A verb's module imports typer alone; the room that does the work is imported when the verb is called, so
that `lilliput --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from lilliput import __version__
from lilliput.cli.chat import chat
from lilliput.cli.classify import classify
from lilliput.cli.committee import committee
from lilliput.cli.compact import tokenizer_compact
from lilliput.cli.compare import tokenizer_compare
from lilliput.cli.doctor import doctor
from lilliput.cli.evaluate import evaluate
from lilliput.cli.export import export
from lilliput.cli.generate import generate
from lilliput.cli.inherit import inherit
from lilliput.cli.ladder import ladder
from lilliput.cli.make import make
from lilliput.cli.outcome import Answer, Failure, finish, guarded, stdout_for_answer
from lilliput.cli.overlap import overlap
from lilliput.cli.plan import plan
from lilliput.cli.speed import speed
from lilliput.cli.study import study_compare, study_list, study_run, study_show, study_status
from lilliput.cli.tokenizer import tokenizer_count, tokenizer_merge, tokenizer_train

_PLAIN: dict[str, Any] = {
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "add_completion": False,
}

app = typer.Typer(
    help="Make tiny language models: text and a budget in, the best small model that fits out.",
    epilog="Exit codes: 0 done, 1 the work failed, 2 the request was wrong.",
    invoke_without_command=True,
    **_PLAIN,
)
tokenizer = typer.Typer(help="Tokenizers: learn, count, cut down, compare.", **_PLAIN)
study = typer.Typer(help="Compare arms × seeds of a recipe, with intervals and a verdict.", **_PLAIN)

_VERBS: tuple[Callable[..., Answer], ...] = (
    make, ladder, plan, inherit, generate, chat, evaluate, classify, committee, overlap, speed, export, doctor,
)  # fmt: skip
_STUDY_VERBS: dict[str, Callable[..., Answer]] = {
    "list": study_list,
    "run": study_run,
    "show": study_show,
    "status": study_status,
    "compare": study_compare,
}
_TOKENIZER_VERBS: dict[str, Callable[..., Answer]] = {
    "train": tokenizer_train,
    "count": tokenizer_count,
    "merge": tokenizer_merge,
    "compact": tokenizer_compact,
    "compare": tokenizer_compare,
}
for verb in _VERBS:
    app.command()(guarded(verb))
for name, verb in _TOKENIZER_VERBS.items():
    tokenizer.command(name)(guarded(verb))
for name, verb in _STUDY_VERBS.items():
    study.command(name)(guarded(verb))
app.add_typer(tokenizer, name="tokenizer")
app.add_typer(study, name="study")


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"lilliput {__version__}")
        raise typer.Exit(0)


@app.callback()
def _no_verb(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(arguments: list[str]) -> int:
    """Do what `arguments` ask; returns the exit code."""
    as_json = "--json" in arguments
    with stdout_for_answer(as_json=as_json) as descriptor:
        outcome: object
        try:
            outcome = app(arguments, prog_name="lilliput", standalone_mode=False)
        except SystemExit as stopped:
            outcome = stopped.code
        except BaseException as error:
            outcome = Failure(error)
        return finish(outcome, as_json=as_json, descriptor=descriptor)


def _spare_other_programs() -> None:
    """Let OpenMP's threads wait without holding their cores, unless the person has said how they are to wait.

    GNU's OpenMP has them spin for milliseconds. While another program holds a core, the threads that work are then kept
    off by those that wait: training with two threads on two cores was seen ten times slower beside a busy program.
    A thousand turns, some 20 µs, is what it takes itself where it knows of more threads than cores. Read once, when
    torch is first imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def main() -> None:
    """Entry point of the `lilliput` command."""
    _spare_other_programs()
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader is gone; without this Python complains once more at its end.
        sys.stdout = None
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # One of torchrun's processes leaves without Python's finalizers: with them, threads of the process group
        # now and then abort a process whose work is done, and torchrun calls that a failure.
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
