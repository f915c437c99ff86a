"""`lilliput generate`: the model's continuation of a prompt, as it is written."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from lilliput.cli import options
from lilliput.cli.outcome import Answer, write_all


def generate(
    model: options.Model,
    prompt: Annotated[str, typer.Option(help="Text to continue; `-` reads it from stdin.")] = "",
    max_new: options.MaxNew = 200,
    temperature: options.Temperature = 0.8,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    seed: options.Seed = 0,
    stop: options.Stop = None,
    exit_at: options.Exit = None,
    exit_layers: options.ExitLayers = None,
    speculate: options.Speculate = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> Answer:
    """Continue a prompt. Only the new text goes to stdout."""
    options.be_quiet(quiet)
    from lilliput.cli.writer import Sampling, Writer, clean
    from lilliput.progress import say

    text = clean(sys.stdin.buffer.read().decode("utf-8", "surrogateescape") if prompt == "-" else prompt)
    sampling = Sampling(max_new, temperature, top_p, top_k, seed, tuple(stop or ()))
    writer = Writer(options.model_folder(model), device)
    skip = writer.skip(exit_at, exit_layers, speculate)
    skip.check(temperature)
    ids = writer.start(text)
    reply = writer.reply(ids, sampling, skip)
    began, pieces = time.monotonic(), []
    for piece in reply:
        pieces.append(piece)
        if not as_json:
            write_all(1, piece)
    seconds = time.monotonic() - began
    written = "".join(pieces)
    if not as_json and sys.stdout.isatty() and not written.endswith("\n"):
        write_all(1, "\n")
    for line in skip.lines():
        say(line)
    data = {
        "model": str(writer.path.absolute()),
        "prompt": text,
        "text": written,
        "prompt_tokens": writer.tokenizer.length(ids),
        "new_tokens": reply.tokens,
        "ended": reply.ended,
        "tokens_per_second": round(reply.tokens / max(seconds, 1e-9), 1),
        **skip.report(),
    }
    return Answer(data, None)
