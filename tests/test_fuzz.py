"""Damaged files by the thousand: a named failure or a picture, never a crash, a hang or a flood of memory."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
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

ROOT = Path(__file__).resolve().parents[1]
FILES = 1200
SECONDS = 10.0
MAX_MIB = 600


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
    longest = 0.0
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
    assert sum(outcomes.values()) == FILES
    assert outcomes.get(reasons.TIMEOUT, 0) == 0, f"slowest {longest:.1f} s: {outcomes}"
    # A crash is survived and named, but none of the decoders in use by default should need that.
    assert outcomes.get(reasons.CRASHED, 0) == 0, outcomes
    assert outcomes["read"] > FILES * 0.1 and len(outcomes) > 8, outcomes
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    assert largest < MAX_MIB, f"{largest:.0f} MiB"


@pytest.mark.slow
def test_memory_is_flat_in_the_number_of_files(tmp_path: Path):
    for k in range(160):
        write_dicom(tmp_path / "in" / f"{k}.dcm", chest(600, 500, seed=k)) if k else (tmp_path / "in").mkdir()
    code = textwrap.dedent(
        """
        import json, resource, sys
        from pathlib import Path
        from cxr.preprocess import preprocess
        folder, out = Path(sys.argv[1]), Path(sys.argv[2])
        def peak(who):
            return resource.getrusage(who).ru_maxrss // 1024
        seen = []
        note = lambda done, total: seen.append(peak(resource.RUSAGE_SELF))
        preprocess({"a": folder}, out, image_size=512, jobs=1, progress=note)
        print(json.dumps([seen, [peak(resource.RUSAGE_SELF), peak(resource.RUSAGE_CHILDREN)]]))
        """
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "in"), str(tmp_path / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    seen, (own, child) = json.loads(run.stdout)
    assert own < MAX_MIB and child < MAX_MIB
    assert seen[-1] - seen[len(seen) // 3] < 20, "MiB between a third and the end"
