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
import xgboost as xgb
from campaign import quick
from campaign.tally import Row, counted
from smoke_run import SMOKE

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


def _other_classes(content: dict) -> None:
    names = content["hyper_parameters"]["spec"]["class_names"]
    content["hyper_parameters"]["spec"]["class_names"] = [*names[:-1], "Another finding"]


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
        "other classes": lambda path: _edited(path, _other_classes),
    }


def _replace(path: Path, new: Path) -> None:
    """Put a file in another's place, its hash as if it had been written so."""
    shutil.copy(new, path)
    sidecar(path).write_text(f"{sha256(path)}  {path.name}\n")


SOUND = ("cxr predict", "weights of a training", "cxr export")
"""Places that take a detector of other classes for what it is."""


def models(bench: Bench, number: int, seed: int) -> list[Row]:
    """Each damage in each place where a detector or a classifier is taken; no code of the file runs."""
    mark, work = bench.work / "code-ran", bench.work / "models"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    best = bench.reference / schema.CHECKPOINTS_DIR / "fold0" / "best.ckpt"
    image = sorted((bench.data / "test").iterdir())[0]
    bad, run_dir, outcomes = work / "fold0" / "bad.ckpt", work / "run", Counter[str]()
    bad.parent.mkdir()
    out = ["--out", str(work / "out")]
    kernel = ["kaggle", str(SMOKE), str(work / "out"), "--infer"]
    places: dict[str, list[str]] = {
        "cxr predict": ["predict", str(bad), str(image), *out],
        "cxr predict --with": ["predict", str(best), str(image), "--with", str(bad), *out],
        "weights of a training": bench.arguments(run_dir, weights=bad),
        "last.ckpt of a training": bench.arguments(run_dir),
        "checkpoints of notebook 07": bench.arguments(run_dir, checkpoints=f"[{bad}]"),
        "cxr export": ["export", str(run_dir), str(work / "out"), "--format", "safetensors"],
        "cxr kaggle --infer": [*kernel, str(best), str(bad)],
    }
    for place, arguments in places.items():
        for name, damage in damages(mark).items():
            shutil.copy(best, bad)
            sidecar(bad).unlink(missing_ok=True)
            damage(bad)
            if str(run_dir) in arguments or f"run_dir={run_dir}" in arguments:
                bench.up_to(6 if place.startswith("weights") else 7, "models/run")
            checkpoints = run_dir / schema.CHECKPOINTS_DIR / "fold0"
            if place == "cxr export":
                _replace(checkpoints / "best.ckpt", bad)
            if place.startswith("last.ckpt"):
                shutil.copy(checkpoints / "last.ckpt", bad)
                damage(bad)
                _replace(checkpoints / "last.ckpt", bad)
                (checkpoints / "training.json").unlink()
            shutil.rmtree(work / "out", ignore_errors=True)
            status, said = quick.run(arguments, bench.work)
            assert not mark.exists(), (place, name, "code of the file ran")
            expected = 0 if name == "other classes" and place in SOUND else 2
            if place.startswith("last.ckpt") and name != "other classes":
                expected = 0
                bench.compare(run_dir)
            assert status == expected, (place, name, status, said[-1500:])
            line = quick.failure(said) if status else ""
            assert "weights_only" not in line and "such as fold0" not in line, line
            outcomes[f"{place}: {'refused' if status else 'went on'}"] += 1
    told = f"exit 2 and one line, or taken and equal tables; no code ran: {counted(outcomes)}"
    rows = [Row(f"doctored detectors ({', '.join(damages(mark))})", sum(outcomes.values()), told)]
    return [*rows, _classifiers(bench, [*kernel, str(run_dir)], run_dir)]


def _classifiers(bench: Bench, arguments: list[str], run_dir: Path) -> Row:
    """Damaged and foreign classifiers, in the one place that takes one from a file."""
    bench.up_to(9, "models/run")
    path = run_dir / schema.CLASSIFIER_UBJ
    good, other = path.read_bytes(), xgb.Booster()
    other.load_model(bytearray(good))
    contents = {
        "empty": b"",
        "noise": random.Random(0).randbytes(5000),
        "cut to a half": good[: len(good) // 2],
    }
    for name, description in (("a broken description", '{"format": 1}'), ("no description", None)):
        other.set_attr(cxr=description)
        contents[name] = bytes(other.save_raw("ubj"))
    for name, content in contents.items():
        path.write_bytes(content)
        sidecar(path).write_text(f"{sha256(path)}  {path.name}\n")
        status, said = quick.run(arguments, bench.work)
        assert status == 2 and path.name in quick.failure(said), (name, status, said[-1500:])
    return Row(f"doctored classifiers ({', '.join(contents)})", len(contents), "exit 2, one line")
