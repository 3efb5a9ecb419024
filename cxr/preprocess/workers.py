"""Do tasks in parallel, here or on a Dask cluster, and outlive the loss of a worker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import joblib

from cxr.dicom import reasons
from cxr.errors import ParameterError, RunError
from cxr.preprocess.batch import Batch, BatchResult, ReaderPool, process_batch

_LOST_WORKERS = {"KilledWorker", "CommClosedError", "FutureCancelledError", "CancelledError"}
_MAX_RESTARTS = 5
_MAX_IN_VAIN = 2

_log = logging.getLogger("cxr")


def execute(
    tasks: list[Batch],
    *,
    jobs: int,
    scheduler: str,
    progress: Callable[[int], None] | None = None,
) -> dict[int, BatchResult]:
    """Do tasks side by side.

    Args:
        tasks: What to do.
        jobs: Files read at the same time on this machine; -1 for one a core.
        scheduler: Address of a Dask scheduler, empty for this machine.
        progress: Called in this thread with the number of files of each task that is done.

    Returns:
        Result of each task, by its number.

    Raises:
        DiskError: A shard cannot be written.
        ParameterError: There is no such scheduler.
        RunError: Workers were lost again and again.
    """
    pending = {task.number: task for task in tasks}
    results: dict[int, BatchResult] = {}
    restarts = 0
    while pending:
        before = len(pending)
        with _workers(min(jobs_here(jobs), before), scheduler) as submit:
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
                results[result.number] = result
                task = pending.pop(result.number)
                if progress is not None:
                    progress(len(task.sources))
        restarts = restarts + 1 if len(pending) == before else 0
        if restarts == _MAX_RESTARTS:
            raise RunError(
                f"workers were lost {restarts} times in a row without finishing a batch; "
                "what is finished is kept, the same command goes on from there"
            )
    return results


def retry_timeouts(
    tasks: list[Batch], results: dict[int, BatchResult], *, scheduler: str
) -> dict[int, BatchResult]:
    """Read files that took too long once more, one batch at a time with nothing else of ours running.

    On a busy machine a good file can run out of time. A file that hangs will do so again, so this
    ends when it has been in vain twice in a row.

    Args:
        tasks: All tasks.
        results: What came of them.
        scheduler: As for `execute`.

    Returns:
        The results, those of tasks that were repeated counting both times together.
    """
    results, in_vain = dict(results), 0
    for task in tasks:
        first = results[task.number]
        late = sum(failure.reason == reasons.TIMEOUT for failure in first.failures)
        if not late or in_vain == _MAX_IN_VAIN:
            continue
        _log.info("%d files took too long; they are read once more", late)
        again = execute([replace(task, revision=first.revision)], jobs=1, scheduler=scheduler)[task.number]
        in_vain = 0 if again.stored else in_vain + 1
        results[task.number] = replace(again, stored=first.stored + again.stored, kept=first.kept)
    return results


def jobs_here(jobs: int) -> int:
    """Number of files to read at the same time; negative numbers count from the cores down."""
    return max(1, joblib.effective_n_jobs(jobs))


@contextmanager
def _workers(jobs: int, scheduler: str) -> Iterator[Callable[[Batch], Future[Any]]]:
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
            "scheduler: a Dask cluster needs the package distributed (pip install distributed)"
        ) from error
    try:
        return distributed.Client(scheduler, timeout="30s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise ParameterError(f"scheduler: no Dask scheduler answers at {scheduler!r} ({error})") from error
