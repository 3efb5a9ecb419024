"""What a notebook left, whether it still stands, and whether it is what was asked for.

The manifest of a finished notebook holds what its result depends on and the hash of each file it
left. It is written last of all, so it marks the notebook as done; a seal over its own content tells a
damaged one, which counts as none.

What is compared when: a look at a finished notebook compares every file of up to 32 MiB with its
recorded hash. Larger ones (shards of images, checkpoints) are taken as they are while size and time
are as recorded, and read whole before a notebook starts that reads them, once a run.
"""

from __future__ import annotations

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

from cxr.chain.usage import PACKAGE
from cxr.errors import DataError
from cxr.files import sha256
from cxr.rundir import read_json, write_json

MANIFEST = "manifest.json"
LARGE_BYTES = 32 * 2**20
"""Larger files are read only before they are used, or when their size or time has changed."""

_SEAL = "seal"
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


class Hashes:
    """Hashes of files, each file read once in a run as long as nobody touches it.

    A new run starts with a new one: damage that leaves size and time alone is found by reading only.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], str] = {}

    def of(self, path: Path) -> str:
        """SHA-256 of a file's content."""
        key = _identity(path)
        if key not in self._known:
            self._known[key] = sha256(path)
        return self._known[key]

    def has(self, path: Path) -> bool:
        """Whether the file was read already."""
        return _identity(path) in self._known

    def as_recorded(self, path: Path, record: Mapping[str, Any], *, whole: bool = False) -> bool:
        """Whether a file is what a manifest recorded of it.

        Args:
            path: The file.
            record: Its entry in a manifest's `outputs`.
            whole: Also read a large file whose size and time are as recorded.
        """
        try:
            status = path.stat()
            if not path.is_file() or status.st_size != record["bytes"]:
                return False
            untouched = status.st_mtime_ns == record["mtime_ns"]
            if untouched and not whole and status.st_size > LARGE_BYTES and not self.has(path):
                return True
            return self.of(path) == record["sha256"]
        except FileNotFoundError:
            return False

    def digest(self, path: Path) -> str:
        """Hash of a file's content, or of all files below a folder; empty where there is nothing."""
        if path.is_file():
            return self.of(path)
        if not path.is_dir():
            return ""
        recorded = _recorded_below(path)
        parts = []
        for file in sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")):
            record = recorded.get(file)
            known = record["sha256"] if record and self.as_recorded(file, record) else self.of(file)
            parts.append(f"{file.relative_to(path)} {known}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def write_manifest(
    folder: Path,
    depends: Mapping[str, Any],
    *,
    seconds: float,
    peak_memory_mb: float,
    hashes: Hashes | None = None,
) -> None:
    """Mark the notebook of `folder` as finished: record its outputs and how they came about.

    Args:
        folder: A notebook's folder in a run.
        depends: What its result depends on, see `inputs.dependencies`.
        seconds: How long it took.
        peak_memory_mb: Most memory it held, in MB.
        hashes: Of this run.
    """
    hashes = hashes or Hashes()
    manifest = {
        **depends,
        "outputs": {str(p.relative_to(folder)): _record(p, hashes) for p in _files_of(folder)},
        "versions": _versions(),
        "git_revision": _git_revision(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seconds": round(seconds, 1),
        "peak_memory_mb": round(peak_memory_mb),
    }
    write_json(folder / MANIFEST, {**manifest, _SEAL: _seal(manifest)})


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """A notebook's manifest, or None where it has not finished or the manifest is damaged."""
    try:
        manifest = read_json(folder / MANIFEST)
    except (OSError, DataError):
        return None
    return manifest if manifest.pop(_SEAL, None) == _seal(manifest) else None


def is_finished(folder: Path, wanted: Mapping[str, Any], hashes: Hashes) -> bool:
    """Whether `folder` holds a complete result of exactly what is wanted.

    Args:
        folder: A notebook's folder in a run.
        wanted: Parameters and hashes to compare with the manifest's.
        hashes: Of this run.
    """
    manifest = read_manifest(folder)
    if manifest is None or any(manifest.get(key) != value for key, value in wanted.items()):
        return False
    return all(hashes.as_recorded(folder / name, record) for name, record in manifest["outputs"].items())


def damaged(folder: Path, artefact: str, hashes: Hashes) -> str:
    """The first file of an artefact that is not what its notebook wrote; empty where all are.

    Args:
        folder: Folder of the notebook that writes it. Without a manifest in it nothing can be told.
        artefact: File or folder in it, relative to it.
        hashes: Of this run; every file is read whole.
    """
    outputs = (read_manifest(folder) or {"outputs": {}})["outputs"]
    for name, record in outputs.items():
        if (name == artefact or name.startswith(f"{artefact}/")) and not hashes.as_recorded(
            folder / name, record, whole=True
        ):
            return str(name)
    return ""


def _seal(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _identity(path: Path) -> tuple[Any, ...]:
    status = path.stat()
    return path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _recorded_below(path: Path) -> dict[Path, dict[str, Any]]:
    """Entries of the manifest above `path`; 18 GB of images need no second reading to be compared."""
    for folder in (path, *path.parents):
        if (folder / MANIFEST).is_file():
            manifest = read_manifest(folder)
            return {folder / name: record for name, record in manifest["outputs"].items()} if manifest else {}
    return {}


def _files_of(folder: Path) -> list[Path]:
    """All files a notebook left, but for its manifest and hidden ones (locks, temporary files)."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return sorted(
        p
        for p in files
        if p.name != MANIFEST and not any(s.startswith(".") for s in p.relative_to(folder).parts)
    )


def _record(path: Path, hashes: Hashes) -> dict[str, Any]:
    status = path.stat()
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": hashes.of(path)}


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
    command = ["git", "-C", os.fspath(PACKAGE.parent), "describe", "--always", "--dirty", "--abbrev=40"]
    command.append("--exclude=*")
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
