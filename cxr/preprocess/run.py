"""Drive preprocessing: resume, run in parallel here or on a cluster, survive, and report."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import pandas as pd

from cxr import schema
from cxr.errors import DataError, ParameterError, RunError, StoreError
from cxr.preprocess.batch import Batch, BatchResult, ReaderPool, kept_records, process_batch
from cxr.preprocess.plan import Settings, existing_shards, extend, load_plan, save_plan, shard_name
from cxr.preprocess.sources import Failure, Source, collect
from cxr.store import COMPRESSIONS, ShardRecord, read_shard_records, write_atomically, write_index

FAILURE_COLUMNS = [schema.IMAGE_ID, "split", "file", "reason", "message"]
"""Columns of `failures.csv`."""

_LOST_WORKERS = {"KilledWorker", "CommClosedError", "FutureCancelledError", "CancelledError"}
_MAX_RESTARTS = 5

_log = logging.getLogger("cxr")


@dataclass(frozen=True)
class PreprocessResult:
    """What a run did.

    Attributes:
        stored: Images read and stored by this run.
        skipped: Images that were stored before.
        failed: Files in `failures.csv`.
        seconds: Duration.
    """

    stored: int
    skipped: int
    failed: int
    seconds: float

    @property
    def summary(self) -> str:
        """One line for people: counts, duration, speed."""
        speed = f" ({self.stored / self.seconds:.1f} images/s)" if self.stored and self.seconds > 0 else ""
        return (
            f"stored {self.stored:,}, skipped {self.skipped:,} (done before), failed {self.failed:,} "
            f"in {_duration(self.seconds)}{speed}"
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
    restart: bool = False,
    progress: Callable[[int, int], None] | None = None,
    sizes: pd.DataFrame | None = None,
) -> PreprocessResult:
    """Turn folders of radiographs into an image store, a header table and a failure list.

    Writes `out_dir/images/` (see `cxr.store`), `out_dir/dicom_metadata.csv` (image_id, split and
    `schema.HEADER_COLUMNS`) and `out_dir/failures.csv`. A run that was stopped, in whatever way,
    is continued by calling this again: finished shards are kept, files that failed or changed
    are read again, and the result is that of an undisturbed run, whatever `jobs` is.

    Args:
        sources: Folder of each split, for example `{"train": ..., "test": ...}`.
        out_dir: Folder of the results, made if missing.
        image_size: Longer side of a stored image in pixels.
        jobs: Files read at the same time on this machine; -1 for one a core.
        scheduler: Address of a Dask scheduler, for example `tcp://node1:8786`; its workers see
            `sources` and `out_dir` under the same paths. Empty for this machine.
        compression: `none` or `gzip`, see `store.COMPRESSIONS`.
        max_failed_fraction: More failures than this are an error, raised when all is done.
        seconds_per_file: A file that takes longer fails with `timeout`.
        restart: Delete what the folder holds first. Needed for other settings than before.
        progress: Called in this thread with (files done, files).
        sizes: Original sizes of files without a header: `image_id` and `rows`, `columns`
            (or `dim0`, `dim1`, as in `train_meta.csv`).

    Returns:
        Counts and duration.

    Raises:
        DataError: A folder is missing or has no image, another run is writing to `out_dir`, or
            it holds images of other settings.
        ParameterError: An argument is out of its range.
        RunError: More than `max_failed_fraction` failed, or the store cannot be written.
    """
    started = time.monotonic()
    _check(image_size, jobs, compression, max_failed_fraction, seconds_per_file)
    out_dir = Path(out_dir).resolve()
    folders = {split: Path(folder).resolve() for split, folder in sources.items()}
    found, failures = collect(folders)
    originals = _size_table(sizes)
    store = out_dir / "images"
    settings = Settings(image_size, compression)
    with ExitStack() as stack:
        try:
            store.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_only_run(store))
            stack.enter_context(_terminate_as_interrupt())
            if restart:
                _clear(store)
            plan = _plan(store, found, settings)
            tasks, shards, skipped = _tasks(
                store, plan, found, folders, originals, settings, seconds_per_file
            )
            total = len(found) + len(failures)
            stored, more = _execute(tasks, shards, jobs, scheduler, progress, total)
            _write_tables(out_dir, shards, failures + more)
        except OSError as error:
            raise RunError(
                f"{error.filename or store}: cannot be written ({error.strerror or error}); "
                "what is finished is kept, the same command goes on from there"
            ) from error
    failed = len(failures) + len(more)
    result = PreprocessResult(stored, skipped, failed, time.monotonic() - started)
    if failed > max_failed_fraction * total:
        raise RunError(
            f"{failed:,} of {total:,} files failed, more than the {max_failed_fraction:.0%} allowed; "
            f"see {out_dir / 'failures.csv'}. {result.summary}"
        )
    return result


# -- before the work ---------------------------------------------------------------------------------


def _check(
    image_size: int, jobs: int, compression: str, max_failed_fraction: float, seconds_per_file: float
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
def _only_run(store: Path) -> Iterator[None]:
    """Hold the folder's lock. The kernel drops it with the process, so it is never stale."""
    with open(store / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise DataError(f"{store}: another run is writing here ({file.read().strip()})") from error
        except OSError as error:
            # Some network file systems have no locks; the work is safe, only doubled.
            _log.warning("%s: cannot be locked (%s); make sure that only one run writes here", store, error)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does: readers stopped, nothing half-written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt("terminated")

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _clear(store: Path) -> None:
    # The index first: without it the folder is no store, whatever else is still there.
    for pattern in ("index.csv", "plan.json", "shard-*.h5"):
        for path in store.glob(pattern):
            path.unlink()


def _plan(store: Path, found: list[Source], settings: Settings) -> list[list[tuple[str, str]]]:
    for leftover in store.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    old = load_plan(store, settings)
    plan = extend(old, found, settings)
    if plan != old or not old:
        save_plan(store, settings, plan)
    return plan


def _tasks(
    store: Path,
    plan: list[list[tuple[str, str]]],
    found: list[Source],
    folders: dict[str, Path],
    sizes: dict[str, tuple[int, int]],
    settings: Settings,
    seconds_per_file: float,
) -> tuple[list[Batch], dict[int, int], int]:
    """What is left to do, the revision of each batch's shard, and how many images are done."""
    present = {(source.split, source.name): source for source in found}
    existing = existing_shards(store)
    tasks: list[Batch] = []
    shards: dict[int, int] = {}
    skipped = 0
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
        kept = kept_records(batch, records)
        done = sum(source.image_id in kept for source in members)
        skipped += done
        if done < len(members):
            tasks.append(batch)
    return tasks, shards, skipped


def _newest(store: Path, number: int, revisions: list[int]) -> tuple[int, list[ShardRecord]]:
    """The newest readable shard of a batch; damaged ones are removed and made again."""
    for revision in reversed(revisions):
        path = store / shard_name(number, revision)
        try:
            return revision, read_shard_records(path)
        except StoreError as error:
            _log.warning("%s; it is made again", error)
            path.unlink(missing_ok=True)
    return -1, []


# -- the work ----------------------------------------------------------------------------------------


def _execute(
    tasks: list[Batch],
    shards: dict[int, int],
    jobs: int,
    scheduler: str,
    progress: Callable[[int, int], None] | None,
    total: int,
) -> tuple[int, list[Failure]]:
    """Do the tasks; enter their shards into `shards`; return images stored and failures."""
    pending = {task.number: task for task in tasks}
    done = total - sum(len(task.sources) for task in tasks)
    if progress is not None:
        progress(done, total)
    stored, failures, restarts = 0, [], 0
    while pending:
        before = len(pending)
        with _workers(min(_jobs_here(jobs), before), scheduler) as submit:
            for future in as_completed([submit(task) for task in pending.values()]):
                try:
                    result: BatchResult = future.result()
                except Exception as error:
                    # Files that kill their reader are dealt with inside a task. A worker that is gone
                    # was killed by somebody else, and no file is to blame.
                    if type(error).__name__ not in _LOST_WORKERS:
                        raise
                    _log.warning("a worker was lost (%s); its files are read again", error)
                    continue
                task = pending.pop(result.number)
                if result.revision >= 0:
                    shards[result.number] = result.revision
                stored += result.stored
                failures += result.failures
                done += len(task.sources)
                if progress is not None:
                    progress(done, total)
        restarts = restarts + 1 if len(pending) == before else 0
        if restarts == _MAX_RESTARTS:
            raise RunError(
                f"workers were lost {restarts} times in a row without finishing a batch; "
                "what is finished is kept, the same command goes on from there"
            )
    return stored, failures


def _jobs_here(jobs: int) -> int:
    """Number of files to read at the same time; negative numbers count from the cores down."""
    return max(1, joblib.effective_n_jobs(jobs))


@contextmanager
def _workers(jobs: int, scheduler: str) -> Iterator[Callable[[Batch], Future]]:
    """A function that starts a task, here or on a cluster; at the end nothing is running any more."""
    if scheduler:
        with _client(scheduler) as client:
            cluster = client.get_executor(pure=False)
            try:
                yield lambda task: cluster.submit(process_batch, task)
            finally:
                # Cancels what an error or Ctrl-C left behind; otherwise nothing is running.
                cluster.shutdown(wait=False)
        return
    # Threads suffice, because all decoding happens in the readers' own processes.
    readers, executor = ReaderPool(), ThreadPoolExecutor(jobs)
    try:
        yield lambda task: executor.submit(process_batch, task, readers)
    finally:
        # The readers first, so that tasks which are running end at once; and then wait for them: a
        # thread that is inside HDF5 when the interpreter ends would keep it from ending.
        readers.close()
        executor.shutdown(wait=True, cancel_futures=True)


def _client(scheduler: str) -> AbstractContextManager[Any]:
    try:
        import distributed
    except ImportError as error:
        raise ParameterError(
            "scheduler: a Dask cluster needs the package distributed (pip install 'cxr[distributed]')"
        ) from error
    try:
        return distributed.Client(scheduler, timeout="30s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise ParameterError(f"scheduler: no Dask scheduler answers at {scheduler!r} ({error})") from error


# -- after the work ----------------------------------------------------------------------------------


def _write_tables(out_dir: Path, shards: dict[int, int], failures: list[Failure]) -> None:
    store = out_dir / "images"
    contents = [
        (shard_name(number, revision), read_shard_records(store / shard_name(number, revision)))
        for number, revision in sorted(shards.items())
    ]
    headers = pd.DataFrame(
        [
            {schema.IMAGE_ID: r.image_id, "split": r.split, **{c: r.header[c] for c in schema.HEADER_COLUMNS}}
            for _, records in contents
            for r in records
        ],
        columns=[schema.IMAGE_ID, "split", *schema.HEADER_COLUMNS],
    )
    failed = pd.DataFrame([f.__dict__ for f in failures], columns=FAILURE_COLUMNS)
    _write_csv(out_dir / "dicom_metadata.csv", headers.sort_values(["split", schema.IMAGE_ID]))
    _write_csv(out_dir / "failures.csv", failed.sort_values(["split", schema.IMAGE_ID, "file"]))
    # The index last: it is what makes the folder a store.
    write_index(store, contents)
    current = {name for name, _ in contents}
    for path in store.glob("shard-*.h5"):
        if path.name not in current:
            path.unlink(missing_ok=True)


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    write_atomically(path, table.to_csv(index=False, lineterminator="\n").encode("utf-8", "replace"))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
