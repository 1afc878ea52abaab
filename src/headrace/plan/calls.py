"""Calls of functions: each function is known where it stands, and its arguments have the types of one of its forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.errors import PlanError, near
from headrace.plan.casts import cast_to
from headrace.plan.expression import Call, Expression, Literal
from headrace.plan.functions import AGGREGATES, FUNCTIONS, Aggregate, Function
from headrace.plan.functions.navigation import NAVIGATION, Navigation
from headrace.plan.schema import BIGINT, BOOLEAN, DOUBLE, STRING, TIMESTAMP, Type

__all__ = ["Calls"]

_FARTHEST = 10_000  # rows to which LAG goes back


class Calls:
    """The calls that an expression may have: of aggregates too, if it stands where rows are aggregated."""

    def __init__(self, settings: Mapping[str, Any], *, aggregates: bool) -> None:
        self.settings, self.aggregates = settings, aggregates

    def call(self, name: str, arguments: list[Expression], *, filtered: bool = False) -> Expression:
        """Return a call with its arguments cast to what the function takes."""
        if name in NAVIGATION:
            return self._navigation(NAVIGATION[name], arguments, filtered=filtered)
        aggregate = name in AGGREGATES
        function = self._function(name, aggregate=aggregate, filtered=filtered)
        if name == "UUID_V5":
            arguments = [Literal(self.settings.get("@pipeline", "pipeline/0"), STRING), *arguments]
        wanted, result = _fitting(function, arguments)
        constants = []
        for position in function.literal:
            if position < len(arguments):
                match arguments[position]:
                    case Literal(value=value) if value is not None:
                        constants.append(value)
                    case _:
                        raise PlanError(f"argument {position + 1} of {name} must be a constant, and not NULL")
        if function.check:
            function.check(*constants)
        if name == "TO_TIMESTAMP_LTZ" and wanted == (STRING,):
            # The text without a pattern is read by the one rule of reading, which each engine has for its casts.
            return cast_to(arguments[0], TIMESTAMP)
        if name == "TO_DOUBLE":
            # Its calls make the text one with a decimal point, which is read by the one rule too.
            return cast_to(Call(name, tuple(map(cast_to, arguments, wanted)), STRING), DOUBLE)
        return Call(name, tuple(map(cast_to, arguments, wanted)), result, aggregate)

    def _navigation(self, function: Navigation, arguments: list[Expression], *, filtered: bool) -> Expression:
        name = function.name
        if not self.aggregates:
            raise PlanError(f"{name} stands outside of over()", fix=f'write .over(by=[…], before="{name}(x)")')
        if filtered:
            raise PlanError(f"FILTER (WHERE …) follows an aggregate function, and {name} is none")
        wanted, result = _fitting(function, arguments)
        if len(arguments) > 1 and not (
            isinstance(arguments[1], Literal) and type(arguments[1].value) is int and 0 <= arguments[1].value <= _FARTHEST
        ):
            raise PlanError(f"argument 2 of {name} must be a constant whole number from 0 to {_FARTHEST}")
        return Call(name, tuple(map(cast_to, arguments, wanted)), result, aggregate=True)

    def _function(self, name: str, *, aggregate: bool, filtered: bool) -> Function | Aggregate:
        if aggregate:
            if not self.aggregates:
                raise PlanError(f"aggregate function {name} stands outside of aggregate()", fix="give the stream a window, then call aggregate()")
            return AGGREGATES[name]
        if name not in FUNCTIONS:
            raise PlanError(
                f"unknown function {name}", fix=near(name, [*filter(str.isidentifier, (*FUNCTIONS, *AGGREGATES, *NAVIGATION)), "TRY_CAST", "STRUCT"])
            )
        if filtered:
            raise PlanError(f"FILTER (WHERE …) follows an aggregate function, and {name} is none")
        return FUNCTIONS[name]


def _fitting(function: Function | Aggregate | Navigation, arguments: list[Expression]) -> tuple[tuple[Type, ...], Type]:
    """Return the types that arguments are cast to, and the result's. Raises PlanError if no form of the function takes them."""
    given = [argument.type for argument in arguments]
    matches = [found for signature in function.signatures if (found := signature.match(given))]
    if not matches:
        takes = " or ".join(f"({', '.join(map(str, s.takes))}{' …' if s.variadic else ''})" for s in function.signatures)
        raise PlanError(f"{function.name} takes {takes}, not ({', '.join(map(str, given))})", fix=_cast_hint(function, given))
    return next((m for m in matches if list(m[0]) == given), matches[0])


def _cast_hint(function: Function | Aggregate | Navigation, given: list[Type]) -> str | None:
    takes = {kind for signature in function.signatures for kind in signature.takes}
    if STRING in given and TIMESTAMP in given:
        return "TO_TIMESTAMP_LTZ(…) makes a timestamp of a text"
    if STRING in given and takes != {STRING}:
        return "TRY_CAST(… AS DOUBLE) makes a number of a text"
    if takes == {STRING} and set(given) & {BIGINT, DOUBLE, BOOLEAN, TIMESTAMP}:
        return "CAST(… AS STRING) makes a text"
    return None
