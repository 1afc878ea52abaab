"""From a parsed tree to a bound expression: every node gets its type and its function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlglot import exp

from headrace.errors import PlanError, near
from headrace.plan.calls import Calls
from headrace.plan.casts import cast_to
from headrace.plan.constants import constant_of, number_of
from headrace.plan.expression import Column, Expression, FieldOf, Literal, Struct
from headrace.plan.functions import AGGREGATES
from headrace.plan.schema import BIGINT, BOOLEAN, NULL, STRING, Schema, row_of
from headrace.plan.sql_dialect import type_of

__all__ = ["Binder"]

_BINARY: dict[type[exp.Expression], str] = {
    exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.Mod: "%", exp.And: "AND", exp.Or: "OR",
    exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=", exp.DPipe: "CONCAT",
    exp.Like: "LIKE", exp.NullSafeNEQ: "IS DISTINCT FROM",
}  # fmt: skip


class Binder:
    """Gives a parsed tree its types and its functions."""

    def __init__(self, schema: Schema, settings: Mapping[str, Any], *, aggregates: bool) -> None:
        self.schema, self.settings = schema, settings
        self.call = Calls(settings, aggregates=aggregates).call

    def bind(self, node: exp.Expression) -> Expression:
        """Return what a node means. Raises PlanError if it means nothing here."""
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
        return Literal(node.this, STRING) if node.is_string else number_of(node.this)

    def _placeholder(self, node: exp.Placeholder) -> Expression:
        name = node.name
        if name not in self.settings:
            raise PlanError(f"unknown setting :{name}", fix=near(name, (known for known in self.settings if known[0] != "@")))
        return constant_of(self.settings[name], f"setting :{name}")

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
            return number_of("-" + node.this.this)
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
        argument, target = self.bind(node.this), type_of(node)
        if argument.type == STRING and target != STRING:
            raise PlanError(
                f"CAST from STRING to {target} would stop the pipeline at the first text that cannot be read",
                fix="use TRY_CAST, which gives NULL there",
            )
        return cast_to(argument, target)

    def _trycast(self, node: exp.TryCast) -> Expression:
        return cast_to(self.bind(node.this), type_of(node))

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


def _field_of(row: Expression, name: str) -> FieldOf:
    if row.type.kind != "ROW":
        raise PlanError(f"{name!r} is asked of a {row.type}, which has no fields", fix="only a ROW has; of a MAP write m['key']")
    fields = dict(row.type.fields())
    if name not in fields:
        raise PlanError(f"unknown field {name!r} of {row.type}", fix=near(name, fields))
    return FieldOf(row, name, fields[name])
