"""One detector a fold: what is trained stays, what has seen a fold does not teach it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from squares import IMAGES, SMALL, SQUARES, TABLE

from cxr import schema
from cxr.detector.checkpoints.run import BEST, LAST, METRICS, best_checkpoints
from cxr.detector.data.held import HeldImages
from cxr.detector.training import folds, keeper
from cxr.detector.training.train import TrainingResult
from cxr.errors import CheckpointError, ParameterError, PausedError
from cxr.files import replacing, sidecar
from cxr.recipes import changed


class Store(HeldImages):
    """Images in memory with an image store's table of hashes."""

    def __init__(self) -> None:
        super().__init__()
        for image_id in IMAGES.ids:
            self.add(image_id, IMAGES[image_id], IMAGES.original_size(image_id))
        self.index = pd.DataFrame({schema.IMAGE_ID: self.ids, "sha256": self.ids})


STORE = Store()
FOLDS = pd.DataFrame({schema.IMAGE_ID: STORE.ids, schema.FOLD: [0, 1] * 4})


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """The arguments of each training, which leaves files and trains nothing."""
    seen: list[dict] = []

    def fake(store, targets, train_ids, val_ids, recipe, out_dir, **arguments):
        seen.append({"out_dir": Path(out_dir), "recipe": recipe, **arguments})
        out_dir.mkdir(parents=True, exist_ok=True)
        rows = [{"epoch": 0, "val_map": 0.5}]
        content = {"hyper_parameters": {"spec": {}, "record": {"run_key": arguments["run_key"]}}}
        content["callbacks"] = {"Keeper": {"rows": rows}}
        for name in (BEST, LAST):
            with replacing(out_dir / name, hashed=True) as temporary:
                torch.save(content | {"number": len(seen)}, temporary)
        keeper.write_metrics(rows, out_dir)
        limit = recipe.schedule.max_minutes
        return TrainingResult(
            best=out_dir / BEST, last=out_dir / LAST, metrics=out_dir / METRICS, epochs=2, steps=4,
            seconds=60 * limit, best_map=0.5, weights="", out_of_time=limit > 0,
            paused=recipe.machine.pause_minutes > 0,
        )  # fmt: skip

    monkeypatch.setattr(folds, "train_detector", fake)
    return seen


def train(out_dir: Path, held_out: tuple[int, ...] = (0,), **changes: object) -> pd.DataFrame:
    recipe = changed(SMALL, **changes)
    return folds.train_each_fold(
        STORE, TABLE, FOLDS, out_dir, recipe=recipe, held_out=held_out, classes=SQUARES
    )


def test_a_finished_fold_is_not_trained_again_whatever_machine_asks(tmp_path, trainings):
    train(tmp_path, (0, 1), epochs=3, num_nodes=2, num_workers=8)
    assert [t["out_dir"].name for t in trainings] == ["fold0", "fold1"]
    table = train(tmp_path, (0, 1), epochs=3, num_nodes=1, devices=1, learning_rate=0.0)
    assert len(trainings) == 2, "an argument at its default, and where it ran, change nothing"
    assert table[schema.FOLD].tolist() == [0, 1]
    train(tmp_path, (0,), epochs=4)
    assert len(trainings) == 3


def test_an_interrupted_fold_goes_on(tmp_path, trainings):
    train(tmp_path, epochs=3)
    (tmp_path / "fold0" / folds.STATE).unlink()
    train(tmp_path, epochs=3)
    assert [t["resume"] for t in trainings] == [False, True]


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[:100])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["a bit flipped", "cut", "deleted"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_fold_whose_best_state_is_damaged_is_trained_anew(tmp_path, trainings, caplog, how, finished):
    train(tmp_path)
    damage(tmp_path / "fold0" / BEST, how)
    if not finished:
        (tmp_path / "fold0" / folds.STATE).unlink()
    train(tmp_path)
    assert [t["resume"] for t in trainings] == [False, False]
    assert how == "deleted" or "fold0 is damaged or incomplete; it is kept in" in caplog.text


def test_a_kill_between_the_first_two_states_leaves_no_part(tmp_path, trainings):
    train(tmp_path)
    for name in (LAST, folds.STATE):
        (tmp_path / "fold0" / name).unlink()
    (tmp_path / "fold0" / f"{LAST}.part").write_bytes(b"half")
    train(tmp_path)
    assert [t["resume"] for t in trainings] == [False, False]
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("how", ["a bit flipped", "cut", "deleted"])
def test_a_damaged_last_state_matters_to_an_interrupted_training_only(tmp_path, trainings, how):
    train(tmp_path)
    last = tmp_path / "fold0" / LAST
    damage(last, how)
    train(tmp_path)
    assert len(trainings) == 1 and not last.exists()
    assert how == "deleted" or not sidecar(last).exists()
    train(tmp_path, epochs=5)
    damage(last, how)
    (tmp_path / "fold0" / folds.STATE).unlink()
    train(tmp_path, epochs=5)
    assert [t["resume"] for t in trainings] == [False, False, False]


@pytest.mark.parametrize("content", [b"epoch,wal_map\n0,0.5\n", b"", None])
def test_a_damaged_table_of_metrics_costs_no_training(tmp_path, trainings, caplog, content):
    first = train(tmp_path)
    path = tmp_path / "fold0" / METRICS
    path.unlink() if content is None else path.write_bytes(content)
    pd.testing.assert_frame_equal(train(tmp_path), first)
    assert len(trainings) == 1
    assert "metrics.csv is damaged or gone; it is made anew from" in caplog.text
    for name in (METRICS, LAST):  # then nothing is left to make it from
        (tmp_path / "fold0" / name).unlink()
    pd.testing.assert_frame_equal(train(tmp_path), first)
    assert len(trainings) == 2


def test_more_time_goes_on_and_less_keeps_what_is_trained(tmp_path, trainings):
    for minutes in (5.0, 5.0, 8.0, 0.0, 0.0):
        train(tmp_path, epochs=3, max_minutes=minutes)
    assert [t["resume"] for t in trainings] == [False, True, True]
    assert [t["recipe"].schedule.max_minutes for t in trainings] == [5.0, 8.0, 0.0]
    train(tmp_path, epochs=3, max_minutes=9.0)
    assert len(trainings) == 3, "it has ended by itself in less than that"
    train(tmp_path / "b", epochs=3, max_minutes=8.0)
    train(tmp_path / "b", epochs=3, max_minutes=5.0)
    assert len(trainings) == 4


def test_a_pause_leaves_the_fold_unfinished_and_begins_no_other(tmp_path, trainings):
    with pytest.raises(PausedError, match="fold 0: paused after epoch 2 of 3; the same call goes on"):
        train(tmp_path, (0, 1), epochs=3, pause_minutes=5.0)
    with pytest.raises(PausedError, match="fold 0: paused after epoch"):
        train(tmp_path, (0, 1), epochs=3, pause_minutes=1e-9)
    train(tmp_path, (0, 1), epochs=3)
    assert [(t["out_dir"].name, t["resume"]) for t in trainings] == [
        ("fold0", False), ("fold0", True), ("fold0", True), ("fold1", False),
    ]  # fmt: skip


def test_no_fold_is_begun_when_the_time_is_over(tmp_path, trainings, monkeypatch):
    fake = folds.train_detector

    def slow(*arguments, **named):
        monkeypatch.setattr(folds.time, "monotonic", lambda: 1e9)
        return dataclasses.replace(fake(*arguments, **named), paused=False)

    monkeypatch.setattr(folds, "train_detector", slow)
    with pytest.raises(PausedError, match="paused before fold 1; the same call goes on"):
        train(tmp_path, (0, 1), epochs=3, pause_minutes=5.0)
    assert [t["out_dir"].name for t in trainings] == ["fold0"]


def test_what_another_recipe_replaces_is_kept(tmp_path, trainings, caplog):
    for epochs in (3, 4, 5):
        train(tmp_path, epochs=epochs)
    kept = [torch.load(tmp_path / folds.REPLACED / f"fold0_{n}" / BEST)["number"] for n in (0, 1)]
    assert kept == [1, 2]
    state = json.loads((tmp_path / folds.REPLACED / "fold0_1" / folds.STATE).read_text())
    assert state["finished"] == trainings[1]["run_key"]
    assert caplog.text.count("it is kept in") == 2
    assert list(best_checkpoints(tmp_path)) == [0]


def test_what_was_replaced_comes_back_where_it_is_asked_for_again(tmp_path, trainings, caplog):
    caplog.set_level("INFO", logger="cxr")
    first = train(tmp_path, (0,), epochs=3)
    train(tmp_path, (0,), epochs=4)
    pd.testing.assert_frame_equal(train(tmp_path, (0,), epochs=3), first)
    assert "fold0: trained so before, taken back from" in caplog.text
    train(tmp_path, (0,), epochs=4)
    assert len(trainings) == 2


def test_weights_that_are_not_there_move_nothing(tmp_path, trainings):
    train(tmp_path)
    with pytest.raises(CheckpointError, match=r"weights: .*gone\.pth: no such file"):
        train(tmp_path, weights=str(tmp_path / "gone.pth"))
    assert (tmp_path / "fold0" / BEST).is_file()


def test_each_fold_of_a_second_stage_starts_from_its_own_detector(tmp_path, trainings):
    train(tmp_path / "first", (0, 1))
    train(tmp_path / "second", (0, 1), weights=f"{tmp_path}/first/fold{{fold}}/{BEST}")
    assert [t["recipe"].network.weights for t in trainings[2:]] == [
        f"{tmp_path}/first/fold{n}/{BEST}" for n in (0, 1)
    ]


def test_a_detector_that_has_seen_a_fold_does_not_start_it(tmp_path, trainings):
    train(tmp_path / "first", (0, 1))
    own = str(tmp_path / "first" / "fold0" / BEST)
    with pytest.raises(ParameterError, match=r"has seen images that some of the folds \[0, 1\] hold out"):
        train(tmp_path / "second", (0, 1), weights=own)
    train(tmp_path / "second", (0,), weights=own)
    torch.save({"layer.weight": torch.zeros(1)}, tmp_path / "foreign.pth")
    train(tmp_path / "third", (0, 1), weights=str(tmp_path / "foreign.pth"))
    assert len(trainings) == 5


def test_unknown_folds_are_refused(tmp_path):
    with pytest.raises(ParameterError, match=r"expected some of \[0, 1\], got \[7\]"):
        train(tmp_path, (7,))
    with pytest.raises(ParameterError, match="expected at least one fold"):
        train(tmp_path, ())
