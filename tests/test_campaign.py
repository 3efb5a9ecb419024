"""A short, seeded part of the campaigns; `docs/reliability.md` has the long one's table."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from campaign import reading
from campaign.tally import Row, counted, markdown

pytestmark = pytest.mark.usefixtures("shared_readers")


def test_table():
    rows = [Row("a", 1200, counted({"read": 2, "named": 10}))]
    assert markdown(rows).splitlines()[-1] == "| a | 1,200 | named 10, read 2 |"


def test_odd_entries(tmp_path: Path):
    (row,) = reading.odd_entries(tmp_path)
    assert row.number > 25


def test_refused_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reading, "REFUSALS", {errno.ENOSPC: "the disk is full"})
    (row,) = reading.refused_writes(tmp_path)
    assert row.number >= 5


@pytest.mark.slow
def test_damaged_files(tmp_path: Path):
    both = reading.damaged_files(tmp_path, 36, seed=1)
    assert [row.number for row in both] == [36, 36]


@pytest.mark.slow
def test_kills(tmp_path: Path):
    assert sum(row.number for row in reading.kills(tmp_path, 6, seed=1)) == 6


@pytest.mark.slow
def test_few_file_handles(tmp_path: Path):
    assert [row.number for row in reading.limits(tmp_path, [], [16])] == [1]


@pytest.mark.slow
def test_the_chain(tmp_path: Path):
    """The first notebooks killed, damaged and refused, in a process that has no threads when it forks."""
    options = "--stages 3 --seed 1 --only kills damage refusals --kills 3 --damage 1 --refusals 2"
    done = subprocess.run(
        [sys.executable, "-m", "campaign.chain", str(tmp_path), *options.split()],
        cwd=Path(__file__).parent,
        env=reading.environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("equal tables") >= 5
