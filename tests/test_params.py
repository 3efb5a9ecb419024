"""Parameter files: what stops a run before it starts, and how the message reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxr import params
from cxr.chain import read_notebooks
from cxr.errors import DataError, ParameterError

CELL = """\
image_size: int = 1024  # px, longer side
learning_rate: float = 1e-3  # step size
arch: str = "light"
hflip: bool = True
train_folds: list[int] = [0]  # folds
"""


@pytest.fixture
def declared() -> dict[str, params.Declared]:
    return params.declared_in_cell(CELL, "06_detector")


def test_a_cell_declares_types_defaults_and_comments(declared: dict[str, params.Declared]):
    assert declared["image_size"] == params.Declared(
        "image_size", "int", 1024, "px, longer side", ("06_detector",)
    )
    assert declared["train_folds"].default == [0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x = 1", "expected `name: type = literal`"),
        ("x: int = 2 * 3", "x is computed"),
        ("x: int = 'a'", "x: expected int, got str 'a'"),
        ("x: dict = {}", "dict is no parameter type"),
    ],
)
def test_a_cell_of_anything_but_literals_is_refused(line: str, message: str):
    with pytest.raises(ParameterError, match=message):
        params.declared_in_cell(line, "nb")


def test_defaults_fill_what_a_file_leaves_out(declared: dict[str, params.Declared]):
    assert params.compose({}, [], declared, where="f") == {
        "image_size": 1024,
        "learning_rate": 1e-3,
        "arch": "light",
        "hflip": True,
        "train_folds": [0],
    }


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        (
            "[A/fold{fold}/best.ckpt, B/fold{fold}/best.ckpt]",
            ["A/fold{fold}/best.ckpt", "B/fold{fold}/best.ckpt"],
        ),
        ("['A/fold{fold}/best.ckpt']", ["A/fold{fold}/best.ckpt"]),
        ("A/fold{fold}/best.ckpt,B.ckpt", ["A/fold{fold}/best.ckpt", "B.ckpt"]),
        ("A.ckpt", ["A.ckpt"]),
        ("[]", []),
        ("", []),
    ],
)
def test_a_list_of_paths_may_name_the_fold(text: str, paths: list[str]):
    declared = params.declared_in_cell("checkpoints: list[str] = []  # detectors", "07_evaluation")
    assert params.compose({}, [f"checkpoints={text}"], declared, where="f") == {"checkpoints": paths}


@pytest.mark.parametrize("text", ["{", "[0, {", "[0}", "x: {y", "a"])
def test_what_is_no_list_of_numbers_is_told(text: str, declared: dict[str, params.Declared]):
    with pytest.raises(ParameterError, match=r"-p train_folds.*expected int, got"):
        params.compose({}, [f"train_folds={text}"], declared, where="f")


def test_overrides_win_in_order(declared: dict[str, params.Declared]):
    overrides = [
        "image_size=256",
        "image_size=512",
        "arch=8",
        "train_folds=0,2",
        "hflip=false",
        "learning_rate=1",
    ]
    values = params.compose({"image_size": 64}, overrides, declared, where="f")
    assert values == {
        "image_size": 512,
        "arch": "8",
        "train_folds": [0, 2],
        "hflip": False,
        "learning_rate": 1.0,
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"imagesize": 1}, r"f: no notebook declares a parameter 'imagesize'; the nearest is image_size"),
        ({"image_size": "big"}, r"f: image_size: expected int, got str 'big'"),
        ({"image_size": True}, r"expected int, got bool True"),
        ({"image_size": 1.5}, r"expected int, got float 1.5"),
        ({"learning_rate": "1e-3"}, r"got str '1e-3'; YAML needs a point in it"),
        ({"hflip": None}, r"expected bool, got nothing"),
        ({"train_folds": 1}, r"expected list\[int\], got int 1"),
        ({"train_folds": [0, "a"]}, r"train_folds\[1\]: expected int"),
    ],
)
def test_what_a_file_gets_wrong(values: dict, message: str, declared: dict[str, params.Declared]):
    with pytest.raises(ParameterError, match=message):
        params.compose(values, [], declared, where="f")


def test_an_override_without_a_value(declared: dict[str, params.Declared]):
    with pytest.raises(ParameterError, match="-p image_size: expected KEY=VALUE"):
        params.compose({}, ["image_size"], declared, where="f")


def test_two_notebooks_must_agree():
    one = params.declared_in_cell("seed: int = 0", "01_eda")
    two = params.declared_in_cell("seed: int = 1", "02_preprocess")
    with pytest.raises(ParameterError, match=r"seed is int = 0 in 01_eda but int = 1 in 02_preprocess"):
        params.merge_declared([one, two])
    assert params.merge_declared([one, {}])["seed"].notebooks == ("01_eda",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "a is given twice"),
        ("- 1\n", "expected `name: value` lines, got a list"),
        ("a: [1\n", "not YAML"),
        ("a: {b: [}\n", "not YAML"),
    ],
)
def test_malformed_files(text: str, message: str, tmp_path: Path):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=message):
        params.read_file(path)


def test_empty_and_missing_files(tmp_path: Path):
    (tmp_path / "empty.yaml").write_text("")
    assert params.read_file(tmp_path / "empty.yaml") == {}
    with pytest.raises(DataError, match="no such parameter file"):
        params.read_file(tmp_path / "missing.yaml")


def test_an_old_name_says_what_became_of_it(declared: dict[str, params.Declared]):
    with pytest.raises(ParameterError, match=r"old\.yaml: model_fusion is called detector_fusion now"):
        params.compose({"model_fusion": "wbf"}, [], declared, where="old.yaml")
    with pytest.raises(ParameterError, match="-p: box_weight was removed"):
        params.compose({}, ["box_weight=2.0"], declared, where="old.yaml")


def test_what_a_parameter_was_called_before_is_answered_with_what_became_of_it():
    declared = params.merge_declared(notebook.parameters for notebook in read_notebooks())
    assert not set(params.OLD_NAMES) & set(declared)
    with pytest.raises(ParameterError, match=r"old\.yaml: gate_power was removed: give gate_mode"):
        params.compose({"gate_power": 0.5}, [], declared, where="old.yaml")
    with pytest.raises(ParameterError, match="-p: model_fusion is called detector_fusion now"):
        params.compose({}, ["model_fusion=nms"], declared, where="old.yaml")
