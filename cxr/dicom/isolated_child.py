"""The child's side of `cxr.dicom.isolated`: read files by name until the parent is gone."""

from __future__ import annotations

import json
import resource
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import cv2

from cxr.dicom import reasons
from cxr.dicom.radiograph import load_radiograph
from cxr.errors import DicomReadError, printable

_GRACE_SECONDS = 5.0


def main(descriptor: int, max_bytes: int) -> int:
    """Serve one connection; return when it closes."""
    # Ctrl-C is the parent's affair; it closes the connection when it is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Some systems have no such limit, or a lower one that may not be raised.
    for limit, value in ((resource.RLIMIT_AS, max_bytes), (resource.RLIMIT_CORE, 0)):
        with suppress(ValueError, OSError):
            resource.setrlimit(limit, (value, value))
    cv2.setNumThreads(1)
    connection = Connection(descriptor)
    try:
        connection.send_bytes(b"ready")
        while True:
            name, longest_side, seconds = json.loads(connection.recv_bytes())
            # The parent ends a reader that takes too long. One whose parent is gone ends itself.
            signal.setitimer(signal.ITIMER_REAL, seconds + _GRACE_SECONDS)
            _answer(connection, Path(name), longest_side)
            signal.setitimer(signal.ITIMER_REAL, 0)
    except (EOFError, OSError):
        return 0


def _answer(connection: Connection, path: Path, longest_side: int | None) -> None:
    try:
        radiograph = load_radiograph(path, longest_side=longest_side)
    except DicomReadError as error:
        connection.send_bytes(json.dumps({"reason": error.reason, "message": str(error)}).encode())
        return
    except MemoryError:
        text = {
            "reason": reasons.OUT_OF_MEMORY,
            "message": f"{printable(path.name)}: not enough memory to read it",
        }
        connection.send_bytes(json.dumps(text).encode())
        return
    except Exception as error:
        # A damaged file found a way that load_radiograph does not name: still that file's failure.
        text = {
            "reason": reasons.DECODE_FAILED,
            "message": f"{printable(path.name)}: cannot be read ({type(error).__name__})",
        }
        connection.send_bytes(json.dumps(text).encode())
        return
    answer = {
        "shape": radiograph.pixels.shape,
        "original_size": radiograph.original_size,
        "header": radiograph.header,
    }
    connection.send_bytes(json.dumps(answer).encode())
    connection.send_bytes(radiograph.pixels.tobytes())


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
