"""One run's folder: where a notebook writes, and where it finds what earlier notebooks wrote.

A notebook names artefacts as `schema` does (`"04_split/consensus.csv"`). It may read any of
them and write only those in its own folder; both rules are held here.
"""

from __future__ import annotations

import builtins
import fcntl
import html
import json
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from cxr import params
from cxr.errors import DataError, RunError
from cxr.files import replacing, write_text
from cxr.schema import IMAGE_ID

logger = logging.getLogger("cxr")

PARAMETERS = "parameters.yaml"
"""File in a run's folder with the parameters of its last headless execution."""

CAPTION_KEY = "Description"
"""PNG text field that carries a figure's caption to the report."""


class Figure(Protocol):
    """What `RunDir.figure` needs of a figure; matplotlib's has it."""

    def savefig(self, fname: Path, *, metadata: dict[str, str], **options: Any) -> None:
        """Write the figure to a file, with text fields."""


def _show_log_in_a_notebook() -> None:
    """Let the package's messages be seen in a kernel, where nobody has set up logging."""
    if hasattr(builtins, "__IPYTHON__") and not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


def project_root(start: Path | None = None) -> Path:
    """Nearest folder at or above `start` that holds `params/` and `notebooks/`, else `start`.

    A notebook opened in JupyterLab runs in its own folder and a headless one in the
    caller's; relative paths must mean the same in both.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "params").is_dir() and (folder / "notebooks").is_dir():
            return folder
    return start


def locate(path: str | Path) -> Path:
    """An absolute path: `~` expanded, a relative one taken from the project's root."""
    return project_root() / Path(path).expanduser()


def data_dir_of(root: Path) -> Path:
    """Data folder that a run was made from, as its parameters say.

    Raises:
        DataError: The folder is no run.
    """
    path = root / PARAMETERS
    if not path.is_file():
        raise DataError(f"{root}: no run; {PARAMETERS} is not in it")
    return locate(str(params.read_file(path)["data_dir"]))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder for this process, so that no other run works in it; made if need be.

    The lock goes with the process, however it ends.

    Raises:
        RunError: Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RunError(
                f"{folder}: another run is working in this folder ({file.read().strip() or 'unknown'}); "
                "wait for it or choose another folder"
            ) from None
        except OSError as error:
            # Some network file systems have no locks.
            logger.warning("%s: cannot be locked (%s); make sure that only one run works here", folder, error)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON object, indented, complete or not at all."""
    write_text(path, json.dumps(data, indent=2, default=_plain) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        DataError: The file holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of the text's encoding, or of JSON
        raise DataError(f"{path}: expected JSON, got something else ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, got a {type(content).__name__}")
    return content


def read_table(path: Path) -> pd.DataFrame:
    """Read a table that a notebook wrote; image ids stay text, `007` and `NA` included."""
    others = [column for column in pd.read_csv(path, nrows=0).columns if column != IMAGE_ID]
    empty = {column: [""] for column in others}
    return pd.read_csv(path, dtype={IMAGE_ID: str}, keep_default_na=False, na_values=empty)


def as_markdown(text: str) -> str:
    """A text from data so that Markdown shows it as it is: no markup, no mathematics, no HTML, one line."""
    plain = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|~$])", r"\\\1", html.escape(plain, quote=False))


def _plain(value: Any) -> Any:
    """NumPy scalars and arrays as Python's own, paths as text."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in a JSON file")


class RunDir:
    """The folder of one run, seen from one notebook.

    Args:
        run_dir: Folder of the run, for example `outputs/demo`; relative to the project's root.
        notebook: Name of the notebook, for example `02_preprocess`; its folder is created.
    """

    def __init__(self, run_dir: str | Path, notebook: str) -> None:
        self.root = locate(run_dir)
        self.notebook = notebook
        self.folder = self.root / notebook
        self.folder.mkdir(parents=True, exist_ok=True)
        _show_log_in_a_notebook()

    def has(self, artefact: str) -> bool:
        """Whether an artefact is there."""
        return (self.root / artefact).exists()

    def input(self, artefact: str) -> Path:
        """Path of an artefact that an earlier notebook wrote.

        Raises:
            DataError: It is not there; the message names the notebook that writes it.
        """
        path = self.root / artefact
        if not path.exists():
            writer = artefact.split("/")[0]
            raise DataError(f"{path}: not found; notebook {writer} writes it, so run that one first")
        return path

    def output(self, artefact: str) -> Path:
        """Path to write an artefact to.

        Raises:
            DataError: The artefact belongs to another notebook's folder.
        """
        if artefact.split("/")[0] != self.notebook:
            raise DataError(f"{artefact}: {self.notebook} writes only to its own folder")
        path = self.root / artefact
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def read_csv(self, artefact: str) -> pd.DataFrame:
        """Read a table that an earlier notebook wrote, see `read_table`.

        Raises:
            DataError: It is not there; the message names the notebook that writes it.
        """
        return read_table(self.input(artefact))

    def write_csv(self, table: pd.DataFrame, artefact: str) -> Path:
        """Write a table without its index, complete or not at all."""
        path = self.output(artefact)
        with replacing(path) as temporary:
            table.to_csv(temporary, index=False)
        return path

    def write_json(self, data: dict[str, Any], artefact: str) -> Path:
        """Write a JSON object, complete or not at all."""
        path = self.output(artefact)
        write_json(path, data)
        return path

    def figure(self, figure: Figure, name: str, caption: str) -> Figure:
        """Save a figure as `figures/NAME.png` with its caption inside, and hand it back to be shown."""
        path = self.folder / "figures" / f"{name}.png"
        with replacing(path) as temporary:
            figure.savefig(temporary, metadata={CAPTION_KEY: caption}, dpi=100, bbox_inches="tight")
        return figure

    def progress(self, what: str) -> Callable[[int, int], None]:
        """A callable `(done, total)` that shows rate and time left, see `progress_printer`."""
        return progress_printer(what)


def progress_printer(what: str, *, every_s: float | None = None) -> Callable[[int, int], None]:
    """A callable `(done, total)` that shows progress with rate and time left.

    On a terminal one line is rewritten; elsewhere (a log, a notebook) a plain line comes
    every `every_s` seconds (10 by default), so that logs stay readable.

    Args:
        what: The things counted, in the plural.
        every_s: Seconds between two lines.
    """
    terminal = sys.stderr.isatty()
    pause_s = every_s if every_s is not None else (0.2 if terminal else 10.0)
    first = start = last = None

    def show(done: int, total: int) -> None:
        nonlocal first, start, last
        now = time.monotonic()
        if start is None:
            # What an earlier run had finished is there at once and says nothing about the rate.
            first, start, last = done, now, now
        elif done < total and now - last < pause_s:
            return
        last = now
        line = f"{done}/{total} {what}"
        if done > first and now > start:
            rate = (done - first) / (now - start)
            line += f", {rate:.1f}/s, {_clock((total - done) / rate)} left"
        if terminal:
            print(f"\r\033[K{line}", end="\n" if done >= total else "", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    return show


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
