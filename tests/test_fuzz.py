"""Damaged files by the thousand: a named failure or a picture, never a crash, a hang or a flood of memory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from campaign.mutants import curve, mutate, write_mutants
from dicom_files import chest, lossless_jpeg, write_dicom
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless

import cxr
from cxr.dicom import DicomReadError, IsolatedReader, reasons

FILES = 1200
LOSSLESS = 30
SECONDS = 10.0
MAX_MIB = 600


def peak_mib(pid: int) -> float:
    """Largest resident memory of a process so far.

    Not `getrusage`: its figure for a new process starts at what the process that forked it held.
    """
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


@pytest.fixture(scope="module")
def mutants(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("fuzz") / "mutants"
    made = write_mutants(folder, FILES, seed=20)
    rng, good = np.random.default_rng(21), folder.with_name("mutants-good")
    # GDCM costs a process a file, so it gets few.
    lossless = lossless_jpeg(good / "0.dcm", good / "l.dcm").read_bytes()
    for number in range(LOSSLESS):
        made.append(folder / f"mutant-l{number:02d}.dicom")
        made[-1].write_bytes(mutate(lossless, rng))
    return made


@pytest.mark.slow
def test_mutated_files(mutants: list[Path]):
    outcomes: dict[str, int] = {}
    longest = largest = 0.0
    before = set(psutil.Process().children(recursive=True))
    with IsolatedReader(seconds_per_file=SECONDS) as reader:
        for number, mutant in enumerate(mutants):
            started = time.monotonic()
            try:
                got = reader.load(mutant, longest_side=48)
                assert got.pixels.dtype == np.uint8 and max(got.pixels.shape) == 48
                outcome = "read"
            except DicomReadError as error:
                assert error.reason in reasons.ALL and mutant.name in str(error)
                outcome = error.reason
            longest = max(longest, time.monotonic() - started)
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
            if number % 100 == 99:
                (child,) = set(psutil.Process().children()) - before
                largest = max(largest, peak_mib(child.pid))
    assert sum(outcomes.values()) == FILES + LOSSLESS
    assert outcomes.get(reasons.TIMEOUT, 0) == 0, f"slowest {longest:.1f} s: {outcomes}"
    # A crash is survived and named, but none of the decoders in use by default should need that.
    assert outcomes.get(reasons.CRASHED, 0) == 0, outcomes
    assert outcomes["read"] > FILES * 0.1 and len(outcomes) > 8, outcomes
    assert 0 < largest < MAX_MIB, f"{largest:.0f} MiB"


READ_ALL = """
import json, sys, traceback
from pathlib import Path
from cxr.dicom import DicomReadError, load_radiograph, read_header
unnamed = {}
for path in map(Path, json.load(sys.stdin)):
    for read in (read_header, lambda p: load_radiograph(p, longest_side=48)):
        try:
            read(path)
        except DicomReadError:
            pass
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            unnamed.setdefault(f"{type(error).__name__} in {place.name}: {error}", path.name)
print(json.dumps(unnamed))
"""


@pytest.mark.slow
def test_every_failure_of_a_mutated_file_is_named(mutants: list[Path]):
    # In a child, because a decoder may abort; but not through IsolatedReader, which gives a name to all.
    run = subprocess.run(
        [sys.executable, "-c", READ_ALL],
        cwd=Path(cxr.__file__).parents[1],
        input=json.dumps([str(path) for path in mutants[:FILES]]),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout) == {}


@pytest.mark.slow
def test_memory_is_flat_in_the_number_of_files(tmp_path: Path):
    (tmp_path / "in").mkdir()
    for k in range(160):
        path = tmp_path / "in" / f"{k}.dcm"
        if k < 4:
            write_dicom(path, chest(600, 500, seed=k))
        else:
            os.link(tmp_path / "in" / f"{k % 4}.dcm", path)
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
            readers = psutil.Process().children(recursive=True)
            children.append(max([peak_mib(reader.pid) for reader in readers], default=0.0))
        preprocess({"a": folder}, out, image_size=512, jobs=1, progress=note)
        print(json.dumps([own, children]))
        """
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "in"), str(tmp_path / "out")],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    for peaks in json.loads(run.stdout):
        assert max(peaks) < MAX_MIB
        assert peaks[-1] - peaks[len(peaks) // 3] < 20, "MiB between a third and the end"


@pytest.mark.slow
def test_memory_of_a_worker_with_large_files(tmp_path: Path):
    pixels = chest(3072, 2560)
    both = {"VOILUTSequence": curve(16), "ModalityLUTSequence": curve(16), "PixelPaddingValue": 4095}
    with IsolatedReader(seconds_per_file=60.0) as reader:
        for syntax in (JPEG2000Lossless, ExplicitVRLittleEndian):
            for tables in ({}, both):
                path = write_dicom(tmp_path / "a.dcm", pixels, syntax=syntax, **tables)
                reader.load(path, longest_side=1024)
        (child,) = [c for c in psutil.Process().children() if "isolated_child" in " ".join(c.cmdline())]
        assert 150 < peak_mib(child.pid) < MAX_MIB
