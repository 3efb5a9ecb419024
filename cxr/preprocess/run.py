"""Drive preprocessing: resume, run in parallel here or on a cluster, survive, and report."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxr import schema
from cxr.errors import DataError, ParameterError, RunError, StoreError
from cxr.files import is_temporary, named_error
from cxr.preprocess.batch import Batch, kept_records
from cxr.preprocess.plan import Settings, existing_shards, extend, load_plan, save_plan, shard_name
from cxr.preprocess.sources import Source, collect
from cxr.preprocess.tables import write_tables
from cxr.preprocess.workers import execute, jobs_here, retry_timeouts
from cxr.rundir import alone
from cxr.store import (
    COMPRESSIONS,
    ShardRecord,
    check_shard,
    damaged_images,
    read_shard_records,
)

RESTARTS = ("never", "changed", "always")

_log = logging.getLogger("cxr")


@dataclass(frozen=True)
class PreprocessResult:
    """What a run did.

    Attributes:
        stored: Images read and stored by this run.
        skipped: Images that were stored before.
        failed: Files in `failures.csv`.
        dropped: Images that were stored before and have no file any more.
        damaged: Shards whose bytes differed from their checksum; their images were read again.
        ignored: Subfolders, and files whose name is not an image's.
        seconds: Duration.
    """

    stored: int
    skipped: int
    failed: int
    dropped: int
    damaged: int
    ignored: int
    seconds: float

    @property
    def summary(self) -> str:
        """One line for people: counts, duration, speed."""
        speed = f" ({self.stored / self.seconds:.1f} images/s)" if self.stored and self.seconds > 0 else ""
        dropped = f", dropped {self.dropped:,} (file gone)" if self.dropped else ""
        damaged = f", {self.damaged:,} damaged shards made again" if self.damaged else ""
        ignored = f", ignored {self.ignored:,} (subfolders, other names)" if self.ignored else ""
        return (
            f"stored {self.stored:,}, skipped {self.skipped:,} (done before), failed {self.failed:,}"
            f"{dropped}{damaged}{ignored} in {_duration(self.seconds)}{speed}"
        )


def preprocess(
    sources: dict[str, Path],
    out_dir: Path,
    *,
    image_size: int = 1024,
    jobs: int = -1,
    scheduler: str = "",
    compression: str = "none",
    max_failed_fraction: float = 0.1,
    seconds_per_file: float = 10.0,
    restart: str = "never",
    progress: Callable[[int, int], None] | None = None,
    sizes: pd.DataFrame | None = None,
) -> PreprocessResult:
    """Turn folders of radiographs into an image store, a header table and a failure list.

    Writes `out_dir/images/` (see `cxr.store`), `out_dir/dicom_metadata.csv` (image_id, split and
    `schema.HEADER_COLUMNS`) and `out_dir/failures.csv`. A run that was stopped, in whatever way,
    is continued by calling this again: finished shards whose bytes still have their checksum are
    kept, files that failed or changed are read again, images whose file is gone are dropped, and
    the result is that of an undisturbed run, whatever `jobs` is.

    Args:
        sources: Folder of each split, for example `{"train": ..., "test": ...}`.
        out_dir: Folder of the results, made if missing.
        image_size: Longer side of a stored image in pixels.
        jobs: Files read at the same time on this machine; -1 for one a core.
        scheduler: Address of a Dask scheduler, for example `tcp://node1:8786`; its workers see
            `sources` and `out_dir` under the same paths. Empty for this machine.
        compression: `none` or `gzip`, see `store.COMPRESSIONS`.
        max_failed_fraction: More failures than this are an error, raised when all is done.
        seconds_per_file: A file that takes longer is read once more at the end, and then fails with
            `timeout`.
        restart: When to delete what the folder holds and make all anew: `never` (other settings than
            before are then an error), `changed` (when the settings are others) or `always`.
        progress: Called in this thread with (files done, files).
        sizes: Original sizes of files without a header: `image_id` and `rows`, `columns`
            (or `dim0`, `dim1`, as in `train_meta.csv`).

    Returns:
        Counts and duration.

    Raises:
        DataError: A folder is missing or has no image, another run is writing to `out_dir`, or
            it holds images of other settings.
        ParameterError: An argument is out of its range.
        DiskError: A file cannot be written, for example because the disk is full; what is finished is
            kept, and the same call goes on from there.
        RunError: More than `max_failed_fraction` failed.
    """
    started = time.monotonic()
    _check(image_size, jobs, compression, max_failed_fraction, seconds_per_file, restart)
    out_dir = Path(out_dir).resolve()
    folders = {split: Path(folder).resolve() for split, folder in sources.items()}
    files = collect(folders)
    originals = _size_table(sizes)
    store = out_dir / "images"
    settings = Settings(image_size, compression)
    total = len(files.found) + len(files.failed)
    with ExitStack() as stack:
        try:
            store.mkdir(parents=True, exist_ok=True)
            stack.enter_context(alone(store))
            stack.enter_context(_terminate_as_interrupt())
            _clear_leftovers(out_dir)
            if restart == "always" or (restart == "changed" and not _is_of(store, settings)):
                _clear(store)
            plan = _plan(store, files.found, settings)
            existing = existing_shards(store)
            damaged = _remove_damaged(store, existing, jobs)
            tasks, shards, skipped, dropped = _tasks(
                store, plan, existing, files.found, folders, originals, settings, seconds_per_file
            )
            count = _counter(total - sum(len(task.sources) for task in tasks), total, progress)
            results = execute(tasks, jobs=jobs, scheduler=scheduler, progress=count)
            results = retry_timeouts(tasks, results, scheduler=scheduler)
            shards |= {number: result.revision for number, result in results.items()}
            failures = files.failed + [f for result in results.values() for f in result.failures]
            write_tables(out_dir, shards, failures)
        except OSError as error:
            raise named_error(error, error.filename or store) from error
    failed = len(failures)
    result = PreprocessResult(
        stored=sum(result.stored for result in results.values()),
        skipped=skipped + sum(result.kept for result in results.values()),
        failed=failed,
        dropped=dropped,
        damaged=damaged,
        ignored=files.ignored,
        seconds=time.monotonic() - started,
    )
    if failed > max_failed_fraction * total:
        raise RunError(
            f"{failed:,} of {total:,} files failed, more than the {max_failed_fraction:.0%} allowed; "
            f"see {out_dir / 'failures.csv'}. {result.summary}"
        )
    return result


# -- before the work ---------------------------------------------------------------------------------


def _check(
    image_size: int,
    jobs: int,
    compression: str,
    max_failed_fraction: float,
    seconds_per_file: float,
    restart: str,
) -> None:
    if not 16 <= image_size <= 8192:
        raise ParameterError(f"image_size must be from 16 to 8192 pixels, got {image_size}")
    if jobs == 0:
        raise ParameterError("jobs must be at least 1, or -1 for one a core, got 0")
    if compression not in COMPRESSIONS:
        raise ParameterError(f"compression must be one of {', '.join(COMPRESSIONS)}, got {compression!r}")
    if not 0.0 <= max_failed_fraction <= 1.0:
        raise ParameterError(f"max_failed_fraction must be from 0 to 1, got {max_failed_fraction}")
    if not seconds_per_file > 0:
        raise ParameterError(f"seconds_per_file must be greater than 0, got {seconds_per_file}")
    if restart not in RESTARTS:
        raise ParameterError(f"restart must be one of {', '.join(RESTARTS)}, got {restart!r}")


def _size_table(sizes: pd.DataFrame | None) -> dict[str, tuple[int, int]]:
    if sizes is None:
        return {}
    for rows, columns in (("rows", "columns"), ("dim0", "dim1")):
        if {schema.IMAGE_ID, rows, columns} <= set(sizes.columns):
            pairs = zip(sizes[rows].tolist(), sizes[columns].tolist(), strict=True)
            return {
                str(image_id): (int(height), int(width))
                for image_id, (height, width) in zip(sizes[schema.IMAGE_ID], pairs, strict=True)
            }
    raise DataError(
        f"sizes: expected the columns image_id, rows, columns (or dim0, dim1), got {list(sizes.columns)}"
    )


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does: readers stopped, nothing half-written.

    A program that has its own way to be terminated (the `cxr` command) keeps it.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt("terminated")

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _clear_leftovers(out_dir: Path) -> None:
    """Remove what a run that was killed had begun to write."""
    for folder in (out_dir, out_dir / "images"):
        for path in folder.glob(".*"):
            if is_temporary(path):
                path.unlink(missing_ok=True)


def _is_of(store: Path, settings: Settings) -> bool:
    """Whether a store was made, or begun, with these settings."""
    try:
        load_plan(store, settings)
    except DataError:
        return False
    return True


def _clear(store: Path) -> None:
    # The index first: without it the folder is no store, whatever else is still there. The plan last:
    # until all shards are gone, it says of what settings they are.
    for pattern in ("index.*", "shard-*.h5", "plan.json"):
        for path in store.glob(pattern):
            path.unlink()


def _plan(store: Path, found: list[Source], settings: Settings) -> list[list[tuple[str, str]]]:
    old = load_plan(store, settings)
    plan = extend(old, found, settings)
    if plan != old or not old:
        save_plan(store, settings, plan)
    return plan


def _tasks(
    store: Path,
    plan: list[list[tuple[str, str]]],
    existing: dict[int, list[int]],
    found: list[Source],
    folders: dict[str, Path],
    sizes: dict[str, tuple[int, int]],
    settings: Settings,
    seconds_per_file: float,
) -> tuple[list[Batch], dict[int, int], int, int]:
    """What is left to do, the revision of each batch's shard, how many images are done and dropped."""
    present = {(source.split, source.name): source for source in found}
    ids = {source.image_id for source in found}
    tasks: list[Batch] = []
    shards: dict[int, int] = {}
    skipped = dropped = 0
    for number, files in enumerate(plan):
        members = tuple(present[file] for file in files if file in present)
        revision, records = _newest(store, number, existing.get(number, []))
        if revision >= 0:
            shards[number] = revision
        own = {s.image_id: sizes[s.image_id] for s in members if s.image_id in sizes}
        batch = Batch(
            number=number,
            revision=revision,
            sources=members,
            folders=folders,
            store=store,
            image_size=settings.image_size,
            compression=settings.compression,
            sizes=own,
            seconds_per_file=seconds_per_file,
        )
        dropped += sum(record.image_id not in ids for record in records)
        kept = len(kept_records(batch, records))
        if kept < max(len(members), len(records)):
            tasks.append(batch)
        else:
            skipped += kept
    return tasks, shards, skipped, dropped


def _remove_damaged(store: Path, existing: dict[int, list[int]], jobs: int) -> int:
    """Remove shards that are not as they were written, from the folder and from `existing`.

    Every byte is read: a size and a time that fit prove nothing about the pixels. Hashing lets other
    threads work meanwhile, so this goes at the speed of the disk.
    """
    shards = [(number, revision) for number, revisions in existing.items() for revision in revisions]
    paths = [store / shard_name(*shard) for shard in shards]
    damaged = 0
    with ThreadPoolExecutor(jobs_here(jobs)) as threads:
        for (number, revision), path, problem in zip(
            shards, paths, threads.map(check_shard, paths), strict=True
        ):
            if problem is None:
                continue
            wrong = ", ".join(damaged_images(path))
            _log.warning(
                "%s%s; all images of this shard are read again", problem, f": image {wrong}" if wrong else ""
            )
            path.unlink(missing_ok=True)
            existing[number].remove(revision)
            damaged += 1
    return damaged


def _newest(store: Path, number: int, revisions: list[int]) -> tuple[int, list[ShardRecord]]:
    """The newest readable shard of a batch; one that another version wrote is removed and made again."""
    for revision in reversed(revisions):
        path = store / shard_name(number, revision)
        try:
            return revision, read_shard_records(path)
        except StoreError as error:
            _log.warning("%s; it is made again", error)
            path.unlink(missing_ok=True)
    return -1, []


def _counter(
    done: int, total: int, progress: Callable[[int, int], None] | None
) -> Callable[[int], None] | None:
    """Turn counts of files into (files done, files)."""
    if progress is None:
        return None

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(done, total)

    count(0)
    return count


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
