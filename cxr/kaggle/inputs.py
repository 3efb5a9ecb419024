"""What a kernel reads: found wherever Kaggle mounts it, checked, and given one path for all sessions.

Inputs are read-only and have been mounted in several ways: `<slug>`, `competitions/<slug>`,
`datasets/<owner>/<slug>` and, for the output of notebooks, `notebooks/<owner>/<slug>`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from cxr import schema
from cxr.chain import PARAMETERS
from cxr.detector.recipe import AUTO, PHANTOM, PUBLISHERS
from cxr.errors import DataError, ParameterError
from cxr.files import sha256, sidecar, write_text
from cxr.params import Value
from cxr.preprocess import find_images, image_id_of
from cxr.survey import sizes_of

INPUT = "/kaggle/input"
PATH_PARAMETERS = ("weights", "checkpoints", "oof_detections", "test_detections")
"""Parameters that name files; on Kaggle these lie in what is mounted."""

SAMPLE = "sample_submission.csv"
_FOLD = "{fold}"
_COPIES = (".png", ".jpg", ".jpeg")
_OWNED = ("datasets", "notebooks")
"""Folders in which inputs lie below the name of their owner."""


def find_input(root: Path, source: str) -> Path:
    """Folder of a competition, data set or notebook below Kaggle's input folder.

    Args:
        root: Kaggle's input folder.
        source: Its slug, or `owner/slug`, with or without a version.

    Raises:
        ParameterError: It is nowhere; the message lists what is mounted.
    """
    owner, slug = source.split("/")[:2] if "/" in source else ("*", source)
    places = (root / slug, root / "competitions" / slug)
    owned = (path for kind in _OWNED for path in sorted((root / kind).glob(f"{owner}/{slug}")))
    for folder in (*owned, *places) if "/" in source else (*places, *owned):
        if folder.is_dir():
            return folder
    raise ParameterError(f"{root}: no input {source!r}; mounted are {', '.join(_mounted(root)) or 'none'}")


def _mounted(root: Path) -> list[str]:
    """Slugs of all that is mounted."""
    found: list[str] = []
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        depth = {"competitions": "*", "datasets": "*/*", "notebooks": "*/*"}.get(folder.name)
        found += [path.name for path in sorted(folder.glob(depth))] if depth else [folder.name]
    return found


def check_paths(values: Mapping[str, Value], slugs: set[str]) -> None:
    """Refuse file parameters that no kernel could open, before anything is pushed.

    Args:
        values: Parameters of the kernel.
        slugs: Of all that it mounts.

    Raises:
        ParameterError: A path of this machine, one of an input that is not mounted, or weights from the
            internet, which a kernel does not have.
    """
    for name, path in _named(values):
        if name == "weights" and path == PHANTOM:
            raise ParameterError(
                "weights: a kernel carries the code alone, not weights from phantoms. Put their file into "
                f"a data set, mount it with --dataset OWNER/SLUG and give {INPUT}/SLUG/FILE.pth"
            )
        if name == "weights" and path in PUBLISHERS:
            raise ParameterError(
                f"weights: {path} downloads, and a kernel has no internet. Put the file into a data set, "
                f"mount it with --dataset OWNER/SLUG and give {INPUT}/SLUG/FILE.pth"
            )
        if not Path(path).is_relative_to(INPUT):
            raise ParameterError(
                f"{name}: {path} is no path on Kaggle; mount its data set with --dataset OWNER/SLUG and give "
                f"{INPUT}/SLUG/FILE"
            )
        if slugs.isdisjoint(Path(path).relative_to(INPUT).parts):
            raise ParameterError(
                f"{name}: {path} is in no data set that is mounted; --dataset OWNER/SLUG mounts one"
            )


def localise(
    values: Mapping[str, Value], root: Path, home: Path, *, folds: Sequence[int], say: Callable[[str], None]
) -> dict[str, Value]:
    """Find the files that parameters name, say size and hash of each, and give each a path that stays.

    A path is part of what tells one training from another, and mounts change from session to session.
    So a link of a fixed name stands for each file.

    Args:
        values: Parameters of the kernel; file parameters as `/kaggle/input/<slug>/...`.
        root: Kaggle's input folder here.
        home: Folder for the links.
        folds: Folds that `{fold}` in a path stands for.
        say: Receives a line for each file.

    Returns:
        The parameters with paths of links.

    Raises:
        ParameterError: An input is not mounted, or has no such file.
    """
    found: dict[str, Value] = {}
    for name, path in _named(values):
        for fold in folds if _FOLD in path else [0]:
            _link(name, path.replace(_FOLD, str(fold)), root, home, say)
        link = str(home / Path(path).relative_to(INPUT))
        if isinstance(values[name], list):
            links = found.setdefault(name, [])
            assert isinstance(links, list)
            links.append(link)
        else:
            found[name] = link
    return {**values, **found}


def _link(name: str, path: str, root: Path, home: Path, say: Callable[[str], None]) -> None:
    inside = Path(path).relative_to(INPUT)
    file = resolve(root, inside.parts)
    if not file.is_file():
        folder = file if file.is_dir() else file.parent
        there = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        raise ParameterError(f"{name}: {path}: no such file; there are {', '.join(there[:8]) or 'none'}")
    say(f"{name}: {file}, {file.stat().st_size / 1e6:.1f} MB, sha256 {sha256(file)}")
    link = home / inside
    link.parent.mkdir(parents=True, exist_ok=True)
    beside = [(sidecar(file), sidecar(link)), (file.with_suffix(".json"), link.with_suffix(".json"))]
    for source, target in ((file, link), *beside):  # its hash, and the record of a table of detections
        if source.is_file():
            target.unlink(missing_ok=True)
            target.symlink_to(source)


def resolve(root: Path, parts: Sequence[str]) -> Path:
    """A path below Kaggle's input folder, given in any of the ways of mounting, wherever it is mounted."""
    if (exact := root.joinpath(*parts)).exists():
        return exact
    if parts[0] in _OWNED and len(parts) > 2:
        return find_input(root, f"{parts[1]}/{parts[2]}").joinpath(*parts[3:])
    slug, *rest = parts[parts[0] == "competitions" :] or parts
    return find_input(root, slug).joinpath(*rest)


def _named(values: Mapping[str, Value]) -> list[tuple[str, str]]:
    """File parameters that are set, each with a path."""
    pairs = []
    for name in PATH_PARAMETERS:
        value = values.get(name, "")
        if name == "weights" and value == AUTO:  # what ships with the package is not in a kernel
            continue
        pairs += [(name, str(path)) for path in (value if isinstance(value, list) else [value]) if path]
    return pairs


def data_folder(root: Path, home: Path, *, competition: str, copies: str = "", train: bool = True) -> Path:
    """The competition's data folder, or one of its tables and a data set's copies of its images.

    Args:
        root: Kaggle's input folder.
        home: Folder to make where images and tables come from two inputs.
        competition: Slug of the competition.
        copies: Data set with `train/` and `test/` of PNG or JPEG copies, as `owner/slug`; empty for none.
        train: Whether training images and boxes are needed, too.

    Raises:
        ParameterError: An input is not mounted.
        DataError: A folder or table is missing.
    """
    base = find_input(root, competition)
    data = base
    if copies:
        images = _with_images(find_input(root, copies))
        data = home
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        for path in [*base.iterdir(), *images.iterdir()]:  # the competition's tables come first
            if path.name not in ("train", "test") or path.parent == images:
                link = home / path.name
                if not link.is_symlink():
                    link.symlink_to(path)
        for split in ("train", "test") if train else ("test",):
            _find_sizes(home, split, originals=base / split, root=root)
    for name in ("train", schema.TRAIN_TABLE, "test") if train else ("test",):
        if not (data / name).exists():
            raise DataError(f"{data}: expected {name} of the competition {competition}, found none")
    return data


def _with_images(folder: Path) -> Path:
    """The folder in a data set that holds `test/`, itself or one below."""
    for candidate in (folder, *sorted(path for path in folder.glob("*") if path.is_dir())):
        if (candidate / "test").is_dir():
            return candidate
    raise DataError(f"{folder}: expected a folder test/ of images in the data set, found none")


def _find_sizes(data: Path, split: str, *, originals: Path, root: Path) -> None:
    """Give copies the sizes of their originals: without them all boxes would be in the wrong pixels.

    They come from a table in the data set or the competition, else from one in any other input, else from
    the headers of the competition's own images.

    Raises:
        DataError: There are none.
    """
    table = data / f"{split}_meta.csv"
    images = find_images(data / split) if (data / split).is_dir() else []
    if table.is_file() or not any(path.suffix.lower() in _COPIES for path in images[:1]):
        return
    if found := _files_named(root, table.name, depth=4):
        table.symlink_to(found[0])
        return
    wanted = {image_id_of(path) for path in images}
    files = find_images(originals) if originals.is_dir() else []
    sizes = sizes_of([path for path in files if image_id_of(path) in wanted])
    rows = [(image_id_of(path), *size) for path, size in sizes.items() if size is not None]
    if len(rows) < len(wanted):
        raise DataError(
            f"{data}: {len(wanted) - len(rows):,} of {len(wanted):,} images of {split}/ are copies whose "
            f"originals' sizes are unknown: expected {table.name} (image_id, dim0, dim1) in some input, or "
            f"the originals in {originals}, so boxes of {split}/ would be in the copies' pixels"
        )
    write_text(table, pd.DataFrame(rows, columns=["image_id", "dim0", "dim1"]).to_csv(index=False))


def find_run(root: Path, source: str) -> Path:
    """The run in the output of an earlier session.

    Args:
        root: Kaggle's input folder.
        source: The notebook or data set, as `owner/slug`.

    Raises:
        DataError: There is none in it, or more than one.
    """
    folder = find_input(root, source)
    runs = sorted(path.parent for path in _files_named(folder, PARAMETERS, depth=3))
    if len(runs) != 1:
        found = ", ".join(map(str, runs)) or "none"
        raise DataError(f"{folder}: expected one run to continue (a folder with {PARAMETERS}), found {found}")
    return runs[0]


def _files_named(folder: Path, name: str, *, depth: int) -> list[Path]:
    """Files of a name in a folder and a few levels below it; images of a data set are not looked through."""
    found = []
    for parent, folders, names in os.walk(folder):
        level = len(Path(parent).relative_to(folder).parts)
        folders[:] = [] if level >= depth or name in names else folders
        found += [Path(parent) / name] if name in names else []
    return found
