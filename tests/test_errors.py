"""Errors: one line that says what, where and how to fix it, and the status that the command line ends with."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import errors
from headrace.errors import DataError, EnvironmentFault, HeadraceError, InternalError, Mistakes, PlanError, ProcessError, near

KINDS = [DataError, EnvironmentFault, InternalError, PlanError, ProcessError]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (HeadraceError("is broken"), "is broken"),
        (HeadraceError("is broken", where="out/x"), "out/x: is broken"),
        (HeadraceError("is broken", fix="fix it"), "is broken; fix it"),
        (HeadraceError("is broken", where="out/x", fix="fix it"), "out/x: is broken; fix it"),
        (HeadraceError("is\n  broken\t\there", where="a\nb"), "a b: is broken here"),
    ],
)
def test_an_error_is_one_line_of_place_cause_and_mend(error: HeadraceError, text: str) -> None:
    assert str(error) == text


@pytest.mark.parametrize("kind", KINDS)
def test_only_wrong_use_ends_with_2(kind: type[HeadraceError]) -> None:
    assert issubclass(kind, HeadraceError)
    assert kind("x").exit_status == (2 if kind is PlanError else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_keeps_its_parts(kind: type[HeadraceError]) -> None:
    error = kind("is broken", where="here", fix="fix it")
    assert (error.what, error.where, error.fix) == ("is broken", "here", "fix it")


def test_every_kind_stands_in_the_tree_that_the_module_draws() -> None:
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__)
    assert set(drawn) == {kind.__name__ for kind in [*KINDS, Mistakes]} == set(errors.__all__) - {"HeadraceError", "first_of", "near", "shortened"}


def test_several_mistakes_are_one_error_with_a_line_for_each_in_the_order_of_lines() -> None:
    second, first = PlanError("b", where="f line 12, column 1", fix="c"), PlanError("a\nb", where="f line 2")
    with pytest.raises(Mistakes) as caught:
        Mistakes.report([second, first])
    assert str(caught.value) == "f line 2: a b\nf line 12, column 1: b; c"
    assert (caught.value.mistakes, caught.value.exit_status) == ((first, second), 2)
    with pytest.raises(PlanError) as alone:
        Mistakes.report([first])
    assert alone.value is first
    Mistakes.report([])


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("vlaue", ["value", "sensor"], "did you mean 'value'?"),
        ("VALUE", ["value"], "did you mean 'value'?"),
        ("stdev_pop", ["STDDEV_POP", "STDDEV_SAMP"], "did you mean 'STDDEV_POP'?"),
        ("pressure", ["value", "sensor", "value"], "there is: sensor, value"),
        ("x", [], "there is none"),
        ("x", [f"column{number:02d}" for number in range(25)], f"there is: {', '.join(f'column{number:02d}' for number in range(20))}, …"),
    ],
)
def test_a_hint_names_what_was_probably_meant_or_else_what_there_is(name: str, known: list[str], hint: str) -> None:
    assert near(name, known) == hint


@settings(deadline=None)
@given(st.text(), st.lists(st.text()))
def test_a_hint_is_given_for_any_name(name: str, known: list[str]) -> None:
    hint = near(name, known)
    assert hint.startswith(("did you mean ", "there is"))
    if name in known and name:
        assert hint == f"did you mean {name!r}?" or name.lower() in [one.lower() for one in known if one != name]
