"""The campaign against the whole chain. Long, by hand:

    cd tests && python -m campaign.chain WORK --kills 200 --only kills damage models

prints the table of docs/reliability.md and fails with an `AssertionError` where a promise is broken.
`quick.py` says how a run takes seconds here. `tests/test_campaign.py` runs a short part of it.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from campaign import images, models, quick, reading, system
from campaign.tally import Row, counted, markdown
from smoke_run import SMOKE, TABLES

from cxr import files, phantom, schema

STAGES = (
    "01_eda", "02_preprocess", "03_features", "04_split",
    "05_classifier", "06_detector", "07_evaluation", "08_submission",
)  # fmt: skip
SIGNALS = {"SIGKILL": -9, "SIGTERM": 143, "SIGINT": 130}
KILLS = [(name, group) for name in SIGNALS for group in (True, False)]
INDEX = f"{schema.IMAGES_DIR}/index.csv"
COMPARED = [*TABLES, schema.SCORE_JSON, INDEX]


class Bench:
    """A small phantom, an undisturbed run of it, and a folder to work in.

    Args:
        work: The folder.
        stages: How many of the chain's notebooks, from the first.
    """

    def __init__(self, work: Path, stages: int = 8) -> None:
        self.work, self.reference, self.stages = work.resolve(), work.resolve() / "undisturbed", stages
        self.work.mkdir(parents=True, exist_ok=True)
        size = {"images": 12, "test_images": 4, "size": 256, "seed": 3, "jobs": 1}
        self.data = phantom.make_phantom(self.work / "data", **size)
        if not (self.reference / "report.html").exists():
            status, said = quick.run(self.arguments(self.reference), self.work)
            assert status == 0, said[-3000:]
        self.expected = self.content(self.reference)

    def arguments(self, run_dir: Path, *, last: int = 8, **more: object) -> list[str]:
        """`cxr run` into a folder, up to a notebook, with two readers at a time."""
        values = {**quick.SETTINGS, "data_dir": self.data, "run_dir": run_dir, "jobs": 2, **more}
        options = [text for name, value in values.items() for text in ("-p", f"{name}={value}")]
        return ["run", str(SMOKE), *options, "--to", STAGES[min(last, self.stages) - 1]]

    def content(self, run_dir: Path) -> dict[str, bytes]:
        """The tables of a run, none of which holds a time; of the store's index all but where an image lies.

        An image that is made anew after damage lies in another shard: its pixels' hash is what counts.
        """
        wanted = [table for table in COMPARED if table.split("/")[0] in STAGES[: self.stages]]
        content = {table: (run_dir / table).read_bytes() for table in wanted}
        if INDEX in content:
            index = pd.read_csv(run_dir / INDEX, dtype=str).drop(columns=["shard", "offset"])
            content[INDEX] = index.to_csv(index=False).encode()
        return content

    def finish(self, run_dir: Path) -> list[str]:
        """Let a run go on to its end, hold it against the undisturbed one; the notebooks it executed."""
        status, said = quick.run(self.arguments(run_dir), self.work)
        assert status == 0, said[-3000:]
        self.compare(run_dir)
        return executed(said)

    def compare(self, run_dir: Path) -> None:
        """Equal tables, and nothing left over."""
        got = self.content(run_dir)
        assert got == self.expected, [name for name in got if got[name] != self.expected[name]]
        ends = (".part", ".failed.ipynb")
        left = [p for p in run_dir.rglob("*") if files.is_temporary(p) or p.name.endswith(ends)]
        left += [p for p in (self.work / "tmp").iterdir() if not p.name.startswith("torchinductor_")]
        assert not left, left

    def up_to(self, stage: int, name: str) -> Path:
        """A copy of the undisturbed run in which this stage (from 1) and the later ones have not begun."""
        run_dir = self.work / name
        shutil.rmtree(run_dir, ignore_errors=True)
        shutil.copytree(self.reference, run_dir, ignore=shutil.ignore_patterns(*STAGES[stage - 1 :]))
        return run_dir


def executed(said: str) -> list[str]:
    """Notebooks that a run executed."""
    return re.findall(r"^\[\d/\d\] (\w+): done in", said, flags=re.M)


# -- kills -------------------------------------------------------------------------------------------


def kills(bench: Bench, number: int, seed: int) -> list[Row]:
    """Stop a run in each stage in turn at a random moment, in six ways, and let it go on."""
    rng, stages = random.Random(seed), Counter[str]()
    ends: dict[tuple[str, bool], Counter[str]] = {kill: Counter() for kill in KILLS}
    run_dir, done, whole = bench.work / "killed", 0, 0
    shutil.rmtree(run_dir, ignore_errors=True)
    while done < number:
        for place in range(bench.stages):
            name, group = KILLS[(whole + place) % len(KILLS)]
            started = quick.start(bench.arguments(run_dir), bench.work)
            mark = f"[{place + 1}/{bench.stages}] {STAGES[place]}: "
            while f"{mark}running" not in started.said() and not _is_over(started):
                time.sleep(0.01)
            until = time.monotonic() + rng.uniform(0, 1.5) * _seconds(bench, place)
            while time.monotonic() < until and f"{mark}done" not in started.said():
                time.sleep(0.01)
            (os.killpg if group else os.kill)(started.process, signal.Signals[name])
            status, said = started.wait(), started.said()
            assert status in (0, SIGNALS[name]), (name, group, status, said[-3000:])
            assert "Traceback" not in said, said[-3000:]
            require_gone(started.process, run_dir)
            stages[(re.findall(r"\] (\w+): running", said) or ["before the first"])[-1]] += 1
            ends[name, group][f"exit {status}" if status else "done before"] += 1
            done += 1
        bench.finish(run_dir)
        shutil.rmtree(run_dir)
        whole += 1
        print(f"{done} kills, {whole} whole runs", file=sys.stderr, flush=True)
    rows = []
    for (name, group), count in ends.items():
        whom = "the group" if group else "the parent"
        rows.append(Row(f"run stopped: {name} to {whom}", sum(count.values()), counted(count)))
    told = f"{counted(stages)}; {whole} whole runs, equal tables; no process, lock or file left"
    return [*rows, Row("the same by the notebook that ran", done, told)]


def _is_over(started: quick.Started) -> bool:
    """Whether the process has ended; its status is still to be asked for."""
    return os.waitid(os.P_PID, started.process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _seconds(bench: Bench, place: int) -> float:
    """What a stage took in the undisturbed run."""
    text = (bench.reference / STAGES[place] / "manifest.json").read_text()
    return float(re.findall(r'"seconds": ([\d.]+)', text)[-1])


def require_gone(session: int, run_dir: Path) -> None:
    """No process goes on, and the run's folder is free."""
    until = time.monotonic() + 60
    while left := reading.in_session(session):
        assert time.monotonic() < until, f"processes left: {left}"
        time.sleep(0.05)
    if (run_dir / ".lock").exists():
        with open(run_dir / ".lock", "a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


# -- damage ------------------------------------------------------------------------------------------

DAMAGES = ("a bit flipped", "cut to a half", "deleted")


def damage(bench: Bench, number: int, seed: int) -> list[Row]:
    """Damage a file of each kind in three ways, size and time kept by the flip; the same command mends it."""
    rng, rows = random.Random(seed), list[Row]()
    run_dir = bench.up_to(9, "damaged")
    assert bench.finish(run_dir) == []
    kinds: dict[tuple[str, str, str], list[Path]] = {}
    for path in sorted(run_dir.glob("[0-9][0-9]_*/**/*")):
        if path.is_file() and not path.name.startswith("."):
            stage, *inside = path.relative_to(run_dir).parts
            folder = "/".join([*inside[:-1], ""]).replace("fold0", "fold*")
            kinds.setdefault((stage, folder, "".join(path.suffixes[-2:])), []).append(path)
    chosen = {kind: rng.choice(paths) for kind, paths in kinds.items()}
    again: dict[tuple[str, ...], int] = Counter()
    for kind, path in list(chosen.items())[:number]:
        if "cxr" in path.relative_to(run_dir).parts:
            continue  # the kernel folder's copy of the package: as it was when the notebook ran
        for how in DAMAGES:
            bench.up_to(9, "damaged")  # each from a whole run: a mended one may do without the file
            content, status = path.read_bytes(), path.stat()
            if how == "deleted":
                path.unlink()
            elif how == "cut to a half":
                os.truncate(path, len(content) // 2)
            else:
                place = rng.randrange(len(content))
                flipped = bytes([content[place] ^ (1 << rng.randrange(8))])
                path.write_bytes(content[:place] + flipped + content[place + 1 :])
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            ran = bench.finish(run_dir)
            # A training that is done again writes its time, one whose last state is damaged loses it, and a
            # store may put an image elsewhere: then the readers run again, too.
            alone, readers = ran == [kind[0]], ran == list(STAGES[STAGES.index(kind[0]) :])
            assert alone or (readers and {"checkpoints", "images"} & set(path.parts)), (how, path, ran)
            again[how, kind[0] if alone else f"{kind[0]} and its readers"] += 1
    for how in DAMAGES:
        counts = {stage: count for (what, stage), count in again.items() if what == how}
        told = "the notebook that wrote it ran again; equal tables: "
        rows.append(Row(f"a file of each kind, {how}", sum(counts.values()), told + counted(counts)))
    return rows


def other_files(bench: Bench, number: int, seed: int) -> list[Row]:
    """Files beside the notebooks' folders: parameters, lock, report."""
    run_dir = bench.up_to(9, "beside")
    bench.finish(run_dir)
    tried = 0
    for name in ("parameters.yaml", "report.html", ".lock"):
        for content in (b"", b"\xff\xfe\x00", None):
            (run_dir / name).unlink() if content is None else (run_dir / name).write_bytes(content)
            assert bench.finish(run_dir) == []
            tried += 1
    return [
        Row("parameters, report and lock emptied, overwritten, deleted", tried, "made again; nothing ran")
    ]


# -- numbers -----------------------------------------------------------------------------------------


def workers(bench: Bench, number: int, seed: int) -> list[Row]:
    """The same seed with other numbers of processes and threads."""
    tried = [
        {"jobs": 1, "num_workers": 0, "threads": 1},
        {"jobs": 4, "num_workers": 1, "threads": 2},
        {"jobs": 2, "num_workers": 2, "threads": 4},
    ]
    run_dir = bench.work / "workers"
    for values in tried:
        shutil.rmtree(run_dir, ignore_errors=True)
        status, said = quick.run(bench.arguments(run_dir, **values), bench.work)
        assert status == 0, said[-3000:]
        bench.compare(run_dir)
    told = "; ".join(", ".join(f"{name} {value}" for name, value in values.items()) for values in tried)
    rows = [Row(f"a whole run with {told}", len(tried), "equal tables")]
    different: set[str] = set()
    for threads in (2, 4):
        shutil.rmtree(run_dir, ignore_errors=True)
        before = partial(torch.set_num_threads, threads)
        status, said = quick.run(bench.arguments(run_dir), bench.work, before)
        assert status == 0, said[-3000:]
        got = bench.content(run_dir)
        different |= {name for name in got if got[name] != bench.expected[name]}
    # A sum over threads is rounded in another order; nothing before the training sums so.
    assert all(name[:2] in ("06", "07", "08") for name in different), different
    told = f"equal tables up to 05; differ by rounding: {', '.join(sorted(different)) or 'none'}"
    return [*rows, Row("a whole run with 2 and 4 threads of torch", 2, told)]


def main() -> int:
    """Run the parts asked for and print their table."""
    parts: dict[str, tuple[Callable[[Bench, int, int], list[Row]], int]] = {
        "kills": (kills, 200),
        "damage": (damage, 1000),
        "beside": (other_files, 0),
        "workers": (workers, 0),
        "refusals": (system.refusals, 48),
        "disks": (system.disks, 8),
        "memory": (system.memory, 24),
        "handles": (system.handles, 24),
        "clock": (system.clock, 3),
        "models": (models.models, 0),
        "mutants": (images.mutants, 1000),
        "patients": (images.patients, 0),
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("work", type=Path, help="folder to work in")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", type=int, default=8, help="notebooks of the chain, from the first")
    parser.add_argument("--only", nargs="*", default=list(parts), choices=list(parts))
    for name, (_, number) in parts.items():
        if number:
            parser.add_argument(f"--{name}", type=int, default=number, help="how many")
    asked = parser.parse_args()
    quick.prepare()
    bench, rows = Bench(asked.work, asked.stages), list[Row]()
    for name in asked.only:
        start = time.monotonic()
        new = parts[name][0](bench, getattr(asked, name, 0), asked.seed)
        rows += new
        print(f"{name}: {time.monotonic() - start:.0f} s\n{markdown(new)}", flush=True)
    print(markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
