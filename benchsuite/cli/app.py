"""The `bench` command: verbs that parse, call and print."""

import os
import sys

from benchsuite.cli import tables, tools, work
from benchsuite.cli.options import app
from benchsuite.errors import BenchError, out_of_memory, visible
from benchsuite.verbs.terminal import streams

__all__ = ["app", "main", "tables", "tools", "work"]

INTERRUPTED = "interrupted; what was finished is kept"


def main() -> None:
    """Entry point: every error a user can cause is one line and an exit code."""
    try:
        with streams():
            code = _run()
            try:
                sys.stdout.flush()
            except OSError as error:
                code = _stdout_is_gone(error)
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _run() -> int:
    try:
        if os.environ.get("OMP_NUM_THREADS"):
            from benchsuite.engine.environment import cores

            cores()  # before anything starts threads
        code = app(standalone_mode=False)
    except BenchError as error:
        return _complain(error, error.exit_code)
    except OSError as error:
        if error.filename is None:  # of a stream
            return _stdout_is_gone(error)
        return _complain(f"{error.filename}: {error.strerror}", 2)
    except KeyboardInterrupt:
        return _complain(INTERRUPTED, 130)
    except Exception as error:
        if out_of_memory(error):
            return _complain("out of memory; ask for less at once, or use a machine with more", 1)
        return _wrong_usage(error)
    if code == 130:  # Typer's answer to Ctrl-C
        _complain(INTERRUPTED, 130)
    return int(code or 0)


def _wrong_usage(error: Exception) -> int:
    """What Typer says of a command line, which it prints as several lines."""
    if not hasattr(error, "format_message"):
        raise error
    if "NoArgsIsHelp" in type(error).__name__:
        error.show()  # type: ignore[attr-defined]  # Typer's, which has two homes
        return 2
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "bench"
    return _complain(f"{' '.join(error.format_message().split())} (see {path} --help)", 2)


def _stdout_is_gone(error: OSError) -> int:
    """What is left to be printed goes nowhere, so that Python does not try again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 1 if isinstance(error, BrokenPipeError) else _complain(f"stdout: {error.strerror or error}", 2)


def _complain(what: object, code: int) -> int:
    print(f"bench: {visible(str(what))}", file=sys.stderr)
    return code
