"""One task of preprocessing: a batch of files becomes one shard."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cxr.dicom import IsolatedReader, Radiograph
from cxr.errors import DicomReadError
from cxr.preprocess.plan import shard_name
from cxr.preprocess.sources import Failure, Source
from cxr.store import ShardImage, ShardRecord, check_shard, read_pixels, read_shard_records, write_shard

_log = logging.getLogger("cxr")


@dataclass(frozen=True)
class Batch:
    """A task, complete in itself, so that any process on any machine can do it.

    Attributes:
        number: Place in the plan.
        revision: Revision of the shard that exists, -1 for none.
        sources: The files that should be in the shard.
        folders: Folder of each split, absolute.
        store: Folder of the shards, absolute.
        image_size: Longer side of a stored image.
        compression: One of `store.COMPRESSIONS`.
        sizes: Original size `(rows, columns)` by image id, for files without a header.
        seconds_per_file: Time limit.
    """

    number: int
    revision: int
    sources: tuple[Source, ...]
    folders: dict[str, Path]
    store: Path
    image_size: int
    compression: str
    sizes: dict[str, tuple[int, int]]
    seconds_per_file: float


@dataclass(frozen=True)
class BatchResult:
    """What a task did.

    Attributes:
        number: Place in the plan.
        revision: Revision of the shard that now holds the batch, -1 for none.
        stored: Number of images read and stored.
        kept: Number of images that were stored before.
        failures: Files that could not be read.
    """

    number: int
    revision: int
    stored: int
    kept: int
    failures: list[Failure]


class ReaderPool:
    """Readers that are lent to one task at a time, kept for the next, and closed together."""

    def __init__(self) -> None:
        self._idle: list[IsolatedReader] = []
        self._all: list[IsolatedReader] = []
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def borrow(self, seconds_per_file: float) -> Iterator[IsolatedReader]:
        """Lend an idle reader, or a new one."""
        with self._lock:
            if self._idle:
                reader = self._idle.pop()
            else:
                reader = IsolatedReader()
                self._all.append(reader)
            if self._closed:
                reader.close()
        reader.seconds_per_file = seconds_per_file
        try:
            yield reader
        finally:
            with self._lock:
                self._idle.append(reader)

    def close(self) -> None:
        """End all readers; tasks that are reading get a `RunError`."""
        with self._lock:
            self._closed = True
            for reader in self._all:
                reader.close()


_WORKER_READERS = ReaderPool()
"""Readers of a cluster worker live as long as the worker: starting one costs half a second."""


def kept_records(batch: Batch, records: list[ShardRecord]) -> dict[str, ShardRecord]:
    """Records that still stand for a file of the batch.

    The others are read again where their file has changed, and dropped where it is gone: the store
    is what a first run on the folder as it is now would give.
    """
    wanted = {source.image_id: source for source in batch.sources}
    kept = {}
    for record in records:
        source = wanted.get(record.image_id)
        if source is not None and (
            tuple(record.source) == source.fingerprint
            and record.split == source.split
            and (record.rows, record.columns) == _original_size(batch, record)
        ):
            kept[record.image_id] = record
    return kept


def _original_size(batch: Batch, record: ShardRecord) -> tuple[int, int]:
    has_header = record.header["Transfer Syntax UID"] != ""
    own = (record.rows, record.columns)
    return own if has_header else batch.sizes.get(record.image_id, own)


def process_batch(batch: Batch, readers: ReaderPool | None = None) -> BatchResult:
    """Read the files of a batch that its shard does not hold yet, and write the shard.

    The old shard is checked before its images are taken over, so that a new checksum never covers
    old damage.

    Args:
        batch: The task.
        readers: Readers to use; those of this worker process if not given.

    Returns:
        Counts and failures. A batch without a readable file has no shard.

    Raises:
        DiskError: The shard cannot be written, for example because the disk is full.
        RunError: The reader process cannot be started.
    """
    old = batch.store / shard_name(batch.number, batch.revision)
    records: list[ShardRecord] = []
    if batch.revision >= 0:
        records = read_shard_records(old)
    kept = kept_records(batch, records)
    images: dict[str, ShardImage] = {}
    failures: list[Failure] = []
    with (readers or _WORKER_READERS).borrow(batch.seconds_per_file) as reader:

        def read(source: Source) -> None:
            path = batch.folders[source.split] / source.name
            try:
                radiograph = reader.load(path, longest_side=batch.image_size)
                images[source.image_id] = _image(source, radiograph, batch)
            except DicomReadError as error:
                failures.append(Failure(source.image_id, source.split, source.name, error.reason, str(error)))

        for source in batch.sources:
            if source.image_id not in kept:
                read(source)
        if not images and len(kept) == len(records):
            return BatchResult(batch.number, batch.revision, 0, len(kept), failures)
        if kept and (problem := check_shard(old)) is not None:
            _log.warning("%s; its images are read again", problem)
            for source in batch.sources:
                if source.image_id in kept:
                    read(source)
            kept = {}
    stored = len(images)
    images |= {image_id: _copy(old, record) for image_id, record in kept.items()}
    if not images:
        return BatchResult(batch.number, -1, 0, 0, failures)
    ordered = [images[source.image_id] for source in batch.sources if source.image_id in images]
    new = batch.store / shard_name(batch.number, batch.revision + 1)
    write_shard(new, ordered, compression=batch.compression)
    return BatchResult(batch.number, batch.revision + 1, stored, len(kept), failures)


def _image(source: Source, radiograph: Radiograph, batch: Batch) -> ShardImage:
    size = radiograph.original_size
    if radiograph.header["Transfer Syntax UID"] == "":
        size = batch.sizes.get(source.image_id, size)
    return ShardImage(
        image_id=source.image_id,
        split=source.split,
        pixels=radiograph.pixels,
        original_size=size,
        header=radiograph.header,
        source=source.fingerprint,
    )


def _copy(path: Path, record: ShardRecord) -> ShardImage:
    shape = (record.height, record.width)
    pixels = read_pixels(path, record.offset, record.nbytes, shape, name=record.image_id)
    return ShardImage(
        image_id=record.image_id,
        split=record.split,
        pixels=pixels,
        original_size=(record.rows, record.columns),
        header=record.header,
        source=record.source,
    )
