"""The smallest run through all notebooks: its parameters, its tables, and the command that makes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cxr import schema

SMOKE = Path(__file__).resolve().parents[1] / "params" / "smoke.yaml"

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
]


def cxr(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command, as its users call it."""
    command = [sys.executable, "-m", "cxr", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def make_smoke_run(data_dir: Path, run_dir: Path) -> None:
    """Run the chain through, and look at what it says."""
    done = cxr("run", SMOKE, "-p", f"data_dir={data_dir}", "-p", f"run_dir={run_dir}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "[8/8] 08_submission: done" in done.stdout
    assert "test mAP@0.4: " in done.stdout
    assert done.stdout.rstrip().endswith("report.html")
