"""Run a command: signals, the log, and an exit status for every way to end.

Exit status: 0 done, 1 the work failed, 2 bad input or usage, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from types import FrameType

from cxr.cli import data, push, runs, use  # noqa: F401  (each adds its commands to the application)
from cxr.cli.application import app
from cxr.errors import CxrError
from cxr.files import named_error

_GOES_ON = "what is finished stays, the same command goes on from it"


def _stop(signal_number: int, frame: FrameType | None) -> None:
    """Turn SIGTERM into an exception, so that locks are let go and temporary files go away."""
    raise SystemExit(128 + signal_number)


def _not_lost(unraisable: sys.UnraisableHookArgs) -> None:
    """A signal that came where Python cannot raise, as in a destructor, comes once more, after it."""
    for kind, number in ((KeyboardInterrupt, signal.SIGINT), (SystemExit, signal.SIGTERM)):
        if isinstance(unraisable.exc_value, kind):
            again = threading.Timer(0.05, os.kill, [os.getpid(), number])
            again.daemon = True
            again.start()
            return
    sys.__unraisablehook__(unraisable)


def main() -> None:
    """Entry point; turns named errors into one line and an exit status."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(message)s")
    logging.getLogger("cxr").setLevel(logging.DEBUG if debug else logging.INFO)
    signal.signal(signal.SIGTERM, _stop)
    sys.unraisablehook = _not_lost
    try:
        app(args=arguments)
    except KeyboardInterrupt:
        _fail(f"interrupted; {_GOES_ON}", 130)
    except SystemExit as end:
        if end.code == 130:
            _fail(f"interrupted; {_GOES_ON}", 130)
        if end.code == 128 + signal.SIGTERM:
            _fail(f"terminated; {_GOES_ON}", 128 + signal.SIGTERM)
        raise
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, OSError):
            error = named_error(error)
        if isinstance(error, CxrError):
            _fail(f"{type(error).__name__}: {error}", error.exit_code)
        if isinstance(error, MemoryError) or _lacks_memory(error):
            _fail("out of memory; let fewer processes work, or give smaller images or batches", 1)
        _fail(f"unexpected {type(error).__name__}: {error} (--debug shows where)", 1)


def _lacks_memory(error: Exception) -> bool:
    """Whether a library could not be loaded for want of memory, in the words of the system's loader."""
    words = ("failed to map segment", "cannot allocate memory")
    return isinstance(error, ImportError) and any(said in str(error).lower() for said in words)


def _fail(message: str, status: int) -> None:
    print(f"cxr: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)
