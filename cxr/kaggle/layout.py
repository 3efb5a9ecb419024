"""Where a session's run lies: its images in scratch space, all else in the output that Kaggle keeps.

The run's folder is in scratch space, and the folders of its notebooks are links into the output. So
whatever a notebook or a training finishes is kept at once, and no link is left in the output. Images
would fill it; unless they are to be kept they lie in the run's own folder, and the tables beside them are
copied.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from cxr import chain, schema
from cxr.chain.manifest import MANIFEST
from cxr.report import REPORT
from cxr.rundir import PARAMETERS

_IMAGES = Path(schema.IMAGES_DIR)


def lay_out(run: Path, kept: Path, *, keep_images: bool) -> None:
    """Make the folders of a run.

    Args:
        run: Of the run, in scratch space.
        kept: Its place in the output.
        keep_images: Whether the preprocessed images are kept, too.
    """
    run.mkdir(parents=True, exist_ok=True)
    for notebook in chain.read_notebooks():
        home = kept / notebook.name
        home.mkdir(parents=True, exist_ok=True)
        if notebook.name == _IMAGES.parts[0] and not keep_images:
            (run / notebook.name).mkdir(exist_ok=True)
        elif not (run / notebook.name).exists():
            (run / notebook.name).symlink_to(home, target_is_directory=True)


def keep(run: Path, kept: Path) -> None:
    """Copy what lies in scratch space and is small: tables beside the images, parameters, the report."""
    for path in (run / PARAMETERS, run / REPORT):
        if path.is_file():
            shutil.copy(path, kept / path.name)
    home = run / _IMAGES.parts[0]
    if not home.is_symlink():
        shutil.copytree(
            home, kept / home.name, ignore=shutil.ignore_patterns(_IMAGES.name, ".*"), dirs_exist_ok=True
        )


def take_over(earlier: Path, run: Path, *, link_images: bool) -> None:
    """Bring the run of an earlier session into this one's folders, which `lay_out` made.

    Args:
        earlier: The run, read-only.
        run: Of this session.
        link_images: Link to images that were kept, where they are not to be kept again.
    """
    images = next((earlier / _IMAGES).glob("*.h5"), None)
    for notebook in chain.read_notebooks():
        source, target = earlier / notebook.name, run / notebook.name
        for path in sorted(source.rglob("*")) if source.is_dir() else []:
            new = target / path.relative_to(source)
            if path == earlier / _IMAGES.parts[0] / MANIFEST and images is None:
                continue  # its images were not kept: they are to be made, nothing is damaged
            if path.is_dir():
                new.mkdir(parents=True, exist_ok=True)
            elif link_images and path.suffix == ".h5" and path.parent == earlier / _IMAGES:
                new.symlink_to(path)
            else:
                shutil.copyfile(path, new)
                shutil.copystat(path, new)
                new.chmod(0o644)
