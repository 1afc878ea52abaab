"""Formulas of rules: a text in the manner of SQL becomes a function of values that may be unknown.

Rules change while a pipeline runs, so formulas are parsed where the pipeline works, which may be a worker of a cluster that has no SQL parser. The
grammar is a small part of SQL over numbers: no columns but parameters, no types but number, text and truth. Nothing is evaluated as Python.

Unknown is never zero: what is computed from an unknown value is unknown, unless it is the same whatever the value (`FALSE AND x`).
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from headrace.errors import PlanError, near, shortened

__all__ = ["RUN_STATE", "Context", "Formula", "Tree", "Value", "parsed"]

RUN_STATE = "run_state"
Value = float | str | bool | None
_MOST_TOKENS, _MOST_LETTERS, _DEEPEST, _LONGEST_S = 300, 10_000, 25, 366 * 86_400


class Context(Protocol):
    """The values and durations with which a formula is evaluated."""

    def value(self, name: str) -> Value:
        """Return a parameter's value, or the run state; None if it is unknown."""

    def held(self, number: int, active: bool | None, duration_ms: int) -> bool | None:  # noqa: FBT001
        """Return whether the formula's HELD of this number has been active for a duration; None if that is unknown."""


Compute = Callable[[Context], Value]
# What a formula is made of: the name of a form, and its parts, which are trees, texts, numbers and truths.
Tree = tuple[Any, ...]


@dataclass(frozen=True)
class Formula:
    """A formula that was parsed.

    Attributes
    ----------
    text
        The formula as it was written.
    type
        `number`, `text` or `truth`.
    names
        The parameters that it reads; `run_state` if it reads the run state.
    durations
        The durations of its HELDs in ms, by their numbers.
    compute
        Returns its value; None if that is unknown.
    tree
        What it is made of, for who computes it otherwise.
    """

    text: str
    type: str
    names: frozenset[str]
    durations: tuple[int, ...]
    compute: Compute
    tree: Tree = field(repr=False)


class _Typed(NamedTuple):
    type: str
    compute: Compute
    tree: Tree


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


_TOKENS = re.compile(
    r"""\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<text>'(?:[^']|'')*')|(?P<quoted>"[^"]+"|`[^`]+`)|(?P<word>[^\W\d]\w*)"""
    r"""|(?P<sign><=|>=|<>|!=|[≤≥≠=<>+\-*/(),]))"""
)
_SAME = {"≤": "<=", "≥": ">=", "≠": "<>", "!=": "<>"}
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq, "<>": operator.ne,
}  # fmt: skip
_ARITHMETIC: dict[str, Callable[[float, float], float]] = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_FUNCTIONS: dict[str, tuple[int, int, Callable[..., float]]] = {
    "ABS": (1, 1, abs), "SQRT": (1, 1, math.sqrt), "EXP": (1, 1, math.exp), "LN": (1, 1, math.log), "POWER": (2, 2, math.pow),
    "FLOOR": (1, 1, lambda x: float(math.floor(x))), "CEIL": (1, 1, lambda x: float(math.ceil(x))), "LEAST": (1, 64, min), "GREATEST": (1, 64, max),
}  # fmt: skip
_WORDS = frozenset(["AND", "OR", "NOT", "BETWEEN", "IN", "IS", "NULL", "TRUE", "FALSE"])
_CALLS = (*_FUNCTIONS, "COALESCE", "IF", "HELD")


@lru_cache(maxsize=50_000)
def parsed(text: str) -> Formula:
    """Return a formula.

    Raises
    ------
    PlanError
        If the text cannot be parsed, or the types do not fit; it names the place.
    """
    try:
        parser = _Parser(text)
        found = parser.whole()
    except PlanError as error:
        raise PlanError(shortened(error.what, 200), where=f"formula {shortened(text, 200)!r}", fix=error.fix) from None
    return Formula(text, found.type, frozenset(parser.names), tuple(parser.durations), found.compute, found.tree)


def _tokens(text: str) -> list[_Token]:
    if len(text) > _MOST_LETTERS:
        raise PlanError(f"has more than {_MOST_LETTERS:,} characters", fix="give parts of it names as parameters")
    found, at = list[_Token](), 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKENS.match(text, at)
        if match is None or match.lastgroup is None:
            raise PlanError(f"cannot be read from {text[at:].strip()[:20]!r} on")
        word, start = match[match.lastgroup], match.start(match.lastgroup)
        if text.startswith("--", start):
            raise PlanError("'--' begins a comment in SQL, and a formula has none", fix="write a blank between the two")
        if len(found) == _MOST_TOKENS:
            raise PlanError(f"has more than {_MOST_TOKENS} words and signs", fix="give parts of it names as parameters")
        found.append(_Token(match.lastgroup, _SAME.get(word, word), start))
        at = match.end()
    return [*found, _Token("end", "the end", end)]


class _Parser:
    """Reads a formula by recursive descent, from the operators that bind least to those that bind most."""

    def __init__(self, text: str) -> None:
        self.tokens, self.at, self.depth = _tokens(text), 0, 0
        self.names, self.durations = set[str](), list[int]()

    def whole(self) -> _Typed:
        found = self._or()
        if self._token.kind != "end":
            raise PlanError(f"{self._token.text!r} is not expected")
        return found

    # tokens

    @property
    def _token(self) -> _Token:
        return self.tokens[self.at]

    def _has(self, *words: str) -> str | None:
        """Take the next token if it is one of these words or signs."""
        one = self._token
        said = one.text.upper() if one.kind == "word" else one.text if one.kind == "sign" else None
        if said not in words:
            return None
        self.at += 1
        return said

    def _expect(self, word: str) -> None:
        if self._has(word) is None:
            raise PlanError(f"{word} is missing before {self._token.text!r}")

    # from the least binding

    def _or(self) -> _Typed:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise PlanError("is nested too deeply", fix="give parts of it names as parameters")
        found = self._and()
        while self._has("OR"):
            found = _either(self._truth(found, "OR"), self._truth(self._and(), "OR"), decides=True)
        self.depth -= 1
        return found

    def _and(self) -> _Typed:
        found = self._not()
        while self._has("AND"):
            found = _either(self._truth(found, "AND"), self._truth(self._not(), "AND"), decides=False)
        return found

    def _not(self) -> _Typed:
        times = 0
        while self._has("NOT"):
            times += 1
        found = self._predicate()
        return _not(self._truth(found, "NOT")) if times % 2 else self._truth(found, "NOT") if times else found

    def _predicate(self) -> _Typed:
        left = self._sum()
        if (sign := self._has(*_COMPARE)) is not None:
            return _compare(sign, left, self._sum())
        if self._has("IS"):
            negated = self._has("NOT") is not None
            self._expect("NULL")
            return _Typed("truth", lambda context: (left.compute(context) is None) != negated, ("null", negated, left.tree))
        negated = self._has("NOT") is not None
        if self._has("BETWEEN"):
            low = self._sum()
            self._expect("AND")
            found = _either(_compare(">=", left, low), _compare("<=", left, self._sum()), decides=False)
        elif self._has("IN"):
            found = self._in(left)
        elif negated:
            raise PlanError(f"NOT is followed by {self._token.text!r}", fix="write NOT BETWEEN or NOT IN")
        else:
            return left
        return _not(found) if negated else found

    def _in(self, left: _Typed) -> _Typed:
        self._expect("(")
        found = _compare("=", left, self._sum())
        while self._has(","):
            found = _either(found, _compare("=", left, self._sum()), decides=True)
        self._expect(")")
        return found

    def _sum(self) -> _Typed:
        found = self._product()
        while (sign := self._has("+", "-")) is not None:
            found = _call(sign, _ARITHMETIC[sign], [_number(found, sign), _number(self._product(), sign)])
        return found

    def _product(self) -> _Typed:
        found = self._signed()
        while (sign := self._has("*", "/")) is not None:
            found = _call(sign, _ARITHMETIC[sign], [_number(found, sign), _number(self._signed(), sign)])
        return found

    def _signed(self) -> _Typed:
        minus = 0
        while (sign := self._has("-", "+")) is not None:
            minus += sign == "-"
        found = self._primary()
        return _call("NEG", operator.neg, [_number(found, "-")]) if minus % 2 else found

    def _primary(self) -> _Typed:
        one = self._token
        self.at += 1
        match one.kind:
            case "number":
                if (number := _finite(float(one.text))) is None:
                    raise PlanError(f"{one.text} is greater than any DOUBLE", fix="write a number below 1.8e308")
                return _constant("number", number)
            case "text":
                return _constant("text", one.text[1:-1].replace("''", "'"))
            case "quoted":
                return self._name(one.text[1:-1])
            case "word" if one.text.upper() in {"TRUE", "FALSE"}:
                return _constant("truth", one.text.upper() == "TRUE")
            case "word" if one.text.upper() not in _WORDS:
                return self._called(one.text) if self._has("(") else self._name(one.text)
            case "sign" if one.text == "(":
                found = self._or()
                self._expect(")")
                return found
        raise PlanError(f"a value is missing before {one.text!r}")

    def _name(self, name: str) -> _Typed:
        self.names.add(name)
        return _Typed("text" if name == RUN_STATE else "number", lambda context: context.value(name), ("name", name))

    def _called(self, name: str) -> _Typed:
        name = name.upper()
        if name not in _CALLS:
            raise PlanError(f"unknown function {name}", fix=near(name, _CALLS))
        first = self.at
        arguments = [self._or()]
        while self._has(","):
            first = self.at
            arguments.append(self._or())
        self._expect(")")
        if name == "HELD":
            return self._held(arguments, self.tokens[first : self.at - 1])
        if name == "IF":
            return self._if(arguments)
        if name == "COALESCE":
            return _coalesce(arguments)
        least, most, function = _FUNCTIONS[name]
        if not least <= len(arguments) <= most:
            raise PlanError(f"{name} takes {least} {'argument' if least == 1 else 'arguments'}{' or more' if most > least else ''}")
        return _call(name, function, [_number(one, name) for one in arguments])

    def _held(self, arguments: list[_Typed], last: list[_Token]) -> _Typed:
        if len(arguments) != 2 or len(last) != 1 or last[0].kind != "number":
            raise PlanError("HELD takes a condition and a number of seconds", fix="write HELD(temperature > 90, 300)")
        (_, condition, tree), seconds = self._truth(arguments[0], "HELD"), float(last[0].text)
        if not 0 <= seconds <= _LONGEST_S:
            raise PlanError(f"HELD takes 0 to {_LONGEST_S} seconds, not {seconds:g}")
        number, duration = len(self.durations), round(seconds * 1000)
        self.durations.append(duration)
        return _Typed("truth", lambda context: context.held(number, condition(context), duration), ("held", number, tree))  # type: ignore[arg-type]

    def _if(self, arguments: list[_Typed]) -> _Typed:
        if len(arguments) != 3:
            raise PlanError("IF takes a condition and two values", fix="write IF(run_state = 'RUNNING', 90, 60)")
        condition, (kind, one, _), (other_kind, other, _) = self._truth(arguments[0], "IF").compute, arguments[1], arguments[2]
        _alike(kind, other_kind, "IF")

        def compute(context: Context) -> Value:
            # Both are computed: a HELD inside follows its condition also while the other one counts.
            chosen, first, second = condition(context), one(context), other(context)
            return None if chosen is None else first if chosen else second

        return _Typed(kind, compute, ("if", *(one.tree for one in arguments)))

    @staticmethod
    def _truth(given: _Typed, by: str) -> _Typed:
        if given.type != "truth":
            raise PlanError(f"{by} takes a condition, not a {given.type}", fix="compare it, as in x > 0")
        return given


def _constant(kind: str, value: Value) -> _Typed:
    return _Typed(kind, lambda _context: value, ("constant", value))


def _number(given: _Typed, by: str) -> _Typed:
    if given.type != "number":
        raise PlanError(f"{by} takes numbers, not a {given.type}")
    return given


def _alike(one: str, other: str, by: str) -> None:
    if one != other:
        raise PlanError(f"{by} takes values of one type, not a {one} and a {other}")


def _either(left: _Typed, right: _Typed, *, decides: bool) -> _Typed:
    """Return OR, which TRUE decides, or AND, which FALSE decides."""
    one, other = left.compute, right.compute

    def compute(context: Context) -> Value:
        # Both are computed: a HELD inside follows its condition whatever the other is.
        first, second = one(context), other(context)
        if first is decides or second is decides:
            return decides
        return None if first is None or second is None else not decides

    return _Typed("truth", compute, ("or" if decides else "and", left.tree, right.tree))


def _not(given: _Typed) -> _Typed:
    inner = given.compute

    def compute(context: Context) -> Value:
        value = inner(context)
        return None if value is None else not value

    return _Typed("truth", compute, ("not", given.tree))


def _compare(sign: str, left: _Typed, right: _Typed) -> _Typed:
    _alike(left.type, right.type, sign)
    if left.type != "number" and sign not in {"=", "<>"}:
        raise PlanError(f"{sign} takes numbers, not a {left.type}")
    one, other, function = left.compute, right.compute, _COMPARE[sign]

    def compute(context: Context) -> Value:
        first, second = one(context), other(context)
        return None if first is None or second is None else function(first, second)

    return _Typed("truth", compute, ("compare", sign, left.tree, right.tree))


def _call(name: str, function: Callable[..., float], arguments: list[_Typed]) -> _Typed:
    """Return a call on numbers; it is unknown where an argument is, and where the function has no finite value."""
    inner = [one.compute for one in arguments]

    def compute(context: Context) -> Value:
        values = [one(context) for one in inner]
        if None in values:
            return None
        try:
            return _finite(function(*values))
        except (ArithmeticError, ValueError):
            return None

    return _Typed("number", compute, ("call", name, *(one.tree for one in arguments)))


def _coalesce(arguments: list[_Typed]) -> _Typed:
    for one in arguments[1:]:
        _alike(arguments[0].type, one.type, "COALESCE")
    inner = [one.compute for one in arguments]

    def compute(context: Context) -> Value:
        return next((value for value in [one(context) for one in inner] if value is not None), None)

    return _Typed(arguments[0].type, compute, ("coalesce", *(one.tree for one in arguments)))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
