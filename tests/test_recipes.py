"""Classes of parameters: checked when made, flat and back, declared as a notebook's cell has to."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest

from cxr.errors import ParameterError
from cxr.recipes import changed, check, declared, flat, from_values, parameter


@dataclass(frozen=True)
class Oven:
    """For the tests."""

    degrees: float = parameter(180.0, "heat", unit="C", low=0.0, high=300.0)
    mode: str = parameter("air", "how it heats", choices=("air", "grill"))
    racks: tuple[int, ...] = parameter((1,), "in use", low=1)
    timers: int = parameter(2, "clocks", machine=True)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Meal:
    """Parts and a parameter of its own."""

    oven: Oven = field(default_factory=Oven)
    hot: bool = parameter(True, "served hot")

    def __post_init__(self) -> None:
        check(self)


def test_flat_values_make_a_recipe_and_come_back():
    values = {"degrees": 200, "racks": [1, 3], "hot": False, "of_another_notebook": 1}
    meal = from_values(Meal, values)
    assert meal == Meal(Oven(200.0, "air", (1, 3)), hot=False)
    assert hash(meal) == hash(from_values(Meal, values)), "lists have become tuples"
    assert flat(meal) == {"degrees": 200.0, "mode": "air", "racks": [1, 3], "timers": 2, "hot": False}
    assert from_values(Meal, flat(meal)) == meal
    assert values["racks"] == [1, 3]


def test_where_the_work_is_done_can_be_left_out():
    assert flat(Oven(timers=1), machine=False) == flat(Oven(timers=9), machine=False)
    assert "timers" not in flat(Meal(), machine=False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"degrees": "hot"}, "degrees: expected float, got str 'hot'"),
        ({"degrees": -1.0}, "degrees: expected at least 0, got -1"),
        ({"degrees": 301}, "degrees: expected at most 300, got 301"),
        ({"degrees": math.nan}, "degrees: expected a finite number, got nan"),
        ({"mode": "steam"}, "mode: expected one of air, grill, got 'steam'"),
        ({"racks": 1}, "racks: expected a list of int, got 1"),
        ({"racks": [1, 0]}, "racks: expected at least 1, got 0"),
        ({"timers": True}, "timers: expected int, got bool True"),
        ({"timers": 1.0}, "timers: expected int, got float 1.0"),
    ],
)
def test_a_wrong_value_is_named(values, message):
    with pytest.raises(ParameterError, match=message):
        from_values(Meal, values)


def test_some_values_can_be_changed_by_name():
    assert changed(Meal(), degrees=90.0).oven.degrees == 90
    with pytest.raises(ParameterError, match="Meal has no parameter degree"):
        changed(Meal(), degree=90.0)


def test_a_class_says_how_a_cell_has_to_declare_it():
    table = declared(Meal)
    assert list(table) == ["degrees", "mode", "racks", "timers", "hot"]
    assert (table["racks"].type, table["racks"].default) == ("list[int]", [1])
    assert table["degrees"].comment == "C, heat"
    assert table["mode"].comment == "how it heats: air or grill"
    assert table["timers"].comment == "machine: clocks"
