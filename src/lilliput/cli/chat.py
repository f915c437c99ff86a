"""`lilliput chat`: talk with a model in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from lilliput.cli import options
from lilliput.cli.outcome import Answer, write_all

if TYPE_CHECKING:
    from lilliput.cli.conversation import Conversation


def chat(
    model: options.Model,
    max_new: options.MaxNew = 200,
    temperature: options.Temperature = 0.8,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    seed: options.Seed = 0,
    stop: options.Stop = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> Answer:
    """Talk with a model, a line at a time; Ctrl-D ends.

    A model with a chat template answers in turns. One without continues the text so far, and says so.
    """
    options.be_quiet(quiet)
    from lilliput.cli.conversation import open_conversation
    from lilliput.cli.writer import Sampling, Writer, clean
    from lilliput.progress import say

    writer = Writer(options.model_folder(model), device)
    sampling = Sampling(max_new, temperature, top_p, top_k, seed, tuple(stop or ()))
    conversation = open_conversation(writer, sampling)
    if conversation.template:
        say("This model has a chat template. Write a line; Ctrl-D ends.")
    else:
        say("This model has no chat template: it continues the text so far. Write a line; Ctrl-D ends.")
    turns: list[dict[str, Any]] = []
    while (line := _read_line()) is not None:
        if line.strip():
            text, ended = _answer(conversation, clean(line), show=not as_json)
            turns.append({"prompt": line, "text": text, "ended": ended})
    return Answer({"model": str(writer.path.absolute()), "template": conversation.template, "turns": turns}, None)


def _read_line() -> str | None:
    """The person's next line, or None at the end."""
    if not sys.stdin.isatty():
        raw = sys.stdin.buffer.readline()
        return raw.decode("utf-8", "surrogateescape").rstrip("\r\n") if raw else None
    # Importing it gives `input` its line editing and history.
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
    if not sys.stdout.isatty():
        # The prompt belongs on the screen, the text in the file.
        print("> ", end="", file=sys.stderr, flush=True)
    try:
        return input("> " if sys.stdout.isatty() else "")
    except (EOFError, KeyboardInterrupt):
        print(file=sys.stderr)
        return None


def _answer(conversation: Conversation, line: str, *, show: bool) -> tuple[str, str]:
    """The model's reply, written as it comes; Ctrl-C ends the reply, not the talk."""
    pieces: list[str] = []
    reply = conversation.reply(line)
    ended = None
    try:
        for piece in reply:
            pieces.append(piece)
            if show:
                write_all(1, piece)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        ended = "interrupted"
    text = "".join(pieces)
    if show:
        write_all(1, "\n")
    conversation.remember(line, text)
    return text, ended or reply.ended
