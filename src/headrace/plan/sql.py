"""From SQL text to bound expressions: sqlglot parses with our small Flink dialect, this module gives the tree its meaning.

Calls stay calls (the dialect knows no function by name), so the function table alone says what exists.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from sqlglot import exp, generator, parser, tokens
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import ParseError, TokenError
from sqlglot.tokenizer_core import Token, TokenType

from headrace.errors import PlanError, near
from headrace.plan.expression import Call, Cast, Column, Expression, FieldOf, Literal, Struct, walk
from headrace.plan.functions import AGGREGATES, FUNCTIONS, Aggregate, Function
from headrace.plan.functions.navigation import NAVIGATION, Navigation
from headrace.plan.schema import BIGINT, BOOLEAN, DOUBLE, NULL, STRING, TIMESTAMP, Schema, Type, parse_type, row_of

__all__ = ["Headrace", "cast_to", "parse_expression"]


class Headrace(Dialect):
    """Flink SQL as headrace reads it."""

    class Tokenizer(tokens.Tokenizer):  # noqa: D106
        QUOTES = ["'"]
        IDENTIFIERS = ["`", '"']
        COMMANDS = set()  # a text that begins with a column `show` or `fetch` is no statement

    class Parser(parser.Parser):  # noqa: D106
        STATEMENT_PARSERS = {}
        FUNCTIONS = {}
        NO_PAREN_FUNCTIONS = {}
        FUNCTION_PARSERS = {name: parser.Parser.FUNCTION_PARSERS[name] for name in ("CAST", "POSITION", "TRY_CAST")}
        NO_PAREN_FUNCTION_PARSERS = {"CASE": parser.Parser.NO_PAREN_FUNCTION_PARSERS["CASE"]}

    class Generator(generator.Generator):  # noqa: D106
        TYPE_MAPPING = {**generator.Generator.TYPE_MAPPING, exp.DType.TEXT: "STRING", exp.DType.TIMESTAMPLTZ: "TIMESTAMP_LTZ"}


# Words that shape an expression: a column of such a name stands unquoted only where the text has no other reading.
_SYNTAX = frozenset({
    "AND", "AS", "BETWEEN", "CASE", "CAST", "DISTINCT", "ELSE", "END", "FALSE", "FILTER", "FROM", "IN", "INTERVAL", "IS", "LIKE", "NOT", "NULL",
    "OR", "THEN", "TRUE", "TRY_CAST", "WHEN", "WHERE",
})  # fmt: skip
_FARTHEST = 10_000  # rows to which LAG goes back
_BINARY: dict[type[exp.Expression], str] = {
    exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.Mod: "%", exp.And: "AND", exp.Or: "OR",
    exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=", exp.DPipe: "CONCAT",
    exp.Like: "LIKE", exp.NullSafeNEQ: "IS DISTINCT FROM",
}  # fmt: skip


def parse_expression(
    text: str,
    schema: Schema,
    settings: Mapping[str, Any] | None = None,
    *,
    where: str = "expression",
    aggregates: bool = False,
) -> Expression:
    """Read the SQL `text` over the columns of `schema`; `:name` stands for a setting.

    Raises
    ------
    PlanError
        If the text cannot be parsed, or names a column, function or setting that there is not, or the types do not fit.
        The error names `where`, the text, and what was probably meant.
    """
    place = f"{where}: {' '.join(text.split())!r}"
    try:
        return _bind(text, schema, _Binder(schema, settings or {}, aggregates=aggregates))
    except PlanError as error:
        raise PlanError(error.what, where=place, fix=error.fix) from None
    except (ParseError, TokenError) as error:
        raise PlanError(f"cannot be parsed: {_first_line(error)}", where=place) from None
    except RecursionError:
        raise PlanError("is nested too deeply", where=place) from None


def _first_line(error: ParseError | TokenError) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    return plain.splitlines()[0].rstrip(".").replace("<class 'sqlglot.expressions.", "").replace("'>", "")


def _bind(text: str, schema: Schema, binder: _Binder) -> Expression:
    """Return what the text means, words of syntax taken as columns of that name only if it has no meaning otherwise."""
    dialect, names = Headrace(), set(schema.names)
    text, found = _tokens(dialect, text)
    try:
        return binder.bind(_one(dialect, _quote(found, names, _SYNTAX), text))
    except (ParseError, PlanError) as first:
        if not any(name.upper() in _SYNTAX for name in names):
            raise
        try:
            return binder.bind(_one(dialect, _quote(found, names, frozenset()), text))
        except PlanError as second:
            raise (second if isinstance(first, ParseError) else first) from None
        except ParseError:
            raise first from None


_JOINED = re.compile(r"[\d.]+[eE]\d+(?=[+-])")


def _tokens(dialect: Dialect, text: str) -> tuple[str, list[Token]]:
    """Return the tokens, and the text with a blank behind each number that the tokenizer joined with the sum that follows, as in `1e3+2`."""
    while True:
        found = dialect.tokenize(text)
        numbers = [token for token in found if token.token_type == TokenType.NUMBER]
        cuts = [number.start + joined.end() for number in numbers if (joined := _JOINED.match(number.text))]
        if not cuts:
            return text, found
        for cut in reversed(cuts):
            text = f"{text[:cut]} {text[cut:]}"


# The parser would pass over an argument that is not there.
_GAPS = {
    (TokenType.COMMA, TokenType.COMMA), (TokenType.COMMA, TokenType.R_PAREN), (TokenType.COMMA, TokenType.ALIAS),
    (TokenType.L_PAREN, TokenType.COMMA), (TokenType.L_PAREN, TokenType.ALIAS),
}  # fmt: skip


def _one(dialect: Dialect, found: list[Token], text: str) -> exp.Expression:
    for one, other in pairwise(token.token_type for token in found):
        if (one, other) in _GAPS:
            raise PlanError("lacks an argument beside a comma")
    trees = [tree for tree in dialect.parser().parse(found, text) if tree is not None]
    if len(trees) != 1:
        raise PlanError("holds no expression" if not trees else "holds more than one expression", fix="write one expression, with no ';'")
    (tree,) = trees
    assert isinstance(tree, exp.Expression)
    return tree


_WORD = re.compile(r"\w+")


def _quote(found: list[Token], names: set[str], syntax: frozenset[str]) -> list[Token]:
    """Make identifiers of the words that are columns, so that any column name may stand unquoted, and names of those behind a colon."""
    fixed = []
    for position, token in enumerate(found):
        called = position + 1 < len(found) and found[position + 1].token_type == TokenType.L_PAREN
        literal = token.token_type in (TokenType.STRING, TokenType.NUMBER)
        if not literal and position > 0 and found[position - 1].token_type == TokenType.COLON:
            fixed.append(_as(TokenType.VAR, token))
        elif token.text in names and _WORD.fullmatch(token.text) and not (called or literal) and token.text.upper() not in syntax:
            fixed.append(_as(TokenType.IDENTIFIER, token))
        else:
            fixed.append(token)
    return fixed


def _as(kind: TokenType, token: Token) -> Token:
    return Token(kind, token.text, token.line, token.col, token.start, token.end, token.comments)


class _Binder:
    """Gives a parsed tree its types and its functions."""

    def __init__(self, schema: Schema, settings: Mapping[str, Any], *, aggregates: bool) -> None:
        self.schema, self.settings, self.aggregates = schema, settings, aggregates

    def bind(self, node: exp.Expression) -> Expression:
        if type(node) in _BINARY:
            call = self.call(_BINARY[type(node)], [self.bind(node.this), self.bind(node.expression)])
            return self.call("NOT", [call]) if node.args.get("negate") else call
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise PlanError(f"{type(node).__name__.upper()} is not known here: {node.sql()!r}")
        bound: Expression = method(node)
        return bound

    # constants and names

    def _paren(self, node: exp.Paren) -> Expression:
        return self.bind(node.this)

    def _null(self, _node: exp.Null) -> Expression:
        return Literal(None, NULL)

    def _boolean(self, node: exp.Boolean) -> Expression:
        return Literal(bool(node.this), BOOLEAN)

    def _literal(self, node: exp.Literal) -> Expression:
        return Literal(node.this, STRING) if node.is_string else _number(node.this)

    def _placeholder(self, node: exp.Placeholder) -> Expression:
        name = node.name
        if name not in self.settings:
            raise PlanError(f"unknown setting :{name}", fix=near(name, (known for known in self.settings if known[0] != "@")))
        return _constant(self.settings[name], f"setting :{name}")

    def _column(self, node: exp.Column) -> Expression:
        first, *rest = [part.name for part in node.parts]
        field = self.schema[first]
        bound: Expression = Column(first, field.type)
        for name in rest:
            bound = _field_of(bound, name)
        return bound

    def _dot(self, node: exp.Dot) -> Expression:
        return _field_of(self.bind(node.this), node.expression.name)

    def _bracket(self, node: exp.Bracket) -> Expression:
        return self.call("ELEMENT", [self.bind(node.this), *map(self.bind, node.expressions)])

    def _alias(self, node: exp.Alias) -> Expression:
        raise PlanError(f"two names stand side by side: {node.this.name} {node.alias}", fix="a name with spaces stands in backticks")

    # special forms

    def _neg(self, node: exp.Neg) -> Expression:
        if isinstance(node.this, exp.Literal) and not node.this.is_string:
            return _number("-" + node.this.this)
        return self.call("NEGATE", [self.bind(node.this)])

    def _not(self, node: exp.Not) -> Expression:
        if isinstance(node.this, exp.Is) and isinstance(node.this.expression, exp.Null):
            return self.call("IS NOT NULL", [self.bind(node.this.this)])
        return self.call("NOT", [self.bind(node.this)])

    def _is(self, node: exp.Is) -> Expression:
        if isinstance(node.expression, exp.Null):
            return self.call("IS NULL", [self.bind(node.this)])
        if isinstance(node.expression, exp.Boolean):
            return self.call("IS NOT DISTINCT FROM", [self.bind(node.this), self.bind(node.expression)])
        raise PlanError(f"IS takes NULL, TRUE or FALSE: {node.sql()!r}")

    def _nullsafeeq(self, node: exp.NullSafeEQ) -> Expression:
        return self.call("IS NOT DISTINCT FROM", [self.bind(node.this), self.bind(node.expression)])

    def _in(self, node: exp.In) -> Expression:
        if not node.expressions:
            raise PlanError("IN takes a list of values", fix="write x IN (1, 2, 3)")
        return self.call("IN", [self.bind(node.this), *map(self.bind, node.expressions)])

    def _between(self, node: exp.Between) -> Expression:
        value = self.bind(node.this)
        return self.call("AND", [self.call(">=", [value, self.bind(node.args["low"])]), self.call("<=", [value, self.bind(node.args["high"])])])

    def _case(self, node: exp.Case) -> Expression:
        subject = self.bind(node.this) if node.this else None
        result = self.bind(node.args["default"]) if node.args.get("default") else Literal(None, NULL)
        for branch in reversed(node.args["ifs"]):
            condition = self.bind(branch.this)
            if subject is not None:
                condition = self.call("=", [subject, condition])
            result = self.call("IF", [condition, self.bind(branch.args["true"]), result])
        return result

    def _cast(self, node: exp.Cast) -> Expression:
        argument, target = self.bind(node.this), _type_of(node)
        if argument.type == STRING and target != STRING:
            raise PlanError(
                f"CAST from STRING to {target} would stop the pipeline at the first text that cannot be read",
                fix="use TRY_CAST, which gives NULL there",
            )
        return cast_to(argument, target)

    def _trycast(self, node: exp.TryCast) -> Expression:
        return cast_to(self.bind(node.this), _type_of(node))

    # calls

    def _strposition(self, node: exp.StrPosition) -> Expression:
        if node.args.get("position"):
            raise PlanError("POSITION takes two texts", fix="write POSITION('b' IN x)")
        return self.call("LOCATE", [self.bind(node.args["substr"]), self.bind(node.this)])

    def _filter(self, node: exp.Filter) -> Expression:
        condition, call = node.expression.this, node.this
        if not isinstance(call, exp.Anonymous):
            raise PlanError("FILTER (WHERE …) follows an aggregate function")
        return self._anonymous(call, condition)

    def _anonymous(self, node: exp.Anonymous, condition: exp.Expression | None = None) -> Expression:
        name, given = str(node.this).upper(), list(node.expressions)
        if name in ("STRUCT", "ROW"):
            return self._struct(given)
        if given and isinstance(given[0], exp.Distinct):
            if f"{name} DISTINCT" not in AGGREGATES:
                raise PlanError(f"DISTINCT cannot stand in {name}", fix="only COUNT(DISTINCT x) takes it")
            name, given = f"{name} DISTINCT", list(given[0].expressions)
        if name == "COUNT" and given and isinstance(given[0], exp.Star):
            given = []
        arguments = [self.bind(argument) for argument in given]
        if condition is not None:
            # Every aggregate passes over a row whose first argument is NULL.
            first, *others = arguments or [Literal(1, BIGINT)]
            kept = self.bind(condition)
            if kept.type != BOOLEAN:
                raise PlanError(f"FILTER (WHERE …) takes a BOOLEAN, not a {kept.type}")
            arguments = [self.call("IF", [kept, first, Literal(None, NULL)]), *others]
        return self.call(name, arguments, filtered=condition is not None)

    def _struct(self, given: list[exp.Expression]) -> Expression:
        fields: dict[str, Expression] = {}
        for value in given:
            name = value.alias if isinstance(value, exp.Alias) else value.name if isinstance(value, exp.Column) else ""
            if not name or name in fields:
                raise PlanError(f"a field of STRUCT needs a name of its own: {value.sql()!r}", fix="write STRUCT(a + b AS total)")
            fields[name] = self.bind(value.this if isinstance(value, exp.Alias) else value)
        if not fields:
            raise PlanError("STRUCT needs at least one field")
        return Struct(tuple(fields.values()), row_of({name: value.type for name, value in fields.items()}))

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


def _type_of(cast: exp.Cast) -> Type:
    return parse_type(cast.args["to"].sql(dialect=Headrace))


def _number(text: str) -> Literal:
    if re.fullmatch(r"-?\d+", text):
        value = int(text)
        if not -(2**63) <= value < 2**63:
            raise PlanError(f"{text} is beyond BIGINT", fix=f"write {text}.0 for a DOUBLE")
        return Literal(value, BIGINT)
    try:
        number = float(text)
    except ValueError:
        raise PlanError(f"{text!r} is not a number") from None
    if not math.isfinite(number):
        raise PlanError(f"{text} is beyond DOUBLE")
    return Literal(number, DOUBLE)


def _constant(value: object, where: str) -> Literal:
    match value:
        case bool():
            return Literal(value, BOOLEAN)
        case int() | float():
            return _number(repr(value))
        case str():
            return Literal(value, STRING)
        case None:
            return Literal(None, NULL)
    raise PlanError(f"{where} is a {type(value).__name__}", fix="only text, numbers, booleans and None can stand in an expression")


def _field_of(row: Expression, name: str) -> FieldOf:
    if row.type.kind != "ROW":
        raise PlanError(f"{name!r} is asked of a {row.type}, which has no fields", fix="only a ROW has; of a MAP write m['key']")
    fields = dict(row.type.fields())
    if name not in fields:
        raise PlanError(f"unknown field {name!r} of {row.type}", fix=near(name, fields))
    return FieldOf(row, name, fields[name])


def _cast_hint(function: Function | Aggregate | Navigation, given: list[Type]) -> str | None:
    takes = {kind for signature in function.signatures for kind in signature.takes}
    if STRING in given and TIMESTAMP in given:
        return "TO_TIMESTAMP_LTZ(…) makes a timestamp of a text"
    if STRING in given and takes != {STRING}:
        return "TRY_CAST(… AS DOUBLE) makes a number of a text"
    if takes == {STRING} and set(given) & {BIGINT, DOUBLE, BOOLEAN, TIMESTAMP}:
        return "CAST(… AS STRING) makes a text"
    return None


_CASTS: dict[str, set[Type]] = {
    "BOOLEAN": {STRING, BIGINT}, "BIGINT": {DOUBLE, STRING, BOOLEAN}, "DOUBLE": {BIGINT, STRING},
    "STRING": {BOOLEAN, BIGINT, DOUBLE, TIMESTAMP}, TIMESTAMP.kind: {STRING},
}  # fmt: skip


def cast_to(argument: Expression, target: Type) -> Expression:
    """Return `argument` as a `target`: itself where it is one, else a cast.

    Raises
    ------
    PlanError
        If the one type cannot be made of the other.
    """
    if target in (argument.type, NULL):
        return argument
    if argument.type == NULL or (isinstance(argument, Literal) and argument.value is None):
        return Literal(None, target)
    if isinstance(argument, Literal) and argument.type == BIGINT and target == DOUBLE:
        return Literal(float(argument.value), DOUBLE)  # type: ignore[arg-type]
    if target not in _CASTS.get(argument.type.kind, ()):
        raise PlanError(f"a {argument.type} cannot be cast to {target}")
    return Cast(argument, target)


def has_aggregate(expression: Expression) -> bool:
    """Return whether an aggregate function is called anywhere inside."""
    return any(isinstance(node, Call) and node.aggregate for node in walk(expression))
