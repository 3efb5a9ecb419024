"""Load radiographs in a child process, so that a decoder that aborts or hangs takes nobody along.

The child is started once and reads file after file. When a file ends it, the file is tried once
more, alone in a fresh child: only a file that ends a process twice is to blame. Messages are
JSON and raw pixels, nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

import cxr
from cxr.dicom import reasons
from cxr.dicom.radiograph import Radiograph
from cxr.errors import DicomReadError, RunError, printable

MAX_CHILD_BYTES = 3 << 30
"""Address space of a child. It is far above what the largest radiograph needs, and finite."""

_START_SECONDS = 120.0


class IsolatedReader:
    """`load_radiograph` in a child process, with a time limit.

    One file at a time: threads that share a reader wait for each other.
    """

    def __init__(self, *, seconds_per_file: float = 10.0) -> None:
        """Prepare a reader; the child starts with the first file.

        Args:
            seconds_per_file: A file that takes longer fails with `timeout`.
        """
        self.seconds_per_file = seconds_per_file
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._closed = False
        self._in_use = threading.Lock()

    def load(self, path: Path, *, longest_side: int | None = None) -> Radiograph:
        """Read one file; see `cxr.dicom.load_radiograph`.

        Raises:
            DicomReadError: As `load_radiograph`, and `crashed` or `timeout`.
            RunError: The child cannot be started, or the reader was closed meanwhile.
        """
        with self._in_use:
            try:
                return self._load(path, longest_side)
            except _ChildEnded:
                pass
            try:
                return self._load(path, longest_side)
            except _ChildEnded as ended:
                raise DicomReadError(
                    reasons.CRASHED,
                    f"{printable(path.name)}: reading it ended the reader process twice ({ended})",
                ) from None

    def close(self) -> None:
        """End the child; safe to call from another thread while a file is read."""
        self._closed = True
        child = self._child
        if child is not None:
            # A thread that waits for an answer wakes up at the end of the child. It would not if its
            # connection were closed under it, so that is left to the thread.
            child.kill()
        if self._in_use.acquire(timeout=5.0):
            self._kill()
            self._in_use.release()

    def __enter__(self) -> IsolatedReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _load(self, path: Path, longest_side: int | None) -> Radiograph:
        if self._child is None:
            self._start()
        connection = self._connection
        assert connection is not None
        try:
            request = [os.fspath(path), longest_side, self.seconds_per_file]
            connection.send_bytes(json.dumps(request).encode())
            if not connection.poll(self.seconds_per_file):
                self._kill()
                self._raise_if_closed()
                raise DicomReadError(
                    reasons.TIMEOUT, f"{printable(path.name)}: not read after {self.seconds_per_file:g} s"
                )
            answer = json.loads(connection.recv_bytes())
            if "reason" in answer:
                raise DicomReadError(answer["reason"], answer["message"])
            pixels = np.frombuffer(bytearray(connection.recv_bytes()), dtype=np.uint8)
        except (EOFError, OSError, ValueError):
            ended = self._kill()
            self._raise_if_closed()
            raise _ChildEnded(ended) from None
        rows, columns = answer["original_size"]
        return Radiograph(pixels.reshape(answer["shape"]), (rows, columns), answer["header"])

    def _start(self) -> None:
        self._raise_if_closed()
        ours, theirs = socket.socketpair()
        # The child finds the package where this process found it, installed or not.
        paths = [str(Path(cxr.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with theirs:
            self._child = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "cxr.dicom.isolated_child",
                    str(theirs.fileno()),
                    str(MAX_CHILD_BYTES),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(p for p in paths if p)},
            )
        self._connection = Connection(ours.detach())
        if self._closed:
            self._child.kill()
        try:
            ready = self._connection.poll(_START_SECONDS) and self._connection.recv_bytes() == b"ready"
        except (EOFError, OSError):
            ready = False
        if not ready:
            ended = self._kill()
            self._raise_if_closed()
            raise RunError(f"the reader process (python -m cxr.dicom.isolated_child) cannot start: {ended}")

    def _kill(self) -> str:
        """End the child and say how it ended."""
        child, connection = self._child, self._connection
        self._child = self._connection = None
        if connection is not None:
            connection.close()
        if child is None:
            return "ended"
        try:
            # A child that died by itself is about to be reaped; its own exit code is the one to tell.
            code = child.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            child.kill()
            code = child.wait()
        if code < 0:
            try:
                return f"signal {signal.Signals(-code).name}"
            except ValueError:
                return f"signal {-code}"
        return f"exit code {code}"

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise RunError("reading was stopped")


class _ChildEnded(Exception):
    """The child is gone; the text says how."""
