"""Read a store: images by id, their original sizes, and a check of every byte."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.errors import StoreError
from cxr.files import write_bytes
from cxr.schema import IMAGE_ID
from cxr.store.shard import (
    ShardRecord,
    check_shard,
    pixel_hash,
    read_pixels,
    read_shard_records,
)

INDEX_COLUMNS = [
    IMAGE_ID,
    "split",
    "shard",
    "offset",
    "nbytes",
    "rows",
    "columns",
    "height",
    "width",
    "sha256",
]
"""Columns of `index.csv`: `rows` and `columns` of the original, `height` and `width` as stored."""

_INDEX = "index.csv"
_INDEX_HASH = "index.sha256"  # as `sha256sum` writes it, so that `sha256sum -c` reads it
_COMPARED = ["split", "offset", "nbytes", "rows", "columns", "height", "width", "sha256"]


def write_index(folder: Path, shards: Iterable[tuple[str, list[ShardRecord]]]) -> None:
    """Write `index.csv`, sorted by split and image id, and its checksum.

    Args:
        folder: The store.
        shards: File name and records of each shard.
    """
    rows = [
        [r.image_id, r.split, name, r.offset, r.nbytes, r.rows, r.columns, r.height, r.width, r.sha256]
        for name, records in shards
        for r in records
    ]
    table = pd.DataFrame(rows, columns=INDEX_COLUMNS).sort_values(["split", IMAGE_ID], kind="stable")
    text = table.to_csv(index=False, lineterminator="\n").encode()
    # The index last: it is what makes the folder a store.
    write_bytes(folder / _INDEX_HASH, f"{hashlib.sha256(text).hexdigest()}  {_INDEX}\n".encode())
    write_bytes(folder / _INDEX, text)


class ImageStore:
    """The images of a run, by id, each as `uint8 (H, W)`.

    A store holds a path and an index and no open file, so it may be pickled, forked and used
    from threads.

    Attributes:
        folder: Folder of `index.csv` and the shards.
    """

    def __init__(self, path: Path | str) -> None:
        """Open a store.

        Args:
            path: Folder of `index.csv`, or the folder that has it in `images/`.

        Raises:
            StoreError: There is no index, or it lacks a column.
        """
        self.folder = Path(path)
        if not (self.folder / _INDEX).is_file() and (self.folder / "images" / _INDEX).is_file():
            self.folder = self.folder / "images"
        self._index = self._read_index()
        index = self._index
        self._where = {
            image_id: (shard, offset, nbytes, (height, width))
            for image_id, shard, offset, nbytes, height, width in zip(
                index[IMAGE_ID],
                index["shard"],
                index["offset"].tolist(),
                index["nbytes"].tolist(),
                index["height"].tolist(),
                index["width"].tolist(),
                strict=True,
            )
        }
        if len(self._where) != len(index):
            double = index[IMAGE_ID][index[IMAGE_ID].duplicated()].iloc[0]
            raise StoreError(f"{self.folder / _INDEX}: image {double} is listed twice")
        self._size = dict(
            zip(
                index[IMAGE_ID],
                zip(index["rows"].tolist(), index["columns"].tolist(), strict=True),
                strict=True,
            )
        )

    def _read_index(self) -> pd.DataFrame:
        path = self.folder / _INDEX
        text = dict.fromkeys((IMAGE_ID, "split", "shard", "sha256"), str)
        try:
            # An image may be called NA.
            table = pd.read_csv(path, dtype=text, keep_default_na=False)
        except FileNotFoundError as error:
            raise StoreError(
                f"{self.folder}: no image store here ({_INDEX} is missing); "
                "preprocessing writes it when it is done"
            ) from error
        except (ValueError, OSError) as error:
            raise StoreError(f"{path}: cannot be read ({' '.join(str(error).split())[:160]})") from error
        missing = [column for column in INDEX_COLUMNS if column not in table.columns]
        if missing:
            raise StoreError(f"{path}: column {missing[0]} is missing")
        numbers = [column for column in INDEX_COLUMNS if column not in text]
        bad = [c for c in numbers if len(table) and not pd.api.types.is_integer_dtype(table[c])]
        if bad:
            raise StoreError(f"{path}: column {bad[0]} must hold whole numbers")
        return table

    def __reduce__(self) -> tuple[type[ImageStore], tuple[Path]]:
        return type(self), (self.folder,)

    def __repr__(self) -> str:
        return f"ImageStore({str(self.folder)!r}, {len(self)} images)"

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._where

    def __getitem__(self, image_id: str) -> np.ndarray:
        """Pixels of one image.

        Args:
            image_id: One of `ids`.

        Returns:
            `uint8 (H, W)`, writable, the caller's own copy.

        Raises:
            StoreError: No such image, or its shard is missing or cut off.
        """
        try:
            shard, offset, nbytes, shape = self._where[image_id]
        except KeyError:
            raise self._unknown(image_id) from None
        return read_pixels(self.folder / shard, offset, nbytes, shape, name=image_id)

    @property
    def ids(self) -> list[str]:
        """All image ids, sorted by split and id."""
        return list(self._where)

    @property
    def index(self) -> pd.DataFrame:
        """A copy of the index, `INDEX_COLUMNS`."""
        return self._index.copy()

    def ids_of(self, split: str) -> list[str]:
        """Image ids of one split, sorted; none for a split that the store does not have."""
        return self._index.loc[self._index["split"] == split, IMAGE_ID].tolist()

    def original_size(self, image_id: str) -> tuple[int, int]:
        """`(rows, columns)` of the original, to which annotated boxes refer.

        Raises:
            StoreError: No such image.
        """
        try:
            return self._size[image_id]
        except KeyError:
            raise self._unknown(image_id) from None

    def verify(self, *, progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Read every byte and compare it with its checksum, and the index with the shards.

        Args:
            progress: Called with (shards done, shards).

        Returns:
            One line for each problem, naming the shard and, where known, the image; empty
            if the store is as it was written.
        """
        problems = self._verify_index()
        groups = list(self._index.groupby("shard", sort=True))
        for done, (shard, rows) in enumerate(groups):
            problems += self._verify_shard(str(shard), rows)
            if progress is not None:
                progress(done + 1, len(groups))
        return problems

    def require_whole(self, *, progress: Callable[[int, int], None] | None = None) -> None:
        """Read every byte and stop where one is not as it was written.

        Args:
            progress: As for `verify`.

        Raises:
            StoreError: Something is damaged; the message names the first places.
        """
        problems = self.verify(progress=progress)
        if problems:
            more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
            raise StoreError(
                f"{self.folder}: not as it was written: {'; '.join(problems[:3])}{more}. "
                "Preprocessing again makes what is damaged anew; if it comes back, suspect the disk"
            )

    def _verify_index(self) -> list[str]:
        try:
            expected = (self.folder / _INDEX_HASH).read_text(encoding="ascii", errors="replace").split()[:1]
        except OSError as error:
            return [f"{_INDEX_HASH}: cannot be read ({error.strerror})"]
        text = (self.folder / _INDEX).read_bytes()
        problems = []
        if [hashlib.sha256(text).hexdigest()] != expected:
            problems.append(f"{_INDEX}: differs from its checksum; preprocessing again writes it anew")
        listed = set(self._index["shard"])
        others = sorted(path.name for path in self.folder.glob("shard-*.h5") if path.name not in listed)
        return problems + [f"{name}: none of its images is in {_INDEX}" for name in others]

    def _verify_shard(self, shard: str, rows: pd.DataFrame) -> list[str]:
        path = self.folder / shard
        problem = check_shard(path)
        if problem is not None and ("missing" in problem or "truncated" in problem):
            return [f"{problem} ({len(rows)} images)"]
        problems = [] if problem is None else [problem]
        try:
            known = {record.image_id: record for record in read_shard_records(path)}
        except StoreError as error:
            known = None
            if problem is None:
                problems.append(str(error))
        for row in rows.to_dict("records"):
            image_id = row[IMAGE_ID]
            try:
                if pixel_hash(self[image_id]) != row["sha256"]:
                    problems.append(f"{shard}: image {image_id}: pixels differ from their checksum")
                    continue
            except StoreError as error:
                problems.append(f"{shard}: {error}")
                continue
            record = None if known is None else known.get(image_id)
            if known is not None and record is None:
                problems.append(f"{shard}: image {image_id} is in {_INDEX} but not in the shard")
            elif record is not None:
                differ = [c for c in _COMPARED if row[c] != getattr(record, c)]
                if differ:
                    problems.append(f"{_INDEX}: image {image_id}: {', '.join(differ)} differ from the shard")
        lost = sorted((known or {}).keys() - set(rows[IMAGE_ID]))
        return problems + [f"{_INDEX}: image {image_id} of {shard} is not listed" for image_id in lost]

    def _unknown(self, image_id: object) -> StoreError:
        name = str(image_id)
        # Comparing with all of 18,000 ids takes seconds; a typing slip rarely hits the start.
        near = [other for other in self._where if other[:2] == name[:2]] or list(self._where)[:2000]
        close = difflib.get_close_matches(name, near[:2000], n=1)
        hint = f"; the nearest is {close[0]}" if close else ""
        return StoreError(f"{self.folder}: no image {name!r} among {len(self)}{hint}")
