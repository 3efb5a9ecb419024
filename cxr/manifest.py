"""What a notebook's result depends on, what it left, and whether both still stand.

The manifest of a finished notebook holds hashes of its parameters, its text, the modules it
imports, its inputs and its outputs. It is written last of all, so it marks the notebook as done.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxr.files import sha256
from cxr.rundir import write_json

MANIFEST = "manifest.json"
_PACKAGE = Path(__file__).resolve().parent
_VERSIONS_OF = (
    "cxr",
    "numpy",
    "pandas",
    "pydicom",
    "h5py",
    "xgboost",
    "torch",
    "torchvision",
    "pytorch-lightning",
)


def dependencies(
    notebook: Path, parameters: Mapping[str, Any], artefacts: Mapping[str, Path], data_dir: Path | None
) -> dict[str, Any]:
    """What the result of a notebook depends on, as it is now.

    Args:
        notebook: The notebook's `.py` file.
        parameters: Values that can change its result.
        artefacts: Files and folders it reads, by name; one that is not there counts as empty.
        data_dir: Data folder it reads, if any. Its files may be too large to be read here, so
            their names, sizes and times stand for them.

    Returns:
        A JSON-able part of the manifest.
    """
    inputs = {name: digest(path) for name, path in artefacts.items()}
    if data_dir is not None:
        inputs["data_dir"] = _listing_digest(data_dir)
    return {
        "notebook": notebook.stem,
        "parameters": dict(parameters),
        "notebook_sha256": sha256(notebook),
        "package_sha256": _package_digest(notebook),
        "inputs": inputs,
    }


def write_manifest(
    folder: Path, depends: Mapping[str, Any], *, seconds: float, peak_memory_mb: float
) -> None:
    """Mark the notebook of `folder` as finished: record its outputs and how they came about."""
    manifest = {
        **depends,
        "outputs": {str(path.relative_to(folder)): _record(path) for path in _files_of(folder)},
        "versions": _versions(),
        "git_revision": _git_revision(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seconds": round(seconds, 1),
        "peak_memory_mb": round(peak_memory_mb),
    }
    write_json(folder / MANIFEST, manifest)


def is_finished(folder: Path, wanted: Mapping[str, Any]) -> bool:
    """Whether `folder` holds a complete result of exactly what is wanted.

    Args:
        folder: A notebook's folder in a run.
        wanted: Parameters and hashes to compare with the manifest's.
    """
    manifest = read_manifest(folder)
    if manifest is None or any(manifest.get(key) != value for key, value in wanted.items()):
        return False
    for name, recorded in manifest["outputs"].items():
        path = folder / name
        if not path.is_file():
            return False
        if not _unchanged(path, recorded) and sha256(path) != recorded["sha256"]:
            return False
    return True


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """A notebook's manifest, or None where it has not finished."""
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def digest(path: Path) -> str:
    """Hash of a file's content, or of all files below a folder; empty where there is nothing."""
    if path.is_file():
        return sha256(path)
    if not path.is_dir():
        return ""
    known = _known_hashes(path)
    parts = []
    for file in sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")):
        parts.append(f"{file.relative_to(path)} {known.get(file) or sha256(file)}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _known_hashes(path: Path) -> dict[Path, str]:
    """Hashes from the manifest above `path` of files untouched since; 18 GB need no second reading."""
    for folder in (path, *path.parents):
        if (manifest := read_manifest(folder)) is not None:
            files = {folder / name: recorded for name, recorded in manifest["outputs"].items()}
            return {f: r["sha256"] for f, r in files.items() if f.is_file() and _unchanged(f, r)}
    return {}


def _unchanged(path: Path, recorded: Mapping[str, Any]) -> bool:
    status = path.stat()
    return status.st_size == recorded["bytes"] and status.st_mtime_ns == recorded["mtime_ns"]


def _listing_digest(folder: Path) -> str:
    """Hash of names, sizes and times below a folder too large to read (192 GB of radiographs)."""
    lines = []
    for parent, _, names in sorted(os.walk(folder)):
        for name in sorted(names):
            path = os.path.join(parent, name)
            relative = os.path.relpath(path, folder)
            try:
                status = os.stat(path)
            except FileNotFoundError:  # a link to nowhere, or deleted since it was listed
                lines.append(f"{relative} missing")
                continue
            lines.append(f"{relative} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _package_digest(notebook: Path) -> str:
    """Hash of the package's modules that a notebook imports, directly or through others.

    A changed figure must not train the detector again, so modules it never reaches do not count.
    """
    waiting, seen = [notebook], set()
    while waiting:
        for module in _imported_files(waiting.pop()):
            if module not in seen:
                seen.add(module)
                waiting.append(module)
    text = "\n".join(f"{path.relative_to(_PACKAGE)} {sha256(path)}" for path in sorted(seen))
    return hashlib.sha256(text.encode()).hexdigest()


def _imported_files(path: Path) -> set[Path]:
    """Files of this package that a Python file's import statements name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    files = set()
    for name in names:
        first, *rest = name.split(".")
        if first != _PACKAGE.name:
            continue
        base = _PACKAGE
        for part in rest:
            files.update(p for p in (base / "__init__.py",) if p.is_file())
            base = base / part
        files.update(p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file())
    return files


def _files_of(folder: Path) -> list[Path]:
    """All files a notebook left, but for its manifest and hidden ones (locks, temporary files)."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return sorted(
        p
        for p in files
        if p.name != MANIFEST and not any(s.startswith(".") for s in p.relative_to(folder).parts)
    )


def _record(path: Path) -> dict[str, Any]:
    status = path.stat()
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256(path)}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _VERSIONS_OF:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _git_revision() -> str:
    """Commit of the checkout the package lies in, or nothing outside of one."""
    command = [
        "git",
        "-C",
        str(_PACKAGE.parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
