"""The plan of the house: imports point down the floors, and each library has one owner."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from cxr import chain, classifier, params, recipes, schema
from cxr.chain.values import Steps
from cxr.detector.prediction.looks import Looks
from cxr.detector.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cxr"
DETECTOR = PACKAGE / "detector"

FLOORS = [
    {"schema", "errors", "files"},
    {"boxes", "dicom", "store", "params", "recipes", "rundir", "tables"},
    {"annotations", "splits", "features", "metrics", "phantom"},
    {"preprocess", "survey", "layouts"},
    {"classifier", "detector"},
    {"submission", "plots", "export", "predictions", "viewer"},
    {"chain", "report", "lab", "kaggle", "cli", "__main__"},
]
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

OWNERS = {
    # `dicom` reads images; `phantom` and `export` write: an object for an archive is built from a data set.
    "pydicom": {"dicom", "phantom", "export"},
    "highdicom": {"export"},
    "h5py": {"store"},
    "xgboost": {"classifier"},
    "papermill": {"chain"},
    "jupytext": {"chain", "kaggle"},
    "matplotlib": {"plots"},
    "seaborn": {"plots"},
    "torch": {"detector"},
    "torchvision": {"detector"},
    "pytorch_lightning": {"detector"},
    "numba": {"boxes", "metrics"},
    "typer": {"cli"},
    "jinja2": {"report", "viewer"},
}


def room_of(path: Path) -> str:
    """The module or package directly below `cxr` that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def modules() -> list[Path]:
    return [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py"]


def imported_names(path: Path) -> set[str]:
    """Dotted names that a file's import statements name; `from a import b` gives both."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def test_every_room_has_a_floor():
    assert {room_of(path) for path in modules()} == set(FLOOR_OF)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path):
    own = room_of(path)
    rooms = {name.split(".")[1] for name in imported_names(path) if name.startswith("cxr.")}
    for room in (rooms & set(FLOOR_OF)) - {own}:
        assert FLOOR_OF[room] <= FLOOR_OF[own], f"{own} imports {room} from a floor above"


def test_no_circles():
    edges = {room: set() for room in FLOOR_OF}
    for path in modules():
        own = room_of(path)
        edges[own] |= {n.split(".")[1] for n in imported_names(path) if n.startswith("cxr.")} & set(FLOOR_OF)
        edges[own].discard(own)
    while edges:
        free = {room for room, needs in edges.items() if not needs & set(edges)}
        assert free, f"a circle among {sorted(edges)}"
        edges = {room: needs for room, needs in edges.items() if room not in free}


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_one_owner_a_library(path: Path):
    libraries = {name.split(".")[0] for name in imported_names(path)}
    for library in libraries & set(OWNERS):
        assert room_of(path) in OWNERS[library], f"{library} belongs to {OWNERS[library]}"


def test_importing_loads_no_torch():
    light = [room for room in FLOOR_OF if room not in ("detector", "cli", "__main__")]
    code = f"import sys; from cxr import {', '.join(light)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- sizes -------------------------------------------------------------------------------------------

MOST_LINES, LONGEST_FUNCTION, MOST_ARGUMENTS = 400, 120, 12
EXCEPTIONS = {
    "cli/use.py predict_files": "a command: each argument is an option that its help lists",
    "cli/push.py write_kaggle_kernel": "a command: each argument is an option that its help lists",
}
"""Functions that may take more arguments, with the reason."""
OTHER_THINGS = {"batch_size": "of predicting, where no gradient is kept: notebook 07's predict_batch_size"}
"""Arguments that share a name with a parameter of a recipe and mean something else, or mean it elsewhere."""


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_is_too_long_to_read(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    for function in functions(path):
        assert function.end_lineno - function.lineno < LONGEST_FUNCTION, function.name
        given = function.args
        count = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs)
        name = f"{path.relative_to(PACKAGE)} {function.name}"
        assert (count <= MOST_ARGUMENTS) != (name in EXCEPTIONS), name


def literal_defaults(function: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, object]:
    """Arguments whose default is a literal; None stands for "not given" and is none."""
    given = function.args
    ordered = [*given.posonlyargs, *given.args]
    pairs = [*zip(ordered[len(ordered) - len(given.defaults) :], given.defaults, strict=True)]
    pairs += [pair for pair in zip(given.kwonlyargs, given.kw_defaults, strict=True) if pair[1] is not None]
    values = {a.arg: ast.literal_eval(d) for a, d in pairs if isinstance(d, ast.Constant | ast.Tuple)}
    return {name: value for name, value in values.items() if value is not None}


def test_no_default_of_a_recipe_is_said_differently_elsewhere():
    homes: dict[str, object] = {}
    for recipe in (classifier.Recipe, Recipe, Looks):
        homes |= {name: one.default for name, one in recipes.declared(recipe).items()}
    for path in modules():
        for function in functions(path):
            for name, value in literal_defaults(function).items():
                if name in homes and name not in OTHER_THINGS:
                    value = list(value) if isinstance(value, tuple) else value
                    assert value == homes[name], f"{path.relative_to(PACKAGE)} {function.name}: {name}"


# -- notebooks and parameter files -------------------------------------------------------------------

NOTEBOOKS = chain.read_notebooks()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.name)
def test_notebook_reads_only_earlier_ones(notebook: chain.Notebook):
    assert all(artefact < notebook.name for artefact in notebook.reads)


@pytest.mark.parametrize("path", sorted((ROOT / "params").glob("*.yaml")), ids=lambda p: p.name)
def test_parameter_file_holds(path: Path):
    declared = params.merge_declared(notebook.parameters for notebook in NOTEBOOKS)
    params.compose(params.read_file(path), [], declared, where=path.name)


def test_demo_sets_what_the_notebooks_default_to():
    declared = params.merge_declared(notebook.parameters for notebook in NOTEBOOKS)
    composed = params.compose(
        params.read_file(ROOT / "params" / "demo.yaml"), [], declared, where="demo.yaml"
    )
    assert composed == {name: one.default for name, one in declared.items()}


@pytest.mark.parametrize(
    ("notebook", "recipe"),
    [("05_classifier", classifier.Recipe), ("06_detector", Recipe), ("07_evaluation", Looks)],
    ids=["classifier", "Recipe", "Looks"],
)
def test_a_cell_declares_what_its_class_says(notebook: str, recipe: type):
    """Names, types, defaults and meanings: the class is their home, the cell repeats them for papermill."""
    (cell,) = (n.parameters for n in NOTEBOOKS if n.name == notebook)
    for name, one in recipes.declared(recipe).items():
        there = cell.get(name)
        assert there is not None, f"{name} is missing in the cell"
        assert (there.type, there.default, there.comment) == (one.type, one.default, one.comment)


def test_every_cell_declares_the_parameters_of_steps_alike():
    own = recipes.declared(Steps)
    seen = {name for notebook in NOTEBOOKS for name in notebook.parameters}
    assert set(own) <= seen
    for notebook in NOTEBOOKS:
        for name in set(own) & set(notebook.parameters):
            cell, one = notebook.parameters[name], own[name]
            assert (cell.type, cell.default, cell.comment) == (one.type, one.default, one.comment), name


PLACES = {
    "run_dir",
    "data_dir",
    "scheduler",
    "train_folds",
    "checkpoints",
    "oof_detections",
    "test_detections",
}
"""Parameters that have no range: paths, addresses, and folds, which are held against `folds`."""


def test_every_parameter_with_a_range_belongs_to_a_class():
    homes = {name for cls in chain.CLASSES for name in recipes.declared(cls)}
    assert {name for notebook in NOTEBOOKS for name in notebook.parameters} - homes == PLACES


def test_the_reference_of_parameters_is_written_from_the_code():
    path = ROOT / "docs" / "parameter_reference.py"
    spec = importlib.util.spec_from_file_location("parameter_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.parameter_reference(), "run `make parameters`"


def test_notebook_06_has_no_parameter_without_a_home():
    (cell,) = (n.parameters for n in NOTEBOOKS if n.name == "06_detector")
    assert set(cell) - set(recipes.declared(Recipe)) == {"run_dir", "data_dir", "train_folds"}


@pytest.mark.parametrize("room", ["network", "checkpoints", "data", "prediction"])
def test_the_detector_s_rooms_build_on_each_other(room: str):
    allowed = {
        "network": {"recipe"},
        "checkpoints": {"recipe", "network"},
        "data": {"recipe"},
        "prediction": {"recipe", "network", "checkpoints", "data"},
    }[room]
    for module in (DETECTOR / room).glob("*.py"):
        used = {n.split(".")[2] for n in imported_names(module) if n.startswith("cxr.detector.")}
        assert used <= allowed | {room}, f"{module.name} of {room} imports {sorted(used - allowed - {room})}"


def test_artefacts_lie_in_the_folders_of_notebooks():
    names = {n.name for n in NOTEBOOKS}
    artefacts = [v for v in vars(schema).values() if isinstance(v, str) and re.match(r"\d\d_\w+/", v)]
    assert {a.split("/")[0] for a in artefacts} <= names


# -- packaging ---------------------------------------------------------------------------------------


def requirement_name(text: str) -> str:
    return re.split(r"[<>=!~;\[ ]", text, maxsplit=1)[0].lower().replace("_", "-")


def test_environment_yml_equals_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    assert conda == [f"python{project['requires-python']}", "pip"]
    wanted = [*project["dependencies"]]
    for extra in ("lab", "coco"):
        wanted += project["optional-dependencies"][extra]
    assert pip == {"pip": [*wanted, "-e ."]}


def test_nothing_heavy_is_missing_from_the_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {requirement_name(text) for text in project["dependencies"]}
    assert {"torch", "torchvision", "pytorch-lightning", "pydicom", "papermill", "jupytext"} <= named
    assert "lightning" not in named
