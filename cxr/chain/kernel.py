"""Execute one notebook in a kernel of its own, and end it cleanly whatever stops the run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import TextIOBase
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, TextIO

import papermill
import psutil
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from cxr import errors
from cxr.chain.notebooks import Notebook
from cxr.errors import CxrError, RunError
from cxr.files import lives, machine, replacing
from cxr.params import Value

_PREFIX = "cxr-kernel-"
_SECONDS_TO_END = 5.0
"""A kernel that is asked to end has so long; then it is ended."""


class _LocalKernelManager(AsyncKernelManager):
    """Talks to the kernel through files of this user, not through ports open to the machine.

    What the kernel program itself says (of sockets, of its own end) is no word to a user; what a
    notebook's cells say takes another way.
    """

    transport = "ipc"
    process: ClassVar[int | None] = None
    """The kernel that is running, for a signal's handler; a run has one at a time."""

    async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
        """Start the kernel with its own standard streams closed off.

        Its sockets and its connection file get a folder of their own: by default the sockets lie in the
        working directory under fixed names, where two runs at once would talk to each other's kernels.
        """
        prefix = f"{_PREFIX}{machine()}-{os.getpid()}-"
        self._sockets = tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
        self.ip = str(Path(self._sockets.name) / "kernel")
        self.connection_file = str(Path(self._sockets.name) / "connection.json")
        await super().start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
        _LocalKernelManager.process = getattr(self.provisioner, "pid", None)

    async def cleanup_resources(self, restart: bool = False) -> None:  # type: ignore[override]
        """Remove the folder of the sockets as well."""
        await super().cleanup_resources(restart=restart)
        _LocalKernelManager.process = None
        if not restart:
            self._sockets.cleanup()


def sweep_sockets() -> None:
    """Remove what kernels of runs that were killed left in the folder for temporary files."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}{machine()}-*"):
        process = folder.name.removeprefix(f"{_PREFIX}{machine()}-").split("-")[0]
        if process.isdecimal() and not lives(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


def execute(
    notebook: Notebook, values: Mapping[str, Value], folder: Path, log: TextIO | TextIOBase | None = None
) -> float:
    """Execute a notebook and keep its executed copy.

    Args:
        notebook: The notebook.
        values: A value for every parameter it declares.
        folder: Where the copy goes: `NAME.ipynb`, or `NAME.failed.ipynb` as far as it came.
        log: Receives what it writes to standard error while it runs.

    Returns:
        The most memory that it and its children held, in MB.

    Raises:
        CxrError: The notebook's own error where it raised a named one that is the user's to mend.
        RunError: It failed otherwise, or its process ended.
        KeyboardInterrupt: It was interrupted.
    """
    # Two spinning OpenMP threads beside another busy process can be twenty times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with _peak_memory() as peak_mb, _ending_cleanly(), replacing(folder / f"{notebook.name}.ipynb") as copy:
        try:
            document = papermill.execute_notebook(
                notebook.document,
                copy,
                parameters={name: values[name] for name in notebook.parameters},
                progress_bar=False,
                stderr_file=log,
                kernel_manager_class=_LocalKernelManager,
            )
        except PapermillExecutionError as error:
            failed = folder / f"{notebook.name}.failed.ipynb"
            os.replace(copy, failed)
            raise _failure(notebook, error, failed) from error
        except DeadKernelError as error:
            raise RunError(
                f"{notebook.name}: its process ended in the middle of the work, most often for want of "
                f"memory ({peak_mb[0]:.0f} MB at the most before); the same command goes on from there"
            ) from error
        _check_complete(notebook, document)
    return peak_mb[0]


def _failure(notebook: Notebook, error: PapermillExecutionError, failed: Path) -> BaseException:
    """What to raise for a notebook's failure: its own named error where it has one."""
    if error.ename == "KeyboardInterrupt":
        return KeyboardInterrupt()
    where = f"{notebook.name} cell {error.exec_count}"
    kind = getattr(errors, error.ename, None)
    if isinstance(kind, type) and issubclass(kind, CxrError) and kind is not errors.DicomReadError:
        text = f"{where}: {error.evalue}"
        if kind.exit_code == 2 or kind in (errors.DiskError, errors.PausedError):
            return kind(text)
    return RunError(f"{where}: {error.ename}: {error.evalue} (the notebook as far as it came: {failed})")


def _check_complete(notebook: Notebook, document: NotebookNode) -> None:
    """An interrupted notebook comes back without an error, so look at each cell."""
    for cell in document.cells:
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None:
            raise KeyboardInterrupt(f"{notebook.name} was interrupted")


@contextmanager
def _ending_cleanly() -> Iterator[None]:
    """Pass a signal on to the kernel, and act on it here once the kernel has ended.

    An exception raised by a signal's handler in the middle of the notebook client's event loop ends now
    and then in a traceback of the client.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    timers: list[threading.Timer] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        kernel = _LocalKernelManager.process
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if kernel is not None and arrived:
                os.killpg(kernel, signal.SIGKILL)  # asked a second time
            elif kernel is not None:
                os.kill(kernel, signal.SIGINT)
        if not arrived:
            # An idle kernel passes over the request.
            timers.append(threading.Timer(_SECONDS_TO_END, _end_kernel))
            timers[0].daemon = True
            timers[0].start()
        arrived.append(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in before.items() if callable(handler)}
    for number in before:
        signal.signal(number, pass_on)
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
        if arrived:
            handler = before[signal.Signals(arrived[0])]
            assert callable(handler)
            handler(arrived[0], None)


def _end_kernel() -> None:
    kernel = _LocalKernelManager.process
    if kernel is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(kernel, signal.SIGKILL)


@contextmanager
def _peak_memory() -> Iterator[list[float]]:
    """Largest resident memory in MB of all child processes together, sampled twice a second."""
    peak, stop = [0.0], threading.Event()

    def watch() -> None:
        me = psutil.Process()
        while not stop.wait(0.5):
            total = 0
            for child in me.children(recursive=True):
                try:
                    total += child.memory_info().rss
                except psutil.Error:
                    continue
            peak[0] = max(peak[0], total / 2**20)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        stop.set()
        watcher.join()
