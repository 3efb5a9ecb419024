"""What a kernel reads: found wherever Kaggle mounts it, checked, and given one path for all sessions.

Inputs are read-only and have been mounted in several ways: `<slug>`, `competitions/<slug>`,
`datasets/<owner>/<slug>` and, for the output of notebooks, `notebooks/<owner>/<slug>`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cxr import schema
from cxr.chain import PARAMETERS
from cxr.detector.recipe import AUTO, PHANTOM, PUBLISHERS
from cxr.errors import DataError, ParameterError
from cxr.files import sha256, sidecar
from cxr.params import Value
from cxr.preprocess import find_images

INPUT = "/kaggle/input"
PATH_PARAMETERS = ("weights", "checkpoints", "oof_detections", "test_detections")
"""Parameters that name files; on Kaggle these lie in what is mounted."""

SAMPLE = "sample_submission.csv"
_FOLD = "{fold}"
_COPIES = (".png", ".jpg", ".jpeg")


def find_input(root: Path, slug: str) -> Path:
    """Folder of a competition, data set or notebook below Kaggle's input folder.

    Raises:
        ParameterError: It is nowhere; the message lists what is mounted.
    """
    places = (root / slug, root / "competitions" / slug)
    owned = (path for kind in ("datasets", "notebooks") for path in sorted((root / kind).glob(f"*/{slug}")))
    for folder in (*places, *owned):
        if folder.is_dir():
            return folder
    raise ParameterError(f"{root}: no input {slug!r}; mounted are {', '.join(_mounted(root)) or 'none'}")


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
        there = sorted(p.name for p in file.parent.iterdir()) if file.parent.is_dir() else []
        raise ParameterError(f"{name}: {path}: no such file; there are {', '.join(there[:8]) or 'none'}")
    say(f"{name}: {file}, {file.stat().st_size / 1e6:.1f} MB, sha256 {sha256(file)}")
    link = home / inside
    link.parent.mkdir(parents=True, exist_ok=True)
    for source, target in ((file, link), (sidecar(file), sidecar(link))):
        if source.is_file():
            target.unlink(missing_ok=True)
            target.symlink_to(source)


def resolve(root: Path, parts: Sequence[str]) -> Path:
    """A path below Kaggle's input folder, given in any of the ways of mounting, wherever it is mounted."""
    if (exact := root.joinpath(*parts)).exists():
        return exact
    leading = {"competitions": 1, "datasets": 2, "notebooks": 2}.get(parts[0], 0)
    slug, *rest = parts[leading:] or parts
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
        images = _with_images(find_input(root, copies.split("/")[1]))
        data = home
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        for path in [*base.iterdir(), *images.iterdir()]:  # the competition's tables come first
            if path.name not in ("train", "test") or path.parent == images:
                link = home / path.name
                if not link.is_symlink():
                    link.symlink_to(path)
        _check_sizes(home)
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


def _check_sizes(data: Path) -> None:
    """Copies are smaller than the originals: without the sizes all boxes would be in the wrong pixels."""
    for split in ("train", "test"):
        other = "test" if split == "train" else "train"
        if (data / f"{other}_meta.csv").is_file() and not (data / f"{split}_meta.csv").is_file():
            images = find_images(data / split) if (data / split).is_dir() else []
            if any(path.suffix.lower() in _COPIES for path in images[:1]):
                raise DataError(
                    f"{data}: {other}_meta.csv gives sizes of {other}/, and {split}_meta.csv "
                    f"(image_id, dim0, dim1) is missing, so boxes of {split}/ would be in the copies' pixels"
                )


def find_run(root: Path, slug: str) -> Path:
    """The run in the output of an earlier session.

    Args:
        root: Kaggle's input folder.
        slug: Of the notebook or data set.

    Raises:
        DataError: There is none in it, or more than one.
    """
    folder = find_input(root, slug)
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
