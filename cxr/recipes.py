"""Parameters that travel together, as a frozen dataclass whose fields say what each of them is.

A field made by `parameter` carries its meaning, unit and range. The class checks its values when it is
made (`check` in `__post_init__`). A class may hold other such classes: a recipe of several parts. The
flat form, a value for each parameter's name, is that of parameter files and of a notebook's cell.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass
from typing import Any, TypeVar

from cxr.errors import ParameterError
from cxr.params import Declared

Recipe = TypeVar("Recipe")


@dataclass(frozen=True)
class About:
    """What a parameter is, apart from its type and default.

    Attributes:
        meaning: In one line.
        unit: Of the value; empty where it has none.
        machine: Whether it says where or how fast the work is done, and not what comes out.
        grows: Whether work done with a smaller value may be continued with a larger one, 0 being the
            largest.
        choices: Allowed values; empty for all.
        low: Smallest allowed value, of each item of a list.
        high: Largest allowed value, likewise.
    """

    meaning: str
    unit: str = ""
    machine: bool = False
    grows: bool = False
    choices: tuple[str, ...] = ()
    low: float = -math.inf
    high: float = math.inf

    @property
    def comment(self) -> str:
        """The comment behind the parameter in a notebook's cell."""
        words = f"{self.unit}, {self.meaning}" if self.unit else self.meaning
        if not all(choice in words for choice in self.choices):
            words += f": {', '.join(self.choices[:-1])} or {self.choices[-1]}"
        return f"machine: {words}" if self.machine else words

    @property
    def range(self) -> str:
        """The allowed values in words; empty where all of the type are."""
        if self.choices:
            return ", ".join(self.choices)
        low = f"from {self.low:g}" if math.isfinite(self.low) else ""
        high = f"to {self.high:g}" if math.isfinite(self.high) else ""
        return " ".join(part for part in (low, high) if part)


def parameter(
    default: Any,
    meaning: str,
    *,
    unit: str = "",
    machine: bool = False,
    grows: bool = False,
    choices: Sequence[str] = (),
    low: float = -math.inf,
    high: float = math.inf,
) -> Any:
    """A field of a class of parameters; arguments as the attributes of `About`."""
    about = About(meaning, unit, machine, grows, tuple(choices), low, high)
    return dataclasses.field(default=default, metadata={"about": about})


def check(instance: Any) -> None:
    """Check the parameters of a new instance, and turn its lists into tuples.

    Raises:
        ParameterError: A value of another type, not finite, or outside its range or choices; the message
            has the parameter's name, what was expected and what came.
    """
    hints = typing.get_type_hints(type(instance))
    for field in dataclasses.fields(instance):
        about = field.metadata.get("about")
        if about is None:
            continue
        value = _typed(field.name, getattr(instance, field.name), hints[field.name])
        object.__setattr__(instance, field.name, value)
        for item in value if isinstance(value, tuple) else (value,):
            _check_item(field.name, item, about)


def from_values(cls: type[Recipe], values: Mapping[str, Any]) -> Recipe:
    """An instance from flat values; names that are no parameter of the class are passed over.

    Raises:
        ParameterError: See `check`.
    """
    hints = typing.get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if "about" not in field.metadata:
            arguments[field.name] = from_values(hints[field.name], values)
        elif field.name in values:
            arguments[field.name] = values[field.name]
    return cls(**arguments)


def flat(instance: Any, *, machine: bool = True, grows: bool = True) -> dict[str, Any]:
    """A value for each parameter's name, in plain lists, texts and numbers.

    Args:
        instance: Of a class of parameters.
        machine: Also those that say where and how fast the work is done.
        grows: Also those whose larger values go on with what smaller ones did.
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(instance):
        value, about = getattr(instance, field.name), field.metadata.get("about")
        if about is None:
            values |= flat(value, machine=machine, grows=grows)
        elif (machine or not about.machine) and (grows or not about.grows):
            values[field.name] = list(value) if isinstance(value, tuple) else value
    return values


def changed(instance: Recipe, **values: Any) -> Recipe:
    """The same parameters with some other values, by their flat names.

    Raises:
        ParameterError: A name that is no parameter of the class, or see `check`.
    """
    known = flat(instance)
    if unknown := sorted(set(values) - set(known)):
        raise ParameterError(f"{type(instance).__name__} has no parameter {', '.join(unknown)}")
    return from_values(type(instance), {**known, **values})


def declared(cls: type[Any]) -> dict[str, Declared]:
    """The parameters of a class as a notebook's cell has to declare them, in the order of the fields."""
    table: dict[str, Declared] = {}
    for field, hint in _fields(cls):
        items = typing.get_args(hint)
        kind = f"list[{items[0].__name__}]" if items else hint.__name__
        default: Any = list(field.default) if isinstance(field.default, tuple) else field.default
        about: About = field.metadata["about"]
        table[field.name] = Declared(field.name, kind, default, about.comment, (cls.__name__,))
    return table


def described(cls: type[Any]) -> dict[str, About]:
    """What each parameter of a class is, by name."""
    return {field.name: field.metadata["about"] for field, _ in _fields(cls)}


def _fields(cls: type[Any]) -> Iterator[tuple[Field[Any], Any]]:
    """Fields that are parameters, those of the parts included, each with its type."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if "about" in field.metadata:
            assert field.default is not MISSING
            yield field, hints[field.name]
        else:
            yield from _fields(hints[field.name])


def _typed(name: str, value: Any, hint: Any) -> Any:
    """The value in its type: a list becomes a tuple, a whole number passes for a float."""
    items = typing.get_args(hint)
    if items:  # tuple[X, ...]
        if not isinstance(value, list | tuple):
            raise ParameterError(f"{name}: expected a list of {items[0].__name__}, got {value!r}")
        return tuple(_typed(name, item, items[0]) for item in value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ParameterError(f"{name}: expected {hint.__name__}, got {type(value).__name__} {value!r}")
    return value


def _check_item(name: str, item: Any, about: About) -> None:
    if about.choices and item not in about.choices:
        raise ParameterError(f"{name}: expected one of {', '.join(about.choices)}, got {item!r}")
    if isinstance(item, int | float) and not isinstance(item, bool):
        if not math.isfinite(item):
            raise ParameterError(f"{name}: expected a finite number, got {item}")
        if item < about.low:
            raise ParameterError(f"{name}: expected at least {about.low:g}, got {item:g}")
        if item > about.high:
            raise ParameterError(f"{name}: expected at most {about.high:g}, got {item:g}")
