"""Where the `bench` script begins: Ctrl-C from the first line on ends it with 130 and no traceback.

Nothing is imported here but what Python has imported already, so that little time passes before the first line; what
comes before it (Python's own start, a fraction of a second) is beyond reach.
"""

import _signal  # type: ignore[import-not-found]  # `signal` without the enumerations that it builds first
import os


def main() -> None:
    """The command. While the rest is imported, and when the command is over, Ctrl-C ends the process at once."""
    usual = _signal.signal(_signal.SIGINT, _end)
    if usual is not _signal.default_int_handler:  # who started us wants it ignored
        _signal.signal(_signal.SIGINT, usual)
    import atexit

    # Python's last moments would take the handler away, and the signal would kill what has done all it had to; of what
    # is called at the end this comes last.
    atexit.register(_signal.signal, _signal.SIGINT, _signal.SIG_IGN)
    from benchsuite.cli.app import main as run

    try:
        _signal.signal(_signal.SIGINT, usual)
        run()  # ends with SystemExit
    except KeyboardInterrupt:
        os._exit(130)
    finally:
        if usual is _signal.default_int_handler:
            _signal.signal(_signal.SIGINT, _end)


def _end(*_: object) -> None:
    os._exit(130)
