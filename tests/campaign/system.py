"""A system that refuses: full and read-only disks, no memory, no file handles, a clock that jumps."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import shutil
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from campaign import quick
from campaign.reading import REFUSALS, failing_at
from campaign.tally import Row, counted

from cxr import files

if TYPE_CHECKING:
    from campaign.chain import Bench

_CLONE_NEWNS = 0x00020000


def _refusing(place: int, number: int) -> Callable[[], None]:
    """For `before`: the call that brings a file to the disk fails once."""
    return lambda: setattr(files, "_sync", failing_at(place, number))


def refusals(bench: Bench, number: int, seed: int) -> list[Row]:
    """One of the writes of each stage in turn is refused; the same command then goes on."""
    rng, outcomes, stages = random.Random(seed), Counter[str](), Counter[str]()
    for turn in range(number):
        code = list(REFUSALS)[turn % len(REFUSALS)]
        stage, place, status = turn // len(REFUSALS) % bench.stages + 1, 2 * rng.randrange(16), 0
        while status == 0:  # fewer writes than that
            place //= 2
            run_dir = bench.up_to(stage, "refused")
            status, said = quick.run(bench.arguments(run_dir), bench.work, _refusing(place, code))
        line = quick.failure(said)
        assert status in (1, 2) and REFUSALS[code] in line and str(run_dir) in line, (status, line)
        outcomes[f"“{REFUSALS[code]} …”"] += 1
        stages[_stage(said)] += 1
        bench.finish(run_dir)
    told = f"one line, exit 1 or 2: {counted(outcomes)}; in {counted(stages)}; then equal tables"
    return [Row("a write of a run refused (simulated), six errors in each stage", number, told)]


def _stage(said: str) -> str:
    running = [line for line in said.splitlines() if line.endswith(": running")]
    return running[-1].split("] ")[1].split(":")[0] if running else "before the first"


# -- disks -------------------------------------------------------------------------------------------


def disks(bench: Bench, number: int, seed: int) -> list[Row]:
    """In each stage a real disk with little room, and a read-only one; then room is made."""
    rng, outcomes = random.Random(seed), {kind: Counter[str]() for kind in ("full", "read-only")}
    for stage in range(1, number + 1):
        for kind, counts in outcomes.items():
            counts[_on_a_disk(bench, stage, kind, room=rng.choice([0, 8, 40]) * 1024)] += 1
    return [
        Row(f"a disk that is {kind} when a stage begins, each in turn", sum(counts.values()), counted(counts))
        for kind, counts in outcomes.items()
    ]


def _on_a_disk(bench: Bench, stage: int, kind: str, room: int) -> str:
    """In a mount namespace of its own, so that the disk goes with the process."""
    told = bench.work / "told"
    told.write_text("")
    process = os.fork()
    if not process:
        try:
            told.write_text(_run_there(bench, stage, kind, room))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(process, 0)
    assert status == 0, (stage, kind)
    return told.read_text()


def _run_there(bench: Bench, stage: int, kind: str, room: int) -> str:
    disk = bench.work / "disk"
    disk.mkdir(exist_ok=True)
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "mount namespaces are not allowed here")
    _mount("--make-rprivate", "/")
    _mount("-t", "tmpfs", "-o", "size=64m", "none", str(disk))
    run_dir = bench.up_to(stage, "disk/run")
    filler = disk / "filler"
    if kind == "full":
        free = os.statvfs(disk)
        with open(filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_bsize - room)
    else:
        _mount("-o", "remount,ro", str(disk))
    status, said = quick.run(bench.arguments(run_dir), bench.work)
    line = quick.failure(said)
    advice = "the disk is full" if kind == "full" else "the disk is read-only"
    assert status == (1 if kind == "full" else 2) and advice in line and str(run_dir) in line, (status, line)
    if kind == "full":
        filler.unlink()
    else:
        _mount("-o", "remount,rw", str(disk))
    bench.finish(run_dir)
    return f"exit {status}, “{advice} …”; with room, equal tables"


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


# -- limits ------------------------------------------------------------------------------------------


def memory(bench: Bench, number: int, seed: int) -> list[Row]:
    """Little address space beyond what the loaded program has, in each stage."""
    vms = psutil.Process().memory_info().vms
    extras = [0, 8, 32, 64, 128, 256]
    return _limits(bench, number, "MiB of address space more", resource.RLIMIT_AS, extras, 2**20, vms)


def handles(bench: Bench, number: int, seed: int) -> list[Row]:
    """Few file handles beyond those that are open, in each stage."""
    extras = [2, 3, 4, 6, 8, 12, 16, 32]
    return _limits(
        bench,
        number,
        "file handles more",
        resource.RLIMIT_NOFILE,
        extras,
        1,
        len(os.listdir("/proc/self/fd")),
    )


def _limits(
    bench: Bench, number: int, word: str, what: int, extras: list[int], unit: int, base: int
) -> list[Row]:
    outcomes = Counter[str]()
    for turn in range(number):
        stage = turn % bench.stages + 1
        extra = extras[(turn // bench.stages + turn) % len(extras)]
        run_dir = bench.up_to(stage, "limited")
        status, said = quick.run(bench.arguments(run_dir), bench.work, quick.limit(what, base + unit * extra))
        if status == 0:
            outcomes["done"] += 1
        else:
            assert status in (1, 2), (stage, extra, status, said[-2000:])
            quick.failure(said)
            outcomes["one line says why not"] += 1
        bench.finish(run_dir)
    return [
        Row(f"from {extras[0]} to {extras[-1]} {word}", number, f"{counted(outcomes)}; then equal tables")
    ]


# -- the clock ---------------------------------------------------------------------------------------


def _jumping(seed: int) -> Callable[[], None]:
    """For `before`: no look at the clock agrees with the one before."""
    rng, now, replace = random.Random(seed), time.time, os.replace

    def jump() -> float:
        return now() + rng.choice([-1e7, -86400.0, -1.0, 0.0, 3600.0, 1e7])

    def put(source: Path, target: Path) -> None:
        replace(source, target)
        os.utime(target, (jump(), jump()))

    def before() -> None:
        time.time, os.replace = jump, put  # type: ignore[assignment]

    return before


def clock(bench: Bench, number: int, seed: int) -> list[Row]:
    """The time of day jumps by days, both ways, at every look at it, and so do the times of files."""
    for turn in range(number):
        run_dir = bench.work / "clock"
        shutil.rmtree(run_dir, ignore_errors=True)
        status, said = quick.run(bench.arguments(run_dir), bench.work, _jumping(seed + turn))
        assert status == 0, said[-3000:]
        bench.compare(run_dir)
        assert bench.finish(run_dir) == []
    return [Row("a clock that jumps by up to 116 days", number, "equal tables; the next call is up to date")]
