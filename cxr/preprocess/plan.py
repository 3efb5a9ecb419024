"""The plan of a store: which files share a shard, decided once and kept.

A batch of files becomes one shard. The cut depends on the files alone, not on the number of
workers or on where an earlier run was interrupted, so every way to the end gives the same store.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cxr.errors import DataError
from cxr.files import write_bytes
from cxr.preprocess.sources import Source

RECIPE = 2
"""Counts up when the same file would give other pixels or another header row than before."""

_PLAN = "plan.json"
_SHARDS = 1024
_BATCH_MIN, _BATCH_MAX = 8, 64
_BATCH_BYTES = 64 << 20
_SHARD_NAME = re.compile(r"shard-(\d{5,})(?:\.r(\d+))?\.h5")


@dataclass(frozen=True)
class Settings:
    """What all images of a store have in common.

    Attributes:
        image_size: Longer side in pixels.
        compression: One of `store.COMPRESSIONS`.
        recipe: Version of the way from file to pixels.
    """

    image_size: int
    compression: str
    recipe: int = RECIPE


def load_plan(folder: Path, settings: Settings) -> list[list[tuple[str, str]]]:
    """Read the plan of a store.

    Args:
        folder: The store.
        settings: What the caller is about to make.

    Returns:
        Batches of (split, file name); none for a new store.

    Raises:
        DataError: The store was made with other settings, or the plan is damaged.
    """
    path = folder / _PLAN
    if not path.exists():
        return []
    try:
        plan = json.loads(path.read_text())
        made = Settings(**plan["settings"])
        batches = [[(split, name) for split, name in batch] for batch in plan["batches"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: damaged ({error}); --restart (restart='always') makes all anew") from error
    for field, word in (("image_size", "image size"), ("compression", "compression"), ("recipe", "recipe")):
        old, new = getattr(made, field), getattr(settings, field)
        if old != new:
            raise DataError(
                f"{folder}: holds images of {word} {old}, asked for {new}; choose another folder, or "
                "make this one anew with --restart (restart='always')"
            )
    return batches


def save_plan(folder: Path, settings: Settings, batches: list[list[tuple[str, str]]]) -> None:
    """Write the plan; before any shard, so that no shard is without one."""
    text = json.dumps({"settings": settings.__dict__, "batches": batches}, separators=(",", ":"))
    write_bytes(folder / _PLAN, text.encode())


def extend(
    batches: list[list[tuple[str, str]]], sources: Iterable[Source], settings: Settings
) -> list[list[tuple[str, str]]]:
    """Add batches for the files that no batch has yet.

    Args:
        batches: The plan so far.
        sources: All files.
        settings: For the size of a batch in memory.

    Returns:
        The old batches, unchanged, and the new ones after them.
    """
    known = {file for batch in batches for file in batch}
    new = [(s.split, s.name) for s in sources if (s.split, s.name) not in known]
    size = min(_BATCH_MAX, max(_BATCH_MIN, -(-len(new) // _SHARDS)))
    size = max(1, min(size, _BATCH_BYTES // settings.image_size**2))
    return batches + [new[start : start + size] for start in range(0, len(new), size)]


def shard_name(batch: int, revision: int) -> str:
    """File name of a batch's shard; a batch that gained images since has a higher revision."""
    return f"shard-{batch:05d}.h5" if revision == 0 else f"shard-{batch:05d}.r{revision}.h5"


def existing_shards(folder: Path) -> dict[int, list[int]]:
    """Revisions of each batch's shard that are in the folder, ascending."""
    found: dict[int, list[int]] = {}
    for path in folder.glob("shard-*.h5"):
        if match := _SHARD_NAME.fullmatch(path.name):
            found.setdefault(int(match[1]), []).append(int(match[2] or 0))
    return {batch: sorted(revisions) for batch, revisions in found.items()}
