"""Model files that are not what they should be, in every place where a model is taken."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from campaign import quick
from campaign.tally import Row, counted

from cxr import schema
from cxr.files import sha256, sidecar

if TYPE_CHECKING:
    from campaign.chain import Bench


class _Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def _edited(path: Path, edit: Callable[[dict], object]) -> None:
    content = torch.load(path, weights_only=True)
    edit(content)
    torch.save(content, path)


def _not_a_number(content: dict) -> None:
    for tensors in (value for value in content.values() if isinstance(value, dict)):
        for tensor in (t for t in tensors.values() if isinstance(t, torch.Tensor) and t.is_floating_point()):
            tensor[(0,) * tensor.dim()] = float("nan")  # in place, however it lies in memory


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def damages(mark: Path) -> dict[str, Callable[[Path], object]]:
    """What is done to a checkpoint, by name."""
    rng = random.Random(0)
    return {
        "empty": lambda path: path.write_bytes(b""),
        "noise": lambda path: path.write_bytes(rng.randbytes(5000)),
        "cut to a half": _cut,
        "pickle with code": lambda path: path.write_bytes(pickle.dumps(_Trap(mark))),
        "PyTorch file with code": lambda path: torch.save({"state_dict": _Trap(mark)}, path),
        "zip of something else": lambda path: zipfile.ZipFile(path, "w").writestr("a.txt", "a"),
        "another program's weights": lambda path: torch.save({"model": {"w": torch.zeros(3)}}, path),
        "NaN weights": lambda path: _edited(path, _not_a_number),
    }


def models(bench: Bench, number: int, seed: int) -> list[Row]:
    """Each damage in each place: one line and exit 2, or made again; no code of the file runs."""
    mark, work = bench.work / "code-ran", bench.work / "models"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    best = bench.reference / schema.CHECKPOINTS_DIR / "fold0" / "best.ckpt"
    image = sorted((bench.data / "test").iterdir())[0]
    bad, run_dir, outcomes = work / "bad.ckpt", work / "run", Counter[str]()
    out = ["--out", str(work / "out")]
    places: dict[str, list[str]] = {
        "cxr predict": ["predict", str(bad), str(image), *out],
        "cxr predict --with": ["predict", str(best), str(image), "--with", str(bad), *out],
        "weights of a training": bench.arguments(run_dir, weights=bad),
        "checkpoints of notebook 07": bench.arguments(run_dir, checkpoints=f"[{bad}]"),
        "cxr export": ["export", str(run_dir), str(work / "export"), "--format", "safetensors"],
    }
    for place, arguments in places.items():
        for name, damage in damages(mark).items():
            shutil.copy(best, bad)
            damage(bad)
            sidecar(bad).unlink(missing_ok=True)
            if arguments[0] in ("run", "export"):
                bench.up_to(6 if place.startswith("weights") else 7, "models/run")
            if arguments[0] == "export":
                target = run_dir / schema.CHECKPOINTS_DIR / "fold0" / "best.ckpt"
                shutil.copy(bad, target)
                sidecar(target).write_text(f"{sha256(target)}  best.ckpt\n")
            shutil.rmtree(work / "out", ignore_errors=True)
            shutil.rmtree(work / "export", ignore_errors=True)
            status, said = quick.run(arguments, bench.work)
            assert not mark.exists(), (place, name, "code of the file ran")
            line = quick.failure(said) if status else ""
            assert status == 2, (place, name, status, said[-1500:])
            assert "weights_only" not in line, line
            outcomes[f"{place}: refused"] += 1
    told = f"exit 2, one line, no code ran: {counted(outcomes)}"
    return [Row(f"doctored model files ({', '.join(damages(mark))})", sum(outcomes.values()), told)]
