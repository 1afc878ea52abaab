"""A pipeline's settings: which there are, of which types, and where their values come from."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headrace as hr
from headrace.apps.fingerprint import fingerprint
from headrace.errors import PlanError
from headrace.plan.settings import Setting, resolve, settings_of


def declared(
    *, minutes: int = 1, ratio: float = 0.5, name: str = "kiln", on: bool = False, ids: tuple[int, ...] = (110, 111), mode: Literal["a", "b"] = "a"
) -> None:
    """A function with a setting of each type."""


SETTINGS = settings_of(declared)


def read(name: str, text: str) -> Any:
    """The value of one setting given as text by the command line."""
    return resolve(SETTINGS, {name: text}, {}, {})[name]


def test_the_parameters_of_the_function_are_its_settings() -> None:
    assert (
        Setting("minutes", int, 1), Setting("ratio", float, 0.5), Setting("name", str, "kiln"), Setting("on", bool, default=False),
        Setting("ids", tuple[int, ...], (110, 111)), Setting("mode", Literal["a", "b"], "a"),
    ) == SETTINGS  # fmt: skip


def test_without_an_annotation_the_type_is_that_of_the_default() -> None:
    def function(minutes=1, ratio=0.5, anything=None): ...

    assert [setting.type for setting in settings_of(function)] == [int, float, Any]
    assert resolve(settings_of(function), {"minutes": "2", "anything": "x"}, {}, {}) == {"minutes": 2, "ratio": 0.5, "anything": "x"}


def test_a_parameter_without_a_default_is_refused() -> None:
    def function(minutes: int): ...

    with pytest.raises(PlanError) as caught:
        settings_of(function)
    assert str(caught.value) == "pipeline function function: setting 'minutes' has no default; write minutes: int = 1, say"


def test_each_value_comes_from_the_first_place_that_has_one() -> None:
    given, file = {"minutes": "2"}, {"minutes": 4, "ratio": 0.4, "name": "file"}
    environment = {"HEADRACE_SET_MINUTES": "3", "HEADRACE_SET_RATIO": "0.3"}
    values = resolve(SETTINGS, given, environment, file)
    assert values == {"minutes": 2, "ratio": 0.3, "name": "file", "on": False, "ids": (110, 111), "mode": "a"}


def test_the_environment_is_asked_for_the_upper_cased_name_only() -> None:
    environment = {"headrace_set_minutes": "3", "HEADRACE_SET_Minutes": "4", "HEADRACE_SET_": "5"}
    assert resolve(SETTINGS, {}, environment, {})["minutes"] == 1


def test_variables_that_every_environment_has_set_nothing() -> None:
    def function(user: str = "nobody", lang: str = "en", path: str = "kiln/1", home: int = 1): ...

    given = dict.fromkeys(["USER", "LANG", "PATH", "HOME", "user", "lang"], "taken")
    assert resolve(settings_of(function), {}, {**os.environ, **given}, {}) == {"user": "nobody", "lang": "en", "path": "kiln/1", "home": 1}
    assert resolve(settings_of(function), {}, {**given, "HEADRACE_SET_USER": "me"}, {})["user"] == "me"


def test_a_bare_name_is_a_variable_where_the_pipeline_lists_it() -> None:
    some = settings_of(declared, ["MINUTES"])
    environment = {"MINUTES": "3", "RATIO": "0.3"}
    assert (resolve(some, {}, environment, {"minutes": 4})["minutes"], resolve(some, {}, environment, {})["ratio"]) == (3, 0.5)
    assert resolve(some, {}, {**environment, "HEADRACE_SET_MINUTES": "5"}, {})["minutes"] == 5
    assert resolve(some, {"minutes": "2"}, environment, {})["minutes"] == 2


@pytest.mark.parametrize("name", ["MINUTS", "minutes", ""])
def test_a_listed_name_that_is_no_setting_is_refused(name: str) -> None:
    with pytest.raises(PlanError, match=re.escape(f"{name!r} in env= is not the upper-cased name of a setting")):
        settings_of(declared, [name])


def test_the_shipped_fingerprint_lists_its_two_and_a_text_is_no_list() -> None:
    assert {one.name: one.variables for one in fingerprint.settings} == {
        "window_size_minutes": ("HEADRACE_SET_WINDOW_SIZE_MINUTES", "WINDOW_SIZE_MINUTES"),
        "watermark_seconds": ("HEADRACE_SET_WATERMARK_SECONDS", "WATERMARK_SECONDS"),
    }
    with pytest.raises(PlanError, match=re.escape("pipeline p: env='LIMIT' is no list; write env=['LIMIT']")):
        hr.pipeline("p", version="1", env="LIMIT")(declared)


def test_the_case_of_a_name_does_not_matter_elsewhere() -> None:
    assert resolve(SETTINGS, {"MINUTES": "2"}, {}, {"Ratio": 0.1}) | {} == {
        "minutes": 2, "ratio": 0.1, "name": "kiln", "on": False, "ids": (110, 111), "mode": "a",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("minutes", "5", 5),
        ("minutes", "-5", -5),
        ("minutes", "5.0", 5),
        ("ratio", "5", 5.0),
        ("ratio", "1e-3", 0.001),
        ("name", "", ""),
        ("name", "5", "5"),
        ("name", "a=b, c", "a=b, c"),
        ("on", "true", True),
        ("on", "1", True),
        ("on", "False", False),
        ("on", "0", False),
        ("ids", "1,2,3", (1, 2, 3)),
        ("ids", "[1, 2]", (1, 2)),
        ("ids", "7", (7,)),
        ("ids", "", ()),
        ("mode", "b", "b"),
    ],
)
def test_a_text_is_read_as_the_type_of_the_setting(name: str, text: str, value: Any) -> None:
    got = read(name, text)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize("kind", [list[int], Sequence[int], list, tuple[int, int]])
def test_a_list_of_any_kind_is_written_with_commas(kind: Any) -> None:
    assert list(map(int, Setting("ids", kind, None).read(" 1, 2 ", "--set"))) == [1, 2]


@settings(deadline=None)
@given(st.integers(-(2**62), 2**62))
def test_any_whole_number_may_be_given(number: int) -> None:
    assert read("minutes", str(number)) == number


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_may_be_given(number: float) -> None:
    assert math.isclose(read("ratio", repr(number)), number, rel_tol=0)


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [("minutes", "two", "int"), ("minutes", "1.5", "int"), ("minutes", "", "int"), ("ratio", "x", "float"), ("on", "maybe", "bool"),
     ("ids", "1,x", "tuple[int, ...]"), ("mode", "c", "Literal['a', 'b']")],
)  # fmt: skip
def test_a_value_of_another_type_is_refused_and_names_the_setting_the_value_and_the_place(name: str, text: str, kind: str) -> None:
    with pytest.raises(PlanError, match=re.escape(f"--set: setting {name} = ") + ".* is no " + re.escape(kind)):
        read(name, text)


@pytest.mark.parametrize(
    ("environment", "file", "where"),
    [
        ({"HEADRACE_SET_MINUTES": "two"}, {}, "environment HEADRACE_SET_MINUTES"),
        ({}, {"minutes": "two"}, "headrace.toml"),
        ({}, {"minutes": [1]}, "headrace.toml"),
    ],
)
def test_a_bad_value_is_blamed_on_the_place_it_came_from(environment: dict[str, str], file: dict[str, Any], where: str) -> None:
    with pytest.raises(PlanError) as caught:
        resolve(SETTINGS, {}, environment, file)
    assert caught.value.where == where


def test_a_bad_value_that_another_place_overrides_does_no_harm() -> None:
    assert resolve(SETTINGS, {"minutes": "2"}, {"HEADRACE_SET_MINUTES": "two"}, {})["minutes"] == 2


@pytest.mark.parametrize(("given", "file", "where"), [({"minuts": "2"}, {}, "--set"), ({}, {"minuts": 2}, "headrace.toml")])
def test_an_unknown_setting_is_answered_with_a_near_one(given: dict[str, str], file: dict[str, Any], where: str) -> None:
    with pytest.raises(PlanError) as caught:
        resolve(SETTINGS, given, {}, file)
    assert str(caught.value) == f"{where}: unknown setting 'minuts'; did you mean 'minutes'?"


def test_where_nothing_is_near_what_there_is_is_shown() -> None:
    with pytest.raises(PlanError, match="there is: ids, minutes, mode, name, on, ratio"):
        resolve(SETTINGS, {"pressure": "2"}, {}, {})
    with pytest.raises(PlanError, match="unknown setting 'x'; there is none"):
        resolve((), {"x": "2"}, {}, {})
