"""Break the chain: kill it, damage what it left, take its disk and its file handles.

    python tests/campaign/chain.py WORK --kills 60 --files 40

makes a smoke-sized run undisturbed, then the same run under each trouble, and compares the tables. It
raises where something is not as promised, and prints a table otherwise. `WORK` is a folder to work in.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from campaign.tally import Row, counted, markdown

from cxr import chain, files, phantom, schema

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ROOT / "params" / "smoke.yaml"
MARK = "CXR_CAMPAIGN"
SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT}
ENDS = {"KILL": -signal.SIGKILL, "TERM": 128 + signal.SIGTERM, "INT": 130}
SECONDS_TO_VANISH = 60.0
"""A kernel notices within seconds that the run it belongs to is gone; the machine may be busy."""

TABLES = [
    schema.TRAIN_FULL_CSV,
    schema.HEADERS_CSV,
    schema.FEATURES_CSV,
    schema.CONSENSUS_CSV,
    schema.FOLDS_CSV,
    schema.OOF_CSV,
    schema.CLASSIFIER_TEST_CSV,
    schema.VAL_PREDICTIONS_CSV,
    schema.SUBMISSION_CSV,
    schema.SUBMISSION_TABLE_CSV,
    schema.SCORE_JSON,
]

Command = Callable[[Path], list[str]]


def content(run_dir: Path, tables: list[str]) -> dict[str, bytes]:
    """The tables of a run, none of which holds a time."""
    return {table: (run_dir / table).read_bytes() for table in tables}


def environment(work: Path) -> dict[str, str]:
    """For a run whose processes and temporary files can be told from others'."""
    (work / "tmp").mkdir(parents=True, exist_ok=True)
    return {**os.environ, MARK: str(work), "TMPDIR": str(work / "tmp"), "OMP_NUM_THREADS": "1"}


def living(work: Path) -> list[psutil.Process]:
    """Processes of the runs in a work folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(work) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def require_vanished(work: Path, run_dir: Path) -> None:
    """No process goes on, and the run's folder is free."""
    until = time.monotonic() + SECONDS_TO_VANISH
    while living(work) and time.monotonic() < until:
        time.sleep(0.2)
    assert not living(work), [p.cmdline() for p in living(work)]
    if (run_dir / ".lock").exists():
        with open(run_dir / ".lock", "a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def require_tidy(work: Path, run_dir: Path) -> None:
    """After a run that ended well nothing is left over."""
    left = [
        p for p in run_dir.rglob("*") if files.is_temporary(p) or p.name.endswith((".part", ".failed.ipynb"))
    ]
    assert not left, left
    # PyTorch keeps a cache for each user there, of which there is one however many runs there are.
    left = [p for p in (work / "tmp").iterdir() if not p.name.startswith("torchinductor_")]
    assert not left, left


def kills(
    work: Path, number: int, seed: int, command: Command, expected: dict[str, bytes], longest_s: float = 25.0
) -> list[Row]:
    """Stop the run again and again, in three ways, the group or the parent alone, and let it go on."""
    rng, outcomes, stages = random.Random(seed), Counter[str](), Counter[str]()
    run_dir, finished, done = work / "killed", 0, 0
    while done < number:
        name = rng.choice(list(SIGNALS))
        alone = rng.random() < 0.5
        log = work / "log"
        with open(log, "w") as out:
            process = subprocess.Popen(
                command(run_dir), env=environment(work), stdout=out, stderr=out, start_new_session=True
            )
            while process.poll() is None and not log.stat().st_size:  # Python itself is starting
                time.sleep(0.02)
            until = time.monotonic() + rng.uniform(0.0, longest_s)
            while process.poll() is None and time.monotonic() < until:
                time.sleep(0.02)
            if process.poll() is None:
                (os.kill if alone else os.killpg)(process.pid, SIGNALS[name])
            status = process.wait(timeout=120)
        said = log.read_text(errors="replace")
        if status == 0:
            finished += 1
            require_vanished(work, run_dir)
            require_tidy(work, run_dir)
            assert content(run_dir, list(expected)) == expected, (
                "other tables than those of an undisturbed run"
            )
            shutil.rmtree(run_dir)
            continue
        assert status in (ENDS[name], -SIGNALS[name]), f"{name}: {status}\n{said[-3000:]}"
        assert "Traceback" not in said, said[-3000:]
        require_vanished(work, run_dir)
        done += 1
        print(f"{done} of {number}, {finished} whole runs", file=sys.stderr, flush=True)
        outcomes[f"{name} to {'the parent' if alone else 'the group'}"] += 1
        running = [
            line.split("] ")[1].split(":")[0] for line in said.splitlines() if line.endswith(": running")
        ]
        stages[running[-1] if running else "between notebooks"] += 1
    # What was stopped last goes on to its end.
    subprocess.run(command(run_dir), env=environment(work), check=True, capture_output=True)
    require_tidy(work, run_dir)
    assert content(run_dir, list(expected)) == expected
    finished += 1
    return [
        Row(f"run stopped: {counted(outcomes)}", number, f"went on, {finished} whole runs with equal tables"),
        Row("the same by stage", number, counted(stages)),
    ]


def damage(run_dir: Path, outdated: Callable[[], list[str]], number: int, seed: int) -> list[Row]:
    """A flipped bit, a truncation, a deletion in files of every kind: which notebooks run again."""
    rng, rows = random.Random(seed), []
    kinds: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(run_dir.glob("[0-9][0-9]_*/**/*")):
        if path.is_file() and not path.name.startswith("."):
            kinds.setdefault((path.relative_to(run_dir).parts[0], path.suffix), []).append(path)
    chosen = [rng.choice(paths) for paths in kinds.values()]
    others = sorted({p for paths in kinds.values() for p in paths} - set(chosen))
    chosen += rng.sample(others, max(0, min(number - len(chosen), len(others))))
    assert outdated() == []
    for what in ("a bit flipped, size and time kept", "cut to a half", "deleted"):
        for path in chosen[:number]:
            content, status = path.read_bytes(), path.stat()
            if what.startswith("a bit"):
                place = rng.randrange(len(content))
                path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            elif what == "deleted":
                path.unlink()
            else:
                os.truncate(path, len(content) // 2)
            owner, again = path.relative_to(run_dir).parts[0], outdated()
            assert owner in again, (what, path, again)
            # A reader counts as outdated as long as its input is not what it was made from.
            assert min(again) == owner, (what, path, again)
            path.write_bytes(content)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            assert outdated() == []
        rows.append(
            Row(
                f"a file of a run {what}",
                len(chosen[:number]),
                "noticed; the notebook that writes it runs again",
            )
        )
    return rows


def repairs(work: Path, run_dir: Path, command: Command, expected: dict[str, bytes]) -> list[Row]:
    """Damage of each kind, then the same command: the tables are equal again."""
    kinds = [
        next(run_dir.glob(f"{schema.IMAGES_DIR}/shard-*.h5")),
        run_dir / schema.IMAGES_DIR / "index.csv",
        run_dir / schema.CONSENSUS_CSV,
        run_dir / schema.CLASSIFIER_UBJ,
        run_dir / f"{schema.CLASSIFIER_UBJ}.sha256",
        next(run_dir.glob(f"{schema.CHECKPOINTS_DIR}/fold*/best.ckpt")),
        next(run_dir.glob(f"{schema.CHECKPOINTS_DIR}/fold*/last.ckpt")),
        run_dir / "07_evaluation" / "manifest.json",
        run_dir / schema.SUBMISSION_CSV,
        run_dir / chain.PARAMETERS,
        run_dir / "report.html",
    ]
    for path in kinds:
        content_before, status = path.read_bytes(), path.stat()
        place = len(content_before) // 2
        path.write_bytes(
            content_before[:place] + bytes([content_before[place] ^ 1]) + content_before[place + 1 :]
        )
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        done = subprocess.run(
            command(run_dir), env=environment(work), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (path, done.stdout[-2000:], done.stderr[-2000:])
        assert content(run_dir, list(expected)) == expected, path
        require_tidy(work, run_dir)
    return [Row("a bit flipped in a file of each kind, then the same command", len(kinds), "equal tables")]


def small_disks(work: Path, command: Command, expected: dict[str, bytes], sizes: list[str]) -> list[Row]:
    """A real disk that is too small or read-only, in a mount namespace of its own; then room is made."""
    if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        return [Row("a full or read-only disk", 0, "not tried: mount namespaces are not allowed here")]
    rows = []
    for options, repair, advice in [
        *[(f"size={size}", "size=512m", "the disk is full") for size in sizes],
        ("size=64m,ro", "rw", "the disk is read-only"),
    ]:
        here = work / f"disk-{options.replace(',', '-')}"
        (here / "out").mkdir(parents=True)
        (here / "kept").mkdir()
        quoted = " ".join(command(here / "out" / "run"))
        script = (
            f"mount -t tmpfs -o {options} none {here}/out; {quoted} > {here}/said 2>&1; "
            f"echo $? > {here}/status; "
            f"mount -o remount,{repair} {here}/out && {quoted} > {here}/again 2>&1; "
            f"cp -r {here}/out/run {here}/kept/"
        )
        subprocess.run(
            ["unshare", "-rm", "bash", "-c", script], env=environment(work), check=False, capture_output=True
        )
        said, status = (here / "said").read_text(), (here / "status").read_text().strip()
        assert status in ("1", "2"), said[-2000:]
        assert advice in said.splitlines()[-1], said[-2000:]
        assert "Traceback" not in said, said[-2000:]
        assert content(here / "kept" / "run", list(expected)) == expected, (here / "again").read_text()[
            -2000:
        ]
        rows.append(Row(f"a disk with {options}", 1, f"exit {status}, “{advice} …”; with room, equal tables"))
    return rows


def handles(work: Path, command: Command, expected: dict[str, bytes], limits: list[int]) -> list[Row]:
    """Few file handles: the run is done, or one line says why not."""
    outcomes: Counter[str] = Counter()
    for limit in limits:
        run_dir = work / f"handles-{limit}"
        quoted = " ".join(command(run_dir))
        done = subprocess.run(
            ["bash", "-c", f"ulimit -n {limit}; exec {quoted}"],
            env=environment(work),
            capture_output=True,
            text=True,
            check=False,
        )
        require_vanished(work, run_dir)
        if done.returncode == 0:
            assert content(run_dir, list(expected)) == expected
            outcomes["done"] += 1
            continue
        last = (done.stderr.strip().splitlines() or [""])[-1]
        assert done.returncode in (1, 2) and last.startswith("cxr: "), (limit, done.stderr[-3000:])
        outcomes["one line says why"] += 1
        subprocess.run(command(run_dir), env=environment(work), check=True, capture_output=True)
        assert content(run_dir, list(expected)) == expected
    return [Row(f"at most {', '.join(map(str, limits))} file handles", len(limits), counted(outcomes))]


def main() -> int:
    """Run the parts asked for and print their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("work", type=Path, help="folder to work in")
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--files", type=int, default=40, help="files to damage")
    parser.add_argument("--disks", nargs="*", default=["300k", "2m", "6m"], help="sizes of small disks")
    parser.add_argument("--handles", nargs="*", type=int, default=[24, 40, 64, 128])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="names of parts")
    asked = parser.parse_args()
    work = asked.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    data = phantom.make_phantom(work / "data", images=16, test_images=6, size=256, seed=3, jobs=1)

    def command(run_dir: Path) -> list[str]:
        run = [
            sys.executable,
            "-m",
            "cxr",
            "run",
            str(SMOKE),
            "-p",
            f"data_dir={data}",
            "-p",
            f"run_dir={run_dir}",
        ]
        return [*run, "-p", "jobs=2"]

    reference = work / "undisturbed"
    subprocess.run(command(reference), env=environment(work), check=True, capture_output=True)
    require_tidy(work, reference)
    expected = content(reference, TABLES)

    def outdated() -> list[str]:
        return chain.outdated(chain.load_parameters(reference / chain.PARAMETERS))

    parts: dict[str, Callable[[], list[Row]]] = {
        "damage": lambda: damage(reference, outdated, asked.files, asked.seed),
        "kills": lambda: kills(work, asked.kills, asked.seed, command, expected),
        "disks": lambda: small_disks(work, command, expected, asked.disks),
        "handles": lambda: handles(work, command, expected, asked.handles),
        "repairs": lambda: repairs(work, reference, command, expected),
    }
    rows = []
    for name, part in parts.items():
        if not asked.only or name in asked.only:
            start = time.monotonic()
            new = part()
            rows += new
            print(f"{name}: {time.monotonic() - start:.0f} s\n{markdown(new)}", flush=True)
    print(markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
