"""Parameter files: read, check against what notebooks declare, and compose with overrides.

A notebook declares its parameters in one cell of annotated literals, for example
`image_size: int = 1024  # px, longer side`. A comment that begins with `machine:` marks a parameter that
says where or how fast the work is done and cannot change what comes out, so that nothing is made again
when it changes. A parameter file is flat YAML; each key must be
declared by at least one notebook, with the same type. Nothing runs before that is checked.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cxr.errors import DataError, ParameterError

Value = bool | int | float | str | list[Any]

OLD_NAMES = {
    "box_weight": "was removed: no gain was measured",
    "near_truth": "was removed: no gain was measured",
    "fusion_method": "is called reader_fusion now",
    "fusion_iou_threshold": "is called reader_fusion_iou now",
    "model_fusion": "is called detector_fusion now",
    "fusion_iou": "is called detector_fusion_iou now",
    "gate_power": "was removed: give gate_mode, or leave the choice to notebook 07",
    "gate_low": "was removed: give gate_mode, or leave the choice to notebook 07",
    "gate_high": 'was removed with the gate "filter": "cut" scores at least as well',
    "gate_rerank": "was removed: give gate_mode, or leave the choice to notebook 07",
    "per_finding": "was removed: the probability of each finding is always made",
    "feature_size": "was removed: features are measured at 256 px",
    "shown_features": "was removed: 12 features are drawn",
    "max_headers": "was removed: every header is read",
    "ceiling_images": "was removed: a reader is scored on 20 or more images with findings",
    "channels_last": "was removed: channels always come last in memory",
    "val_fold": "was removed: val.csv holds fold 0; folds.csv holds every fold",
}
"""Names that parameters had, and what became of each."""

_TYPES: dict[str, type] = {"bool": bool, "int": int, "float": float, "str": str}


@dataclass(frozen=True)
class Declared:
    """One parameter as a notebook declares it.

    Attributes:
        name: The parameter's name.
        type: `bool`, `int`, `float`, `str`, or a list of one of them such as `list[int]`.
        default: The value when a parameter file does not set it.
        comment: Unit and meaning, from the comment behind it.
        notebooks: Names of the notebooks that declare it.
    """

    name: str
    type: str
    default: Value
    comment: str
    notebooks: tuple[str, ...]

    @property
    def machine(self) -> bool:
        """Whether it says where or how fast the work is done, and not what comes out."""
        return self.comment.startswith("machine:")


def declared_in_cell(source: str, notebook: str) -> dict[str, Declared]:
    """Parameters that one `parameters` cell declares.

    Args:
        source: The cell's text; only `name: type = literal` lines may stand in it.
        notebook: The notebook's name, for messages.

    Raises:
        ParameterError: A line is something else, or a default is not of its type.
    """
    lines = source.splitlines()
    found: dict[str, Declared] = {}
    for node in ast.parse(source).body:
        where = f"{notebook} parameters cell, line {node.lineno}"
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value):
            raise ParameterError(f"{where}: expected `name: type = literal`, got {lines[node.lineno - 1]!r}")
        name, kind = node.target.id, ast.unparse(node.annotation)
        try:
            default = ast.literal_eval(node.value)
        except ValueError:
            raise ParameterError(f"{where}: {name} is computed; a parameter is a literal") from None
        comment = lines[(node.end_lineno or node.lineno) - 1].partition("#")[2].strip()
        found[name] = Declared(name, kind, _typed(default, kind, f"{where}: {name}"), comment, (notebook,))
    return found


def merge_declared(notebooks: Iterable[Mapping[str, Declared]]) -> dict[str, Declared]:
    """Parameters of several notebooks as one table.

    Raises:
        ParameterError: Two notebooks declare a name with different types, defaults or marks.
    """
    merged: dict[str, Declared] = {}
    for table in notebooks:
        for name, new in table.items():
            old = merged.get(name, new)
            if old.machine != new.machine:
                raise ParameterError(
                    f"{name} is marked `machine:` in one of {', '.join(old.notebooks + new.notebooks)}, "
                    "not in all; the mark says that it cannot change results"
                )
            if (old.type, old.default) != (new.type, new.default):
                raise ParameterError(
                    f"{name} is {old.type} = {old.default!r} in {', '.join(old.notebooks)} "
                    f"but {new.type} = {new.default!r} in {', '.join(new.notebooks)}"
                )
            names = old.notebooks if old is new else old.notebooks + new.notebooks
            merged[name] = Declared(name, old.type, old.default, old.comment or new.comment, names)
    return merged


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice; plain YAML would keep the last one silently."""


def _unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise ParameterError(f"{key} is given twice")
    return loader.construct_mapping(node)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def read_file(path: str | Path) -> dict[str, Any]:
    """Read a flat parameter file.

    Raises:
        DataError: There is no such file.
        ParameterError: It is not YAML, not a flat mapping, or has a key twice.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such parameter file")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except ParameterError as error:
        raise ParameterError(f"{path}: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ParameterError(f"{path}: expected `name: value` lines, got a {type(values).__name__}")
    return values


def compose(
    values: Mapping[str, Any],
    overrides: Iterable[str],
    declared: Mapping[str, Declared],
    *,
    where: str,
) -> dict[str, Value]:
    """Check a file's values, put the overrides on top, and fill the rest with defaults.

    Args:
        values: What a parameter file says.
        overrides: `KEY=VALUE` texts from a command line, later ones winning.
        declared: What the notebooks declare.
        where: Name of the file, for messages.

    Returns:
        A value for every declared parameter.

    Raises:
        ParameterError: An unknown name (the nearest declared one is shown) or a wrong type.
    """
    result = {name: one.default for name, one in declared.items()}
    for name, value in values.items():
        one = _known(name, declared, where)
        result[one.name] = _typed(value, one.type, f"{where}: {name}")
    for text in overrides:
        name, equals, raw = text.partition("=")
        if not equals:
            raise ParameterError(f"-p {text}: expected KEY=VALUE")
        one = _known(name.strip(), declared, "-p")
        result[one.name] = _from_text(raw.strip(), one)
    return result


def _known(name: Any, declared: Mapping[str, Declared], where: str) -> Declared:
    if name in declared:
        return declared[name]
    if name in OLD_NAMES:
        raise ParameterError(f"{where}: {name} {OLD_NAMES[name]}")
    near = difflib.get_close_matches(str(name), list(declared), n=1, cutoff=0.0)
    hint = f"; the nearest is {near[0]}" if near else ""
    raise ParameterError(f"{where}: no notebook declares a parameter {name!r}{hint}")


def _from_text(raw: str, one: Declared) -> Value:
    """A command-line text as a value: taken as it stands for a `str`, else read as YAML."""
    if one.type == "str":
        return raw
    value = _yaml(raw)
    if one.type.startswith("list[") and not isinstance(value, list):
        inner = raw[1:-1] if raw.startswith("[") and raw.endswith("]") else raw
        value = [_yaml(part.strip()) for part in inner.split(",") if part.strip()]
    return _typed(value, one.type, f"-p {one.name}")


def _yaml(text: str) -> Any:
    """A text as YAML has it, or as it stands where it is none, such as a path with `{fold}` in a list."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _typed(value: Any, kind: str, where: str) -> Value:
    """`value` if it is of type `kind`; a whole number passes for a float."""
    if kind.startswith("list["):
        if not isinstance(value, list):
            raise ParameterError(f"{where}: expected {kind}, got {_describe(value)}")
        return [_typed(item, kind[5:-1], f"{where}[{i}]") for i, item in enumerate(value)]
    if kind not in _TYPES:
        raise ParameterError(f"{where}: {kind} is no parameter type; use bool, int, float, str or a list")
    if kind == "float" and type(value) is int:
        return float(value)
    if not isinstance(value, bool | int | float | str) or type(value) is not _TYPES[kind]:
        hint = ""
        if kind == "float" and isinstance(value, str) and _is_number(value):
            hint = "; YAML needs a point in it, as in 1.0e-3"
        raise ParameterError(f"{where}: expected {kind}, got {_describe(value)}{hint}")
    return value


def _describe(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {value!r}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
