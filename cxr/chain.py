"""The chain: execute the numbered notebooks headless, skip what is finished, resume what is not.

A notebook is finished when its manifest (`manifest`) says so; whatever differs from it makes the
notebook run again.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import jupytext
import papermill
import psutil
import yaml
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from cxr import errors, params, schema
from cxr.errors import CxrError, DataError, ParameterError, RunError
from cxr.files import replacing, write_text
from cxr.manifest import MANIFEST, dependencies, is_finished, write_manifest
from cxr.rundir import PARAMETERS, alone, locate

logger = logging.getLogger("cxr")

_PACKAGE = Path(__file__).resolve().parent
_MACHINE_PARAMETERS = {"run_dir", "jobs", "scheduler"}  # where and how fast, never what comes out


class _LocalKernelManager(AsyncKernelManager):
    """Talks to the kernel through files of this user, not through ports open to the machine.

    What the kernel program itself says (of sockets, of its own end) is no word to a user; what a
    notebook's cells say takes another way.
    """

    transport = "ipc"

    async def start_kernel(self, **options: Any) -> None:
        """Start the kernel with its own standard streams closed off.

        Its sockets get a folder of their own: by default they lie in the working directory under
        fixed names, where two runs at once would talk to each other's kernels.
        """
        self._sockets = tempfile.TemporaryDirectory(prefix="cxr-")
        self.ip = str(Path(self._sockets.name) / "kernel")
        await super().start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)


@dataclass(frozen=True)
class Notebook:
    """One notebook as its text declares it.

    Attributes:
        path: The `.py` file.
        document: The notebook, ready to execute.
        parameters: What its `parameters` cell declares.
        artefacts: Artefact names of `schema` that its code mentions.
    """

    path: Path
    document: NotebookNode = field(repr=False)
    parameters: dict[str, params.Declared] = field(repr=False)
    artefacts: tuple[str, ...] = field(repr=False)

    @property
    def name(self) -> str:
        """Name of the notebook and of its folder in a run, for example `04_split`."""
        return self.path.stem

    @property
    def reads(self) -> tuple[str, ...]:
        """Artefacts of other notebooks that this one may read."""
        return tuple(a for a in self.artefacts if not a.startswith(f"{self.name}/"))


def notebooks_folder() -> Path:
    """Where the notebooks are: beside the package in a clone, inside it once installed.

    Raises:
        DataError: They are in neither place.
    """
    for folder in (_PACKAGE.parent / "notebooks", _PACKAGE / "_notebooks"):
        if any(folder.glob("[0-9][0-9]_*.py")):
            return folder
    raise DataError(f"no notebooks beside {_PACKAGE} or in it; install the package from a clone")


def read_notebooks(folder: Path | None = None) -> list[Notebook]:
    """All notebooks of the chain, in order.

    Raises:
        ParameterError: A notebook has not exactly one cell tagged `parameters`.
    """
    return [_read_notebook(path) for path in sorted((folder or notebooks_folder()).glob("[0-9][0-9]_*.py"))]


def _read_notebook(path: Path) -> Notebook:
    document = jupytext.read(path)
    tagged = [cell.source for cell in document.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise ParameterError(f"{path.name}: expected one cell tagged parameters, found {len(tagged)}")
    code = "\n".join(cell.source for cell in document.cells if cell.cell_type == "code")
    mentioned = sorted(set(re.findall(r"\bschema\.([A-Z_]+)\b", code)))
    values = (getattr(schema, name, None) for name in mentioned)
    artefacts = tuple(v for v in values if isinstance(v, str) and re.match(r"\d\d_\w+/", v))
    return Notebook(path, document, params.declared_in_cell(tagged[0], path.stem), artefacts)


def load_parameters(
    path: str | Path, overrides: Iterable[str] = (), *, notebooks: Path | None = None
) -> dict[str, params.Value]:
    """Read a parameter file and check it against all notebooks.

    Args:
        path: Flat YAML file.
        overrides: `KEY=VALUE` texts that win over the file.
        notebooks: Folder of the notebooks; the project's own by default.

    Returns:
        A value for every parameter that a notebook declares.

    Raises:
        DataError: No such file.
        ParameterError: An unknown name, a wrong type, or a malformed file.
    """
    declared = params.merge_declared(notebook.parameters for notebook in read_notebooks(notebooks))
    return params.compose(params.read_file(path), overrides, declared, where=Path(path).name)


def run(
    values: Mapping[str, params.Value],
    *,
    first: str = "",
    last: str = "",
    force: bool = False,
    notebooks: Path | None = None,
    say: Callable[[str], None] = logger.info,
    notebook_log: TextIO | None = None,
) -> list[str]:
    """Execute the chain with checked parameters.

    Args:
        values: A value for every declared parameter, see `load_parameters`.
        first: First notebook to consider, by name or number (`06_detector`, `06` or `6`).
        last: Last notebook to consider, likewise.
        force: Execute them even when they are finished and unchanged.
        notebooks: Folder of the notebooks; the project's own by default.
        say: Receives one line at each step.
        notebook_log: Receives what the notebooks write to standard error while they run.

    Returns:
        Names of the notebooks that were executed; those already finished are left out.

    Raises:
        DataError: The data folder is missing.
        RunError: A notebook failed, or another run works on the same folder.
    """
    selected = _selected(read_notebooks(notebooks), first, last)
    data_dir, root = locate(str(values["data_dir"])), locate(str(values["run_dir"]))
    if not data_dir.is_dir():
        raise DataError(f"data_dir {data_dir}: no such folder; `cxr phantom DIR` makes a synthetic data set")
    executed = []
    with alone(root):
        used = {**values, "data_dir": str(data_dir), "run_dir": str(root)}  # good from any folder
        write_text(root / PARAMETERS, yaml.safe_dump(used, sort_keys=True))
        for position, notebook in enumerate(selected, start=1):
            label = f"[{position}/{len(selected)}] {notebook.name}"
            depends = _dependencies(notebook, values, root, data_dir)
            if not force and is_finished(root / notebook.name, depends):
                say(f"{label}: up to date")
                continue
            say(f"{label}: running")
            seconds, peak_mb = _execute(notebook, values, root / notebook.name, depends, notebook_log)
            executed.append(notebook.name)
            say(f"{label}: done in {seconds:.0f} s, peak memory {peak_mb:.0f} MB")
    return executed


def outdated(values: Mapping[str, params.Value], *, notebooks: Path | None = None) -> list[str]:
    """Names of the notebooks whose results are not those of these parameters and of their inputs as they are.

    Args:
        values: As for `run`.
        notebooks: Folder of the notebooks; the project's own by default.
    """
    data_dir, root = locate(str(values["data_dir"])), locate(str(values["run_dir"]))
    return [
        notebook.name
        for notebook in read_notebooks(notebooks)
        if not is_finished(root / notebook.name, _dependencies(notebook, values, root, data_dir))
    ]


def _selected(notebooks: list[Notebook], first: str, last: str) -> list[Notebook]:
    names = [notebook.name for notebook in notebooks]

    def position(wanted: str) -> int:
        stem = Path(wanted).stem
        for i, name in enumerate(names):
            if stem in (name, name.split("_")[0], name.split("_")[0].lstrip("0"), name.split("_", 1)[1]):
                return i
        raise ParameterError(f"no notebook {wanted!r}; there are {', '.join(names)}")

    start = position(first) if first else 0
    stop = position(last) if last else len(names) - 1
    if start > stop:
        raise ParameterError(f"--from {first} comes after --to {last}")
    return notebooks[start : stop + 1]


def _dependencies(
    notebook: Notebook, values: Mapping[str, params.Value], root: Path, data_dir: Path
) -> dict[str, Any]:
    parameters = {name: values[name] for name in notebook.parameters if name not in _MACHINE_PARAMETERS}
    inputs = {artefact: root / artefact for artefact in notebook.reads}
    for name, value in parameters.items():
        if isinstance(value, str) and "/" in value and locate(value).is_file():
            inputs[name] = locate(value)
    return dependencies(
        notebook.path, parameters, inputs, data_dir if "data_dir" in notebook.parameters else None
    )


def _execute(
    notebook: Notebook,
    values: Mapping[str, params.Value],
    folder: Path,
    depends: Mapping[str, Any],
    log: TextIO | None,
) -> tuple[float, float]:
    """Execute one notebook, keep its executed copy, and write its manifest last of all."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (folder / MANIFEST, folder / f"{notebook.name}.failed.ipynb"):
        stale.unlink(missing_ok=True)
    shutil.rmtree(folder / "figures", ignore_errors=True)
    # Two spinning OpenMP threads beside another busy process can be twenty times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    started_ns = _file_clock_ns(folder)
    start = time.monotonic()
    with _peak_memory() as peak_mb, replacing(folder / f"{notebook.name}.ipynb") as executed:
        try:
            document = papermill.execute_notebook(
                notebook.document,
                executed,
                parameters={name: values[name] for name in notebook.parameters},
                progress_bar=False,
                stderr_file=log,
                kernel_manager_class=_LocalKernelManager,
            )
        except PapermillExecutionError as error:
            failed = folder / f"{notebook.name}.failed.ipynb"
            os.replace(executed, failed)
            raise _failure(notebook, error, failed) from error
        except DeadKernelError as error:
            raise RunError(
                f"{notebook.name}: its process ended in the middle of the work, most often for want of "
                f"memory ({peak_mb[0]:.0f} MB at the most before); the same command goes on from there"
            ) from error
        _check_complete(notebook, document)
    seconds = time.monotonic() - start
    _clear_leftovers(folder, started_ns)
    write_manifest(folder, depends, seconds=seconds, peak_memory_mb=peak_mb[0])
    return seconds, peak_mb[0]


def _file_clock_ns(folder: Path) -> int:
    """Time by the clock that stamps the folder's files, which on a network drive is another machine's."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock") as stamp:
        return os.fstat(stamp.fileno()).st_mtime_ns


def _clear_leftovers(folder: Path, started_ns: int) -> None:
    """Remove the tables of an earlier execution that this one did not write again.

    A score must not outlive the truth it was made with. Subfolders stay: images and checkpoints are
    what a notebook goes on from.
    """
    for path in folder.iterdir():
        if path.is_file() and path.stat().st_mtime_ns < started_ns:
            path.unlink()


def _failure(notebook: Notebook, error: PapermillExecutionError, failed: Path) -> BaseException:
    """What to raise for a notebook's failure: its own named error where it has one."""
    if error.ename == "KeyboardInterrupt":
        return KeyboardInterrupt()
    where = f"{notebook.name} cell {error.exec_count}"
    kind = getattr(errors, error.ename, None)
    if (
        isinstance(kind, type)
        and issubclass(kind, CxrError)
        and kind.exit_code == 2
        and kind is not errors.DicomReadError
    ):
        return kind(f"{where}: {error.evalue}")
    return RunError(f"{where}: {error.ename}: {error.evalue} (the notebook as far as it came: {failed})")


def _check_complete(notebook: Notebook, document: NotebookNode) -> None:
    """An interrupted notebook comes back without an error, so look at each cell."""
    for cell in document.cells:
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None:
            raise KeyboardInterrupt(f"{notebook.name} was interrupted")


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
