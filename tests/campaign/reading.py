"""The campaign against reading and preprocessing. Long, by hand:

    cd tests && python -m campaign.reading --mutants 1000 --kills 60 --files 100000

prints the table of docs/reliability.md and fails with an `AssertionError` where a promise is broken.
`tests/test_campaign.py` runs a short part of it.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pytest
from campaign.mutants import write_mutants
from campaign.tally import Row, counted, markdown
from dicom_files import chest, write_dicom
from pydicom.uid import JPEG2000Lossless

from cxr import files
from cxr.dicom import reasons
from cxr.errors import DataError, DiskError
from cxr.files import is_temporary
from cxr.preprocess import preprocess
from cxr.store import ImageStore

ROOT = Path(__file__).resolve().parents[2]
SIZE = 48


# -- what a run leaves -------------------------------------------------------------------------------


def content(out: Path) -> dict[str, object]:
    """Tables, ids and pixels of a finished run."""
    store = ImageStore(out)
    assert store.verify() == []
    names = ("dicom_metadata.csv", "failures.csv", "images/index.csv")
    return {name: (out / name).read_bytes() for name in names} | {i: store[i].tobytes() for i in store.ids}


def assert_nothing_left(out: Path) -> None:
    """No temporary file, and nobody holds the folder."""
    assert [p for p in out.rglob("*") if is_temporary(p)] == []
    with open(out / "images" / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def radiographs(folder: Path, number: int) -> Path:
    """A folder of small sound files, every fifth compressed."""
    folder.mkdir(parents=True)
    for k in range(number):
        syntax = {"syntax": JPEG2000Lossless} if k % 5 == 0 else {}
        write_dicom(folder / f"i{k:04d}.dicom", chest(60 + k % 30, 50, seed=k), **syntax)
    return folder


def command(folder: Path, out: Path, *options: str) -> list[str]:
    """The command line of a preprocessing with two workers."""
    common = ["--image-size", str(SIZE), "--jobs", "2"]
    return [sys.executable, "-m", "cxr", "preprocess", str(folder), str(out), *common, *options]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


# -- damaged files -----------------------------------------------------------------------------------


def damaged_files(work: Path, number: int, seed: int) -> list[Row]:
    """Mutated DICOM, PNG and JPEG files through preprocessing and through the reading of `cxr predict`."""
    paths = write_mutants(work / "mutants", number, seed)
    started = time.monotonic()
    result = preprocess(
        {"a": paths[0].parent}, work / "store", image_size=SIZE, jobs=2, max_failed_fraction=1.0
    )
    seconds = time.monotonic() - started
    failures = pd.read_csv(work / "store" / "failures.csv", dtype=str, keep_default_na=False)
    assert result.stored + result.failed == len(paths) and len(failures) == result.failed
    assert set(failures["reason"]) <= set(reasons.ALL) - {reasons.CRASHED, reasons.TIMEOUT}
    assert all(text.isprintable() for text in failures["message"])
    content(work / "store")
    found = counted({"read": result.stored, **Counter(failures["reason"])})
    rows = [Row("`cxr preprocess`: mutated files", number, f"all named in {seconds:.0f} s: {found}")]

    # Only here: it takes torch along.
    from cxr.detector.prediction.files import read_ahead

    outcomes: Counter[str] = Counter()
    named = [(path.stem, path) for path in paths]
    for held, failed, _ in read_ahead(named, longest_side=SIZE, chunk=64, decoders=2):
        outcomes.update({"read": len(held)} | Counter(reason for _, reason, _ in failed))
    assert sum(outcomes.values()) == number and outcomes["read"] == result.stored
    assert set(outcomes) <= set(reasons.ALL) - {reasons.CRASHED, reasons.TIMEOUT} | {"read"}
    return [
        *rows,
        Row("the reading of `cxr predict`: the same files", number, "the same read and named"),
    ]


# -- kills -------------------------------------------------------------------------------------------

KILLS = [(kind, group) for kind in ("SIGKILL", "SIGTERM", "SIGINT") for group in (True, False)]


def kills(work: Path, number: int, seed: int) -> list[Row]:
    """Kill a two-worker preprocessing at random moments, go on, and compare with an undisturbed run."""
    rng = random.Random(seed)
    folder = radiographs(work / "kill-in", 60)
    preprocess({"": folder}, work / "undisturbed", image_size=SIZE, jobs=1)
    expected = content(work / "undisturbed")
    exits: dict[tuple[str, bool], Counter[str]] = {kill: Counter() for kill in KILLS}
    for turn in range(-(-number // len(KILLS))):
        out, temporary = work / f"kill-out{turn}", work / f"kill-tmp{turn}"
        temporary.mkdir()
        for name, group in KILLS:
            exits[name, group][_kill_once(folder, out, temporary, name, group, rng)] += 1
        subprocess.run(
            command(folder, out), env=environment(TMPDIR=str(temporary)), check=True, capture_output=True
        )
        assert content(out) == expected
        assert_nothing_left(out)
        assert list(temporary.iterdir()) == [], "left in the temporary folder"
    return [
        Row(
            f"preprocessing with two workers: {name} to {'the group' if group else 'the parent'}",
            sum(counts.values()),
            f"exit {counted(counts)}; equal after going on; no process, lock or file left",
        )
        for (name, group), counts in exits.items()
    ]


def _kill_once(folder: Path, out: Path, temporary: Path, name: str, group: bool, rng: random.Random) -> str:
    """Start, kill at a random moment, wait for all of its processes to end; say how it ended."""
    process = subprocess.Popen(
        command(folder, out),
        env=environment(TMPDIR=str(temporary)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # A parent may have switched Ctrl-C off, and a child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    # Before the command has begun, Python itself answers a signal.
    deadline = time.monotonic() + 60
    while process.poll() is None and not _begun(out, process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 2.0))
    kind = signal.Signals[name]
    try:
        if group:
            os.killpg(process.pid, kind)
        else:
            os.kill(process.pid, kind)
    except ProcessLookupError:
        pass
    _, said = process.communicate(timeout=60)
    assert b"Traceback" not in said, said.decode(errors="replace")
    code = process.returncode
    assert code in (0, {"SIGKILL": -9, "SIGTERM": 143, "SIGINT": 130}[name]), (code, said)
    deadline = time.monotonic() + 30
    while left := in_session(process.pid):
        assert time.monotonic() < deadline, f"processes left: {left}"
        time.sleep(0.05)
    return "0 (done before)" if code == 0 else str(code)


def _begun(out: Path, process: int) -> bool:
    lock = out / "images" / ".lock"
    return lock.exists() and lock.read_text().startswith(f"process {process} ")


def in_session(session: int) -> list[str]:
    """Processes of a session that still run."""
    found = []
    for process in psutil.process_iter(["pid", "status"]):
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except (ProcessLookupError, PermissionError, psutil.Error):
            continue
    return found


# -- disks -------------------------------------------------------------------------------------------

REFUSALS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your share of the disk is used up",
    errno.EIO: "the disk reports an error",
    errno.EROFS: "the disk is read-only",
    errno.ESTALE: "the network drive has lost the file",
    errno.EMFILE: "too many open files",
}


def refused_writes(work: Path, most: int = 1000) -> list[Row]:
    """Let each write of a run fail in turn, simulated, with each error; then go on.

    Args:
        work: Folder to work in.
        most: Writes to try of each kind; a run has about a dozen.
    """
    folder = radiographs(work / "disk-in", 24)
    undisturbed = work / "disk-undisturbed"
    preprocess({"": folder}, undisturbed, image_size=SIZE, jobs=1)
    expected = content(undisturbed)
    rows = []
    for number, advice in REFUSALS.items():
        tries = 0
        for place in range(most):
            out = work / f"disk-{number}-{place}"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(files, "_sync", failing_at(place, number))
                try:
                    preprocess({"": folder}, out, image_size=SIZE, jobs=2)
                    break
                except (DiskError, DataError) as error:
                    assert advice in str(error) and str(out) in str(error), error
            tries += 1
            preprocess({"": folder}, out, image_size=SIZE, jobs=2)
            assert content(out) == expected
            assert_nothing_left(out)
            shutil.rmtree(out)
        assert tries, "no write was refused"
        name = errno.errorcode[number]
        rows.append(
            Row(
                f"each write of a run refused in turn, {name} (simulated)",
                tries,
                f"“{advice} …”, then equal",
            )
        )
    return rows


def failing_at(place: int, number: int) -> Callable[[Path], None]:
    """A stand-in for the call that brings a file to the disk, which fails once."""
    calls = iter(range(1_000_000))

    def sync(path: Path) -> None:
        # That a folder cannot be brought to the disk is forgiven: network drives refuse it.
        if path.is_file() and next(calls) == place:
            raise OSError(number, os.strerror(number), str(path))

    return sync


_SMALL_DISK = """
set -e
mount -t tmpfs -o size={size} none {out}
set +e
{command} 2>{said}
echo $? >{status}
{check}
set -e
mount -o remount,{repair} {out}
{command}
cp -r {out}/. {kept}
"""


def small_disks(work: Path) -> list[Row]:
    """A real disk that is too small, and one that is read-only, in a mount namespace of their own."""
    if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        return [Row("real full and read-only disks", 0, "not tried: mount namespaces are not allowed here")]
    folder = radiographs(work / "small-in", 24)
    preprocess({"": folder}, work / "small-undisturbed", image_size=SIZE, jobs=1)
    expected = content(work / "small-undisturbed")
    rows = []
    for kind, size, repair, advice in (
        ("full", "16k", "size=64m", "the disk is full"),
        ("full", "48k", "size=64m", "the disk is full"),
        ("read-only", "64m,ro", "rw", "the disk is read-only"),
    ):
        here = work / f"small-{size.replace(',', '-')}"
        names = {name: here / name for name in ("out", "said", "status", "kept")}
        for name in ("out", "kept"):
            names[name].mkdir(parents=True)
        quoted = " ".join(command(folder, names["out"]))
        script = _SMALL_DISK.format(size=size, repair=repair, command=quoted, check="true", **names)
        subprocess.run(
            ["unshare", "-rm", "bash", "-c", script], env=environment(), check=True, capture_output=True
        )
        said, status = names["said"].read_text(), int(names["status"].read_text())
        assert status in (1, 2) and advice in said and str(names["out"]) in said, said
        assert "Traceback" not in said
        assert content(names["kept"]) == expected
        rows.append(Row(f"a disk that is {kind} ({size})", 1, f"exit {status}, “{advice} …”; then equal"))
    return rows


# -- limits of the system ----------------------------------------------------------------------------


def limits(work: Path, sizes_mib: list[int], handles: list[int]) -> list[Row]:
    """Little memory and few file handles: the work is done or one line says why not."""
    folder = radiographs(work / "limit-in", 12)
    preprocess({"": folder}, work / "limit-undisturbed", image_size=SIZE, jobs=1)
    expected = content(work / "limit-undisturbed")
    rows = []
    for option, values, word in (
        ("-v", [1024 * m for m in sizes_mib], "KiB of address space"),
        ("-n", handles, "file handles"),
    ):
        if not values:
            continue
        outcomes: Counter[str] = Counter()
        for value in values:
            out = work / f"limit{option}{value}"
            quoted = " ".join(command(folder, out))
            done = subprocess.run(
                ["bash", "-c", f"ulimit -c 0; ulimit {option} {value}; exec {quoted}"],
                env=environment(OPENBLAS_NUM_THREADS="1"),
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            if done.returncode == 0:
                assert content(out) == expected
                outcomes["done"] += 1
                continue
            last = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
            # The interpreter itself cannot start below some limit; that is beyond this program.
            started = (out / "images").exists()
            assert "Traceback" not in done.stderr or not started, done.stderr
            outcomes["one line" if started else "the interpreter could not start"] += 1
            assert last, "it said nothing"
            if started:
                subprocess.run(command(folder, out), env=environment(), check=True, capture_output=True)
                assert content(out) == expected
                assert_nothing_left(out)
        low, high = min(values), max(values)
        rows.append(Row(f"from {low:,} to {high:,} {word}", len(values), f"{counted(outcomes)}; then equal"))
    return rows


# -- what lies in a folder ---------------------------------------------------------------------------


def odd_entries(work: Path) -> list[Row]:
    """FIFOs, devices, sockets, circles of links and names of all kinds among radiographs."""
    folder = radiographs(work / "odd-in", 4)
    raw = os.fsencode(folder)
    os.mkfifo(folder / "fifo.dcm")
    os.symlink(folder / "fifo.dcm", folder / "link to fifo.dcm")
    for device in ("zero", "full", "null", "random", "tty"):
        os.symlink(f"/dev/{device}", folder / f"{device}.dcm")
    with socket.socket(socket.AF_UNIX) as listener:
        # A socket's path must be short.
        inside = os.open(folder, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{inside}/socket.dcm")
        os.close(inside)
    os.symlink("circle b.dcm", folder / "circle a.dcm")
    os.symlink("circle a.dcm", folder / "circle b.dcm")
    os.symlink(".", folder / "myself.dcm")
    os.symlink("gone", folder / "dangling.dcm")
    (folder / "folder.dcm").mkdir()
    strange = [b"new\nline.dcm", b"esc\x1b[2J.dcm", b"latin\xe9.dcm", b"back\\slash.dcm", b"tab\t.dcm"]
    sound = [
        "a" * 250 + ".dcm",
        "$x^2$.dcm",
        "=1+1.dcm",
        "ünïcödé 画像.dcm",
        "a..b.dcm",
        "NA.dcm",
        "007.dcm",
    ]
    content_of_one = (folder / "i0000.dicom").read_bytes()
    for name in [*strange, *map(os.fsencode, sound)]:
        with open(os.path.join(raw, name), "wb") as file:
            file.write(content_of_one)
    started = time.monotonic()
    result = preprocess({"a": folder}, work / "odd-out", image_size=SIZE, jobs=2, max_failed_fraction=1.0)
    seconds = time.monotonic() - started
    assert seconds < 60, "something was waited for"
    table = (work / "odd-out" / "failures.csv").read_text(encoding="utf-8")
    assert all(letter.isprintable() or letter == "\n" for letter in table)
    failures = pd.read_csv(work / "odd-out" / "failures.csv", dtype=str, keep_default_na=False)
    assert Counter(failures["reason"])[reasons.BAD_NAME] == len(strange)
    store = ImageStore(work / "odd-out")
    stems = {name.removesuffix(".dcm") for name in sound}
    assert set(store.ids) == {f"i{k:04d}" for k in range(4)} | stems, failures.to_string()
    content(work / "odd-out")
    number = len(os.listdir(folder))
    named = counted(Counter(failures["reason"]))
    outcome = f"{result.stored} read, {result.failed} named ({named}), {result.ignored} ignored"
    return [Row("FIFOs, devices, sockets, link circles, strange names", number, outcome)]


def many_files(work: Path, number: int) -> list[Row]:
    """A folder of very many small radiographs, and the same again."""
    folder = work / "many-in"
    sound = radiographs(work / "many-sound", 4)
    originals = [path.read_bytes() for path in sorted(sound.iterdir())]
    folder.mkdir()
    for k in range(number):
        (folder / f"{k:07d}.dcm").write_bytes(originals[k % 4])
    said, seconds = [], []
    for _ in range(2):
        started = time.monotonic()
        line = [sys.executable, "-c", _PEAK, *command(folder, work / "many-out")]
        done = subprocess.run(line, env=environment(), capture_output=True, text=True, check=True)
        seconds.append(time.monotonic() - started)
        said.append(done.stdout + done.stderr)
    assert f"stored {number:,}" in said[0] and f"skipped {number:,}" in said[1], said
    peaks = [int(re.findall(r"PEAK (\d+)", text)[-1]) for text in said]
    assert len(ImageStore(work / "many-out")) == number
    outcome = (
        f"stored in {seconds[0]:.0f} s; again {seconds[1]:.0f} s, all skipped; "
        f"largest process {max(peaks)} MiB"
    )
    return [Row("files in one folder", number, outcome)]


_PEAK = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:])
print("PEAK", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
sys.exit(done.returncode)
"""


# -- all of it ---------------------------------------------------------------------------------------


def main() -> int:
    """Run the parts asked for and print their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mutants", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="names of parts")
    asked = parser.parse_args()
    parts: dict[str, Callable[[Path], list[Row]]] = {
        "damaged": lambda work: damaged_files(work, asked.mutants, asked.seed),
        "kills": lambda work: kills(work, asked.kills, asked.seed),
        "refused": refused_writes,
        "disks": small_disks,
        "limits": lambda work: limits(
            work, [200, 300, 400, 600, 800, 1200, 1600, 2400, 3200], [8, 12, 16, 20, 24, 32, 48, 64]
        ),
        "odd": odd_entries,
        "many": lambda work: many_files(work, asked.files),
    }
    rows: list[Row] = []
    for name, part in parts.items():
        if asked.only and name not in asked.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            rows += part(Path(folder))
            print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    print(markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
