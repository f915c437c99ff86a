"""`lilliput doctor`: what this machine can do, and what would let it do more."""

from __future__ import annotations

from lilliput.cli import options
from lilliput.cli.outcome import Answer


def doctor(as_json: options.Json = False, quiet: options.Quiet = False) -> Answer:
    """Say what this machine can do: Python, torch, threads, compiler, memory, disk, extras, GPU."""
    options.be_quiet(quiet)
    from lilliput.cli.checkup import checkup, describe

    data = checkup()
    return Answer(data, describe(data))
