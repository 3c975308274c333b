"""Consoles: one for results, one for messages, and the printing of JSON and errors.

Invariants: standard output carries only the requested results (so that it can be piped), messages and progress go to
standard error; only a terminal receives colours or cursor movements.
"""

import os
import sys
from typing import TextIO

from pydantic import BaseModel
from rich.console import Console

PIPE_WIDTH = 120
"""Columns if there is no terminal to measure."""


def console(stream: TextIO | None = None) -> Console:
    """Build a console on a stream (default: standard output)."""
    stream = stream or sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    return Console(file=stream, highlight=False, emoji=False, width=width)


def messages() -> Console:
    """Build the console for messages and progress, on standard error."""
    return console(sys.stderr)


def print_json(value: BaseModel) -> None:
    """Print a value as JSON, as the API sends it."""
    print(value.model_dump_json(indent=2))


def print_snippet(snippet: str) -> None:
    """Print code to paste, after an empty line; unchanged, never wrapped."""
    print("\n" + snippet.rstrip("\n"))


def print_traceback(text: str) -> None:
    """Print a traceback, after an empty line: never wrapped, control codes replaced."""
    shown = "\n".join(_printable(line) for line in text.expandtabs().splitlines())
    print("\n" + shown)


def print_output(text: str) -> None:
    """Print what a program printed: never wrapped, control codes replaced."""
    print("\n".join(_printable(line) for line in text.expandtabs().splitlines()))


def print_error(text: str) -> None:
    """Print an error, one line per fault, on standard error."""
    out = messages()
    for line in text.splitlines():
        out.print(f"[bold red]error:[/] {_plain(line)}", soft_wrap=True)


def _plain(text: str) -> str:
    """Return foreign text without rich markup or control codes."""
    return _printable(text).replace("[", "\\[")


def _printable(line: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in line)


def use_safe_streams() -> None:
    """Make a terminal that lacks a character show a question mark instead of failing the command."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
