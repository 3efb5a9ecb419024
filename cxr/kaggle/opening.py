"""What every session begins with: the clock, children, a submission that is valid, and a look at the disk."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from cxr import annotations as ann
from cxr import errors, schema, submission
from cxr.dicom import load_radiograph
from cxr.errors import CxrError, DiskError, RunError
from cxr.features import pixel_features
from cxr.files import named_error, replacing, write_text
from cxr.kaggle.inputs import SAMPLE
from cxr.kaggle.settings import Settings
from cxr.preprocess import find_images, image_id_of
from cxr.rundir import write_json
from cxr.survey import sizes_of

KEPT_BYTES = 20_000_000_000
"""What Kaggle keeps of a session's output."""

_SAMPLES = 4
_HEADERS = 48
_SECONDS_TO_END = 60.0
_PROGRESS_EVERY = 60.0


class Clock:
    """The time of a session, from its first cell on.

    Args:
        minutes: Of the whole session.
    """

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes
        self._end = time.monotonic() + 60 * minutes

    @property
    def left(self) -> float:
        """Minutes left; below 0 when they are over."""
        return (self._end - time.monotonic()) / 60


@contextmanager
def one_line() -> Iterator[None]:
    """Turn an error of the first minute into one line that ends the notebook."""
    try:
        yield
    except OSError as error:
        raise SystemExit(f"cxr: {_line(named_error(error))}") from None
    except CxrError as error:
        raise SystemExit(f"cxr: {_line(error)}") from None


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def say(line: str) -> None:
    """A line of the session's log, at once."""
    print(line, flush=True)


def say_error(what: str, error: BaseException) -> None:
    """A line for an error that ends a part of the session, not the session."""
    say(f"cxr: {what}: {_line(error)}")


def run_child(
    task: str,
    values: Mapping[str, Any],
    folder: Path,
    *,
    processes: int = 1,
    minutes: float = 0.0,
    echo: bool = True,
) -> dict[str, Any]:
    """Do a task of `child` in a process of its own, or in several that train together.

    Args:
        task: A name of `child.TASKS`.
        values: What it works with.
        folder: For the file of the values and that of the result.
        processes: Started by `torchrun` where there are several.
        minutes: After which it is ended; 0 for never.
        echo: Show what it says; of its progress a line a minute.

    Returns:
        Its result.

    Raises:
        CxrError: The error it named.
        RunError: It ended otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, result = folder / f"{task}.json", folder / f"{task}.json.result"
    write_json(file, dict(values))
    result.unlink(missing_ok=True)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [
        sys.executable,
        *(launcher if processes > 1 else []),
        "-m",
        "cxr.kaggle.child",
        task,
        str(file),
    ]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    child = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    over = threading.Event()

    def stop() -> None:
        over.set()
        _end(child)

    timer = threading.Timer(60 * minutes, stop)
    timer.daemon = True
    last: list[str] = []
    try:
        if minutes:
            timer.start()
        assert child.stdout is not None
        for line in _thinned(child.stdout):
            last = [*last[-5:], line]
            if echo:
                say(f"    {line}")
        code = child.wait()
    finally:
        timer.cancel()
        _end(child)
    if not result.is_file():
        why = f"its {minutes:.0f} min were over" if over.is_set() else f"its process ended with status {code}"
        raise RunError(f"{task}: {why}: {' / '.join(last) or 'it said nothing'}")
    content: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    if "error" in content:
        raise getattr(errors, content["error"], RunError)(content["message"])
    return content


def _thinned(lines: Iterator[str] | Any) -> Iterator[str]:
    """Lines without empty ones, and of lines of progress one a minute: a session has thousands."""
    shown = -_PROGRESS_EVERY
    for line in lines:
        text = line.rstrip()
        progress = text.endswith(" left")
        if not text or (progress and time.monotonic() - shown < _PROGRESS_EVERY):
            continue
        shown = time.monotonic() if progress else shown
        yield text


def _end(child: subprocess.Popen[str]) -> None:
    """End a child and its children: politely, then for good."""
    for number, seconds in ((signal.SIGTERM, _SECONDS_TO_END), (signal.SIGKILL, None)):
        if child.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(seconds)


def test_ids(data: Path) -> list[str]:
    """Images to answer for: those of the sample submission, else all in `test/`."""
    if (data / SAMPLE).is_file():
        return submission.sample_ids(data / SAMPLE)
    return sorted({image_id_of(path) for path in find_images(data / "test")})


def write_fallback(settings: Settings, data: Path, image_ids: Sequence[str]) -> None:
    """A valid submission before anything is known: no finding on any image. A better one replaces it."""
    settings.working.mkdir(parents=True, exist_ok=True)
    nothing = pd.DataFrame(columns=schema.DETECTION_COLUMNS)
    path = settings.working / "submission.csv"
    submission.write(nothing, image_ids, path, classes=ann.read_classes(data))


def publish(settings: Settings, data: Path, made: Path) -> None:
    """Put a submission where the competition looks for it, once it has been checked.

    Raises:
        SubmissionError: It is not valid; the one before stays.
    """
    classes = ann.read_classes(data)
    if (data / SAMPLE).is_file():
        submission.check(made, data / SAMPLE, classes=classes)
    else:
        submission.parse(made, classes=classes)
    with replacing(settings.working / "submission.csv") as beside:
        shutil.copy(made, beside)


def check_room(settings: Settings, *, images: int, image_size: int, share: float = 1.0) -> None:
    """Refuse a session whose images will not fit where they are to lie.

    Args:
        settings: Of the session.
        images: How many are stored.
        image_size: Longer side, in pixels.
        share: What an image takes of a square of that side, see `share_of_square`.

    Raises:
        DiskError: The disk, or what Kaggle keeps, is too small.
    """
    needed = images * image_size**2 * share + 2_000_000_000 * settings.keep_images  # and checkpoints
    home = settings.working if settings.keep_images else settings.scratch
    home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home).free
    if settings.keep_images:
        free = min(free, KEPT_BYTES)
    if needed > free:
        raise DiskError(
            f"{home}: {images:,} images of {image_size} px need about {needed / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free; give a smaller image_size"
        )


def share_of_square(folders: Sequence[Path]) -> float:
    """What images of these folders take of a square of their longer side, by some headers, rounded up."""
    files = [file for folder in folders for file in find_images(folder)]
    some = files[:: max(1, len(files) // _HEADERS)][:_HEADERS]
    shares = [min(size) / max(size) for size in sizes_of(some, jobs=1).values() if size and min(size) > 0]
    return min(1.0, 1.03 * sum(shares) / len(shares)) if shares else 1.0


def reading_minutes(folders: Sequence[Path], *, image_size: int, features: bool = True) -> tuple[float, str]:
    """Minutes that preprocessing will take, from reading a few files now.

    Args:
        folders: Of images.
        image_size: Longer side of the images kept, in pixels.
        features: Whether pixel features are measured, too.

    Returns:
        The minutes, and how they come about in words.

    Raises:
        DataError: A folder holds no image.
    """
    files = [file for folder in folders for file in find_images(folder)]
    taken = []
    for file in files[:: max(1, len(files) // _SAMPLES)][:_SAMPLES]:
        started = time.perf_counter()
        with contextlib.suppress(CxrError):  # one that cannot be read will be among the failures
            radiograph = load_radiograph(file, longest_side=image_size)
            if features:
                pixel_features(radiograph.pixels)
        taken.append(time.perf_counter() - started)
    each, cores = sum(taken) / max(1, len(taken)), os.cpu_count() or 1
    return len(files) * each / cores / 60, f"{len(files):,} files, {each:.2f} s each, {cores} cores"


def attempt(what: str, work: Callable[[], object]) -> bool:
    """Do a part of a session; where it fails say so in a line and let the session go on."""
    try:
        work()
    except Exception as error:  # nothing that was finished may be lost
        say_error(what, named_error(error) if isinstance(error, OSError) else error)
        return False
    return True


def write_parameters(settings: Settings, text: str) -> Path:
    """Write the kernel's parameters as a file that `chain.load_parameters` reads."""
    path = settings.scratch / "kernel.yaml"
    write_text(path, text)
    return path
