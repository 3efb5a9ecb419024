"""Run the chain: skip what is finished, make again what is damaged, resume what is not finished."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from io import TextIOBase
from pathlib import Path
from typing import Any, TextIO

import yaml

from cxr import params
from cxr.chain.inputs import damage, damaged_input, dependencies
from cxr.chain.kernel import execute, sweep_sockets
from cxr.chain.manifest import MANIFEST, Hashes, is_finished, write_manifest
from cxr.chain.notebooks import Notebook, read_notebooks, selected
from cxr.errors import DataError
from cxr.files import is_temporary, write_text
from cxr.rundir import PARAMETERS, alone, locate

logger = logging.getLogger("cxr")


def run(
    values: Mapping[str, params.Value],
    *,
    first: str = "",
    last: str = "",
    force: bool = False,
    notebooks: Path | None = None,
    say: Callable[[str], None] = logger.info,
    notebook_log: TextIO | TextIOBase | None = None,
) -> list[str]:
    """Execute the chain with checked parameters.

    Before a notebook starts, all that it reads of other notebooks is compared with what they wrote. What
    is damaged is made again where the notebook that writes it is among those to run.

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
        DataError: The data folder is missing, or an input is not what was written and its notebook is
            not among those to run.
        RunError: A notebook failed, or another run works on the same folder.
    """
    chain = selected(read_notebooks(notebooks), first, last)
    data_dir, root = locate(str(values["data_dir"])), locate(str(values["run_dir"]))
    if not data_dir.is_dir():
        raise DataError(f"data_dir {data_dir}: no such folder; `cxr phantom DIR` makes a synthetic data set")
    sweep_sockets()
    with alone(root):
        used = {**values, "data_dir": str(data_dir), "run_dir": str(root)}  # good from any folder
        write_text(root / PARAMETERS, yaml.safe_dump(used, sort_keys=True))
        return _Run(chain, values, root, force, say, notebook_log).go()


def outdated(values: Mapping[str, params.Value], *, notebooks: Path | None = None) -> list[str]:
    """Names of the notebooks whose results are not those of these parameters and of their inputs as they are.

    Args:
        values: As for `run`.
        notebooks: Folder of the notebooks; the project's own by default.
    """
    root, hashes = locate(str(values["run_dir"])), Hashes()
    return [
        notebook.name
        for notebook in read_notebooks(notebooks)
        if not is_finished(root / notebook.name, dependencies(notebook, values, root, hashes), hashes)
    ]


class _Run:
    """One call of `run`, whose arguments it takes."""

    def __init__(
        self,
        chain: list[Notebook],
        values: Mapping[str, params.Value],
        root: Path,
        force: bool,
        say: Callable[[str], None],
        log: TextIO | TextIOBase | None,
    ) -> None:
        self.chain, self.values, self.root, self.force, self.say, self.log = (
            chain,
            values,
            root,
            force,
            say,
            log,
        )
        self.names = [notebook.name for notebook in chain]
        self.hashes = Hashes()
        self.executed: list[str] = []

    def go(self) -> list[str]:
        """Execute what is not finished, in order."""
        self._refuse_damage()
        place = 0
        while place < len(self.chain):
            notebook, label = self.chain[place], f"[{place + 1}/{len(self.chain)}] {self.names[place]}"
            depends = dependencies(notebook, self.values, self.root, self.hashes)
            if self._is_finished(notebook, depends):
                self.say(f"{label}: up to date")
            elif file := damaged_input(notebook, self.root, self.hashes):
                writer = file.split("/")[0]
                if writer not in self.names or writer in self.executed:
                    raise damage(file, self.root)
                self.say(f"{label}: {file} is damaged or changed, so {writer} runs again first")
                place = self.names.index(writer)
                continue
            else:
                self.say(f"{label}: running")
                self._execute(notebook, depends, label)
            place += 1
        return self.executed

    def _is_finished(self, notebook: Notebook, depends: Mapping[str, Any]) -> bool:
        if self.force and notebook.name not in self.executed:
            return False
        return is_finished(self.root / notebook.name, depends, self.hashes)

    def _refuse_damage(self) -> None:
        """Stop before anything starts where damage lies in what no notebook of this run makes again."""
        for notebook in self.chain:
            depends = dependencies(notebook, self.values, self.root, self.hashes)
            if self._is_finished(notebook, depends):
                continue
            file = damaged_input(notebook, self.root, self.hashes)
            if not file:
                continue
            if file.split("/")[0] not in self.names:
                raise damage(file, self.root)
            self.say(f"{self.root / file}: damaged or changed since it was written, so it is made again")

    def _execute(self, notebook: Notebook, depends: Mapping[str, Any], label: str) -> None:
        """Execute one notebook and write its manifest last of all."""
        folder, start = self.root / notebook.name, time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        for stale in (folder / MANIFEST, folder / f"{notebook.name}.failed.ipynb"):
            stale.unlink(missing_ok=True)
        for leftover in filter(is_temporary, folder.iterdir()):  # of a killed run, maybe on another machine
            leftover.unlink(missing_ok=True)
        shutil.rmtree(folder / "figures", ignore_errors=True)
        before = _files_as_they_are(folder)
        peak_mb = execute(notebook, self.values, folder, self.log)
        _clear_leftovers(folder, before)
        seconds = time.monotonic() - start
        write_manifest(folder, depends, seconds=seconds, peak_memory_mb=peak_mb, hashes=self.hashes)
        self.executed.append(notebook.name)
        self.say(f"{label}: done in {seconds:.0f} s, peak memory {peak_mb:.0f} MB")


def _files_as_they_are(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """The files of a folder, each with what a new file under its name would not share."""
    states = {}
    for path in folder.iterdir():
        if path.is_file():
            status = path.stat()
            states[path] = status.st_ino, status.st_ctime_ns, status.st_size
    return states


def _clear_leftovers(folder: Path, before: Mapping[Path, tuple[int, int, int]]) -> None:
    """Remove the tables of an earlier execution that this one did not write again.

    A score must not outlive the truth it was made with. Subfolders stay: images and checkpoints are
    what a notebook goes on from. Times are not compared: a clock may jump.
    """
    for path, state in _files_as_they_are(folder).items():
        if before.get(path) == state:
            path.unlink()
