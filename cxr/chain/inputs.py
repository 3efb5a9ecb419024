"""What a notebook's result depends on: parameters, code, data and what earlier notebooks wrote."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxr.chain.manifest import Hashes, damaged
from cxr.chain.notebooks import DATA_DIR, Notebook
from cxr.chain.usage import code_digest
from cxr.errors import DataError
from cxr.files import sha256, times_stay
from cxr.params import Value
from cxr.rundir import locate

_FOLD = "{fold}"


def dependencies(
    notebook: Notebook, values: Mapping[str, Value], root: Path, hashes: Hashes
) -> dict[str, Any]:
    """What the result of a notebook depends on, as it is now.

    Parameters marked `machine` do not count. A file that a parameter names counts by its content. Of the
    data folder the tables count by their content, and the images by their names, sizes and times: they
    may be 192 GB.

    Args:
        notebook: The notebook.
        values: A value for every parameter it declares.
        root: Folder of the run.
        hashes: Of this run.

    Returns:
        A JSON-able part of the manifest.
    """
    parameters, inputs = {}, {artefact: hashes.digest(root / artefact) for artefact in notebook.reads}
    for name, declared in notebook.parameters.items():
        if declared.machine:
            continue
        parameters[name] = _plain(values[name])
        for path in _named_files(values[name]):
            inputs[f"{name}: {path}"] = hashes.of(path)
    if DATA_DIR in notebook.parameters:
        inputs |= _data(notebook, locate(str(values[DATA_DIR])), root, hashes)
    return {
        "notebook": notebook.name,
        "parameters": parameters,
        "notebook_sha256": sha256(notebook.path),
        "package_sha256": code_digest(notebook.path),
        "inputs": inputs,
    }


def damaged_input(notebook: Notebook, root: Path, hashes: Hashes) -> str:
    """The first file a notebook reads that is not what another notebook wrote; empty where all are.

    Every such file is read, also the images.
    """
    for artefact in notebook.reads:
        writer, _, inside = artefact.partition("/")
        if file := damaged(root / writer, inside, hashes):
            return f"{writer}/{file}"
    return ""


def damage(file: str, root: Path) -> DataError:
    """The error for an input that is not what was written."""
    writer = file.split("/")[0]
    what = "is not what" if (root / file).exists() else "is missing, though"
    return DataError(
        f"{root / file}: {what} notebook {writer} wrote{'' if what == 'is not what' else ' it'}: damaged or "
        f"changed since. --from {writer[:2]} makes it again; to use it as it is, delete "
        f"{root / writer / 'manifest.json'}"
    )


def _data(notebook: Notebook, data_dir: Path, root: Path, hashes: Hashes) -> dict[str, str]:
    """Hashes of what a notebook reads of the data folder; of all in it where it does not say."""
    if not notebook.data:
        return {DATA_DIR: _listing_digest(data_dir, root)}
    found = {}
    for name in notebook.data:
        path = data_dir / name
        found[f"{DATA_DIR}: {name}"] = (
            _listing_digest(path, root) if name.endswith("/") else hashes.digest(path)
        )
    return found


def _listing_digest(folder: Path, root: Path) -> str:
    """Hash of names, sizes and times below a folder too large to read, a run's own folder left out."""
    lines = []
    timed = not folder.is_dir() or times_stay(folder)
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if Path(parent, name) != root)
        for name in sorted(names):
            path = os.path.join(parent, name)
            relative = os.path.relpath(path, folder)
            try:
                status = os.stat(path)
            except OSError:  # a link to nowhere or in a circle, or deleted since it was listed
                lines.append(f"{relative} missing")
                continue
            lines.append(f"{relative} {status.st_size} {status.st_mtime_ns if timed else 0}")
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()


def _plain(value: Value) -> Value:
    """A value with the files it names written in one way: from the root, without a trailing slash."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, str) and _named_files(value):
        return os.path.normpath(locate(value))
    return value


def _named_files(value: Value) -> list[Path]:
    """The files that a parameter's value names, one in a list or one for each fold included."""
    if isinstance(value, list):
        return [path for item in value for path in _named_files(item)]
    if not isinstance(value, str) or not value:
        return []
    try:
        path = locate(value)
        if _FOLD not in value:
            return [path] if path.is_file() else []
        before, *after = str(path).split(_FOLD)
        each = re.compile(re.escape(before) + r"(\d+)" + r"\1".join(map(re.escape, after)))
        found = glob.iglob("*".join(glob.escape(part) for part in (before, *after)))
        return sorted(Path(p) for p in found if each.fullmatch(p) and os.path.isfile(p))
    except (OSError, ValueError):  # no path: too long, or with a zero byte
        return []
