"""Where the detectors of a run lie, and which fold each has never seen."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from cxr.errors import ParameterError
from cxr.rundir import locate

BEST = "best.ckpt"
LAST = "last.ckpt"
METRICS = "metrics.csv"
FOLD_FIELD = "{fold}"
"""Stands for the number of the fold in a path of weights."""


def fold_folder(out_dir: Path, fold: int) -> Path:
    """Folder of one fold's checkpoints."""
    return out_dir / f"fold{fold}"


def best_checkpoints(out_dir: Path) -> dict[int, Path]:
    """Best checkpoint of every fold trained below `out_dir`, by fold."""
    found = sorted(out_dir.glob(f"fold*/{BEST}"), key=lambda path: int(path.parent.name[4:]))
    return {int(path.parent.name[4:]): path for path in found}


def chosen_checkpoints(out_dir: Path, chosen: Sequence[str]) -> list[Path]:
    """Files of the detectors to use.

    Args:
        out_dir: Folder of the checkpoints that notebook 06 wrote.
        chosen: Paths, `{fold}` standing for each fold trained there; empty for those of notebook 06.
    """
    trained = best_checkpoints(out_dir)
    if not chosen:
        return list(trained.values())
    expanded = [
        path.replace(FOLD_FIELD, str(fold))
        for path in chosen
        for fold in (trained if FOLD_FIELD in path else [0])
    ]
    return [locate(path) for path in expanded]


def checkpoints_by_fold(files: Sequence[Path]) -> dict[int, list[Path]]:
    """Detectors by the fold that they have not seen, which the name of their folder tells.

    Raises:
        ParameterError: A file lies in no such folder, so nobody knows what it has seen.
    """
    found: dict[int, list[Path]] = {}
    for path in files:
        if not re.fullmatch(r"fold\d+", path.parent.name):
            raise ParameterError(
                f"checkpoints: {path} is not in a folder such as fold0, which says what it has not seen; "
                "without that it cannot be judged"
            )
        found.setdefault(int(path.parent.name[4:]), []).append(path)
    return dict(sorted(found.items()))
