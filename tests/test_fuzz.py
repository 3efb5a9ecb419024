"""Damaged files by the thousand: a named failure or a picture, never a crash, a hang or a flood of memory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from dicom_files import chest, write_dicom
from PIL import Image
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from cxr.dicom import DicomReadError, IsolatedReader, reasons

FILES = 1200
SECONDS = 10.0
MAX_MIB = 600


def peak_mib(pid: int) -> float:
    """Largest resident memory of a process so far.

    Not `getrusage`: its figure for a new process starts at what the process that forked it held.
    """
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def seeds(folder: Path) -> list[Path]:
    """A good file of each kind."""
    made = [
        write_dicom(folder / f"{number}.dcm", chest(96, 80), syntax=syntax)
        for number, syntax in enumerate(
            (
                ExplicitVRLittleEndian,
                ImplicitVRLittleEndian,
                JPEG2000Lossless,
                JPEG2000Lossless,
                RLELossless,
                DeflatedExplicitVRLittleEndian,
            )
        )
    ]
    for name in ("p.png", "q.jpg"):
        Image.fromarray(chest(96, 80, bits=8)).save(folder / name)
        made.append(folder / name)
    return made


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Flip, overwrite, cut, double or insert bytes, most often where the header is."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        reach = len(data) if rng.random() < 0.4 else min(len(data), 1200)
        place = int(rng.integers(reach)) if reach else 0
        kind = int(rng.integers(7))
        if kind == 0 and data:
            data[place] ^= 1 << int(rng.integers(8))
        elif kind == 1 and data:
            data[place] = int(rng.choice([0, 1, 127, 128, 255]))
        elif kind == 2:
            data[place : place + 4] = int(rng.integers(1 << 32)).to_bytes(4, "little")
        elif kind == 3:
            data[place : place + 2] = b"\xff\xff"
        elif kind == 4:
            del data[place : place + int(rng.integers(1, 40))]
        elif kind == 5:
            data[place:place] = data[place : place + int(rng.integers(1, 200))]
        elif rng.random() < 0.3:
            del data[place:]
    return bytes(data)


@pytest.mark.slow
def test_mutated_files(tmp_path: Path):
    rng = np.random.default_rng(20)
    contents = [path.read_bytes() for path in seeds(tmp_path)]
    target = tmp_path / "mutant.dicom"
    outcomes: dict[str, int] = {}
    longest = largest = 0.0
    before = set(psutil.Process().children(recursive=True))
    with IsolatedReader(seconds_per_file=SECONDS) as reader:
        for number in range(FILES):
            target.write_bytes(mutate(contents[number % len(contents)], rng))
            started = time.monotonic()
            try:
                got = reader.load(target, longest_side=48)
                assert got.pixels.dtype == np.uint8 and max(got.pixels.shape) == 48
                outcome = "read"
            except DicomReadError as error:
                assert error.reason in reasons.ALL and "mutant.dicom" in str(error)
                outcome = error.reason
            longest = max(longest, time.monotonic() - started)
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
            if number % 100 == 99:
                (child,) = set(psutil.Process().children()) - before
                largest = max(largest, peak_mib(child.pid))
    assert sum(outcomes.values()) == FILES
    assert outcomes.get(reasons.TIMEOUT, 0) == 0, f"slowest {longest:.1f} s: {outcomes}"
    # A crash is survived and named, but none of the decoders in use by default should need that.
    assert outcomes.get(reasons.CRASHED, 0) == 0, outcomes
    assert outcomes["read"] > FILES * 0.1 and len(outcomes) > 8, outcomes
    assert 0 < largest < MAX_MIB, f"{largest:.0f} MiB"


@pytest.mark.slow
def test_memory_is_flat_in_the_number_of_files(tmp_path: Path):
    (tmp_path / "in").mkdir()
    for k in range(160):
        write_dicom(tmp_path / "in" / f"{k}.dcm", chest(600, 500, seed=k))
    code = textwrap.dedent(
        """
        import json, os, sys
        from pathlib import Path
        import psutil
        from cxr.preprocess import preprocess
        from test_fuzz import peak_mib
        folder, out = Path(sys.argv[1]), Path(sys.argv[2])
        own, children = [], [0.0]
        def note(done, total):
            own.append(peak_mib(os.getpid()))
            children.extend(peak_mib(child.pid) for child in psutil.Process().children(recursive=True))
        preprocess({"a": folder}, out, image_size=512, jobs=1, progress=note)
        print(json.dumps([own, max(children)]))
        """
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "in"), str(tmp_path / "out")],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    own, child = json.loads(run.stdout)
    assert own[-1] < MAX_MIB and child < MAX_MIB
    assert own[-1] - own[len(own) // 3] < 20, "MiB between a third and the end"
