"""A whole run in seconds: `cxr run` in a fork of a process that has all modules loaded.

The command, the runner, the notebooks' code, the processes that read files, training and writing are the
real ones. Not so: a notebook's cells run in the process of the run and not in a Jupyter kernel of their own,
Python does not start anew, pictures are one white pixel, headers and features are taken in threads, and the
package's code is looked at once. `tests/test_chain.py` kills real kernels.
"""

from __future__ import annotations

import atexit
import os
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import joblib
import matplotlib
import nbformat
import pandas as pd
import torch
from matplotlib.figure import Figure
from PIL import Image, PngImagePlugin

from cxr import annotations, chain, cli, metrics, schema
from cxr.chain import inputs, kernel, runner, usage
from cxr.files import replacing

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "image_size": 96, "detector_image_size": 64, "folds": 3, "epochs": 1, "images_per_epoch": 4,
    "resamples": 10, "max_rounds": 5, "gallery_images": 1, "example_images": 1,
}  # fmt: skip


def _execute(notebook: Any, values: Mapping[str, Any], folder: Path, log: Any = None) -> float:
    """Stands in for `kernel.execute`."""
    cells = [cell for cell in notebook.document.cells if cell.cell_type == "code"]
    names: dict[str, Any] = {"__name__": "__main__", "display": lambda *shown, **options: None}
    with replacing(folder / f"{notebook.name}.ipynb") as copy:
        for number, cell in enumerate(cells, start=1):
            try:
                exec(compile(cell.source, f"{notebook.name} cell {number}", "exec"), names)
            except Exception as error:
                failed = folder / f"{notebook.name}.failed.ipynb"
                nbformat.write(notebook.document, copy)
                os.replace(copy, failed)
                said = SimpleNamespace(ename=type(error).__name__, evalue=str(error), exec_count=number)
                raise kernel._failure(notebook, said, failed) from error  # type: ignore[arg-type]
            if "parameters" in cell.metadata.get("tags", ()):
                names.update({name: values[name] for name in notebook.parameters})
        nbformat.write(notebook.document, copy)
    return 0.0


def _one_pixel(self: Figure, name: Any, *, metadata: Mapping[str, str] | None = None, **options: Any) -> None:
    about = PngImagePlugin.PngInfo()
    for key, text in (metadata or {}).items():
        about.add_itxt(key, text)
    Image.new("L", (1, 1), 255).save(name, "PNG", pnginfo=about)


def prepare() -> None:
    """Load all that a run needs, once, before the first fork; start no thread and call no backward pass."""
    matplotlib.use("agg")
    torch.set_num_threads(1)
    joblib.parallel_config("threading")
    for notebook in chain.read_notebooks():
        for module in _modules(notebook):
            __import__(module)
    inputs.code_digest = cache(usage.code_digest)
    for notebook in chain.read_notebooks():
        inputs.code_digest(notebook.path)
    _load_compiled()
    runner.execute = _execute
    Figure.savefig = _one_pixel  # type: ignore[assignment,method-assign]


def _load_compiled() -> None:
    """What numba has compiled is loaded when it is first called, which takes a second."""
    rows = [("a", "Nodule/Mass", 8, f"R{k}", 1.0, 1.0, 9.0, 9.0) for k in range(3)]
    table = pd.DataFrame(rows, columns=schema.ANNOTATION_COLUMNS)
    truth = annotations.fuse_readers(table)
    found = pd.DataFrame([("a", 8, 0.5, 1.0, 1.0, 9.0, 9.0)], columns=schema.DETECTION_COLUMNS)
    metrics.scorecard(found, truth, resamples=2)


def _modules(notebook: Any) -> list[str]:
    import ast

    found = []
    for cell in notebook.document.cells:
        for node in ast.walk(ast.parse(cell.source)) if cell.cell_type == "code" else ():
            if isinstance(node, ast.Import):
                found += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.append(node.module)
    return found


@dataclass(frozen=True)
class Started:
    """A command under way."""

    process: int
    log: Path

    def said(self) -> str:
        """What it has said so far."""
        return self.log.read_text(errors="replace")

    def ended(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs. The status is told once."""
        process, status = os.waitpid(self.process, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if process else None

    def wait(self, seconds: float = 600.0) -> int:
        """Its exit status."""
        until = time.monotonic() + seconds
        while (status := self.ended()) is None:
            if time.monotonic() > until:
                os.killpg(self.process, signal.SIGKILL)
                os.waitpid(self.process, 0)
                raise AssertionError(f"still running after {seconds} s: {self.said()[-2000:]}")
            time.sleep(0.01)
        return status


def start(arguments: list[str], work: Path, before: Callable[[], object] = lambda: None) -> Started:
    """Begin `cxr ARGUMENTS` in a session of its own.

    Args:
        arguments: As on the command line.
        work: Folder for its log and its temporary files.
        before: Called in the new process first: sets limits, or stands in for a broken system.
    """
    (work / "tmp").mkdir(parents=True, exist_ok=True)
    started = work / "log"
    started.write_text("")
    process = os.fork()
    if process:
        return Started(process, started)
    status = 1
    try:
        os.setsid()
        log = os.open(started, os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2), os.close(log)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(n), "w", buffering=1) for n in (1, 2))
        os.environ["TMPDIR"], tempfile.tempdir = str(work / "tmp"), None
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["cxr", *arguments]
        before()
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        for number in (signal.SIGINT, signal.SIGTERM):  # from here on Python itself is ending
            signal.signal(number, signal.SIG_IGN)
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def run(arguments: list[str], work: Path, before: Callable[[], object] = lambda: None) -> tuple[int, str]:
    """Exit status and words of a command."""
    started = start(arguments, work, before)
    return started.wait(), started.said()


def limit(what: int, value: int) -> Callable[[], None]:
    """For `before`: a limit of the system."""
    return lambda: resource.setrlimit(what, (value, value))


def failure(said: str) -> str:
    """The last line of a command that failed, which has to be the one of `cxr`.

    Raises:
        AssertionError: It ended otherwise, or with a traceback.
    """
    lines = said.strip().splitlines() or [""]
    assert "Traceback" not in said and lines[-1].startswith("cxr: "), said[-3000:]
    assert "unexpected" not in lines[-1], lines[-1]
    return lines[-1]
