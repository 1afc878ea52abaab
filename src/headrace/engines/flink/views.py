"""From operators to SELECTs and the views between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import singledispatchmethod

from headrace.engines.flink.block import Block
from headrace.engines.flink.expression import Item, Row, item, loose, sha1_of, sql, uuid_of
from headrace.engines.flink.refuse import blaming, check_regroup, check_window
from headrace.engines.flink.words import comment, duration, listed, name
from headrace.errors import PlanError
from headrace.plan.expression import Call, Column, Expression, columns_of, rebuild, walk
from headrace.plan.operators import Aggregate, Derive, Named, Operator, Regroup, Select, Sink, Source, Union, Unnest, Where, inputs_of, upstream
from headrace.plan.pipeline import Plan
from headrace.plan.schema import STRING
from headrace.plan.window import Window

__all__ = ["Views", "fresh"]

_BOUNDS = ("window_start", "window_end")
_KINDS = {"aggregate": "window", "regroup": "aggregate"}
_REVISION = {"revision": Item("CAST(0 AS BIGINT)", computed=True)}


def fresh(wanted: str, taken: Iterable[str]) -> str:
    """Return the name wanted, or that with a number, which is none of those taken."""
    taken = set(taken)
    return next(one for number in range(1, len(taken) + 2) if (one := wanted if number == 1 else f"{wanted}_{number}") not in taken)


def window_function(window: Window, table: str, time: str) -> str:
    """Return the table function that gives each row once for every window that holds it."""
    given = f"TABLE {name(table)}, DESCRIPTOR({name(time)})"
    size, step = duration(window.size_ms), duration(window.step_ms)
    match window.kind:
        case "tumbling":
            return f"TABLE(TUMBLE({given}, {size}))"
        case "sliding":
            return f"TABLE(HOP({given}, {step}, {size}))"
        case "cumulating":
            return f"TABLE(CUMULATE({given}, {step}, {size}))"
    raise PlanError(f"{window.kind} windows are not written in Flink SQL yet")


class Views:
    """The views of a plan, made as they are found to be needed."""

    def __init__(self, plan: Plan, time: str) -> None:
        self.statements: list[str] = []
        self._time = time
        operators = list(plan.operators())
        self._numbers = {id(operator): number for number, operator in enumerate(operators, 1)}
        self._consumers = Counter(id(one) for operator in operators for one in inputs_of(operator))
        self._regrouped = {id(one) for operator in operators if isinstance(operator, Regroup) for one in upstream(operator.input)}
        self._taken = {operator.topic for operator in operators if isinstance(operator, Source | Sink)}
        self._blocks: dict[int, Block] = {}

    def block(self, operator: Operator) -> Block:
        """Return the SELECT of an operator's rows; what several operators read is a view.

        Raises
        ------
        PlanError
            If plain Flink SQL cannot say it. It names the operator.
        """
        if id(operator) not in self._blocks:
            with blaming(self.said(operator)):
                made = self._make(operator)
            made = made if isinstance(operator, Source) else made.saying(self.said(operator))
            shared = self._consumers[id(operator)] > 1 and not isinstance(operator, Source)
            self._blocks[id(operator)] = self._view(operator, made) if shared else made
        return self._blocks[id(operator)]

    def said(self, operator: Operator | Sink) -> str:
        """Return the operator with its number, as `headrace plan` shows it."""
        return f"#{self._numbers[id(operator)]} {operator}"

    def _view(self, operator: Operator, block: Block) -> Block:
        kind = type(operator).__name__.lower()
        named = fresh(f"{_KINDS.get(kind, kind)}_{self._numbers[id(operator)]}", self._taken)
        self._taken.add(named)
        self.statements.append(f"{comment(*block.said)}CREATE TEMPORARY VIEW {name(named)} AS\n{block.select()};")
        return block.view(named)

    def _over(self, operator: Operator, columns: Iterable[str]) -> Block:
        """Return the SELECT that an operator reading `columns` of `operator` can be added to."""
        block = self.block(operator)
        return block if block.takes(list(columns)) else self._view(operator, block)

    def _table(self, operator: Operator) -> Block:
        """Return a SELECT from a table or view, with nothing computed."""
        block = self.block(operator)
        return block if block.table and block.takes(block.items) else self._view(operator, block)

    # the operators

    @singledispatchmethod
    def _make(self, operator: Operator) -> Block:
        raise PlanError(f"{type(operator).__name__} is not written in Flink SQL yet")

    @_make.register
    def _(self, source: Source) -> Block:
        columns = {column: Item(name(column)) for column in source.schema.names}
        time = self._time if source.event_time else None
        sound = tuple(f"{name(field.name)} IS NOT NULL" for field in source.schema.fields if not field.nullable)
        return Block(name(source.topic), columns, time, source.topic, frozenset([*columns, self._time]), where=sound)

    @_make.register
    def _(self, derive: Derive) -> Block:
        block, row, columns = self._computing(derive.input, derive.columns)
        return _with(block, {**block.items, **{column: item(expression, row) for column, expression in columns}})

    @_make.register
    def _(self, select: Select) -> Block:
        block, row, columns = self._computing(select.input, select.columns)
        return _with(block, {column: item(expression, row) for column, expression in columns})

    @_make.register
    def _(self, where: Where) -> Block:
        block = self._over(where.input, columns_of(where.predicate))
        return block.and_where(loose(where.predicate, block.row))

    @_make.register
    def _(self, unnest: Unnest) -> Block:
        block = self._over(unnest.input, [unnest.column])
        if unnest.input.schema[unnest.column].type.element.kind == "ROW" and unnest.key is None:
            raise PlanError("UNNEST of an ARRAY of ROWs gives a column for each field in Flink", fix="use a MAP, or an ARRAY of plain values")
        given = sql(Column(unnest.column, unnest.input.schema[unnest.column].type), block.row)
        wanted = [one for one in (unnest.key, unnest.value) if one]
        aliases: dict[str, str] = {}
        for one in wanted:
            aliases[one] = fresh(one, block.known | set(aliases.values()))
        entry = fresh("entry", block.known | set(aliases.values()))
        relation = f"{block.relation}\nCROSS JOIN UNNEST({given}) AS {name(entry)} ({', '.join(map(name, aliases.values()))})"
        kept = {column: held for column, held in block.items.items() if column != unnest.column}
        made = {one: Item(name(alias)) for one, alias in aliases.items()}
        return replace(block, relation=relation, table=None, items={**kept, **made}, known=block.known | {entry, *aliases.values()})

    @_make.register
    def _(self, union: Union) -> Block:
        blocks = [self.block(one) for one in union.inputs]
        timed = all(block.time for block in blocks)
        texts = [(block if timed else replace(block, time=None)).select() for block in blocks]
        named = fresh("every", self._taken)
        columns = {column: Item(name(column)) for column in union.schema.names}
        body = "\nUNION ALL\n".join(texts)
        said = tuple(one for block in blocks for one in block.said)
        return Block(_nested(body, named), columns, self._time if timed else None, known=frozenset([*columns, self._time]), said=said)

    @_make.register
    def _(self, aggregate: Aggregate) -> Block:
        check_window(aggregate)
        block = self._table(aggregate.input)
        assert block.table is not None
        if block.time is None:
            raise PlanError("the rows have lost their event time")
        bounds = {one: Item(name(one), "window") for one in _BOUNDS}
        relation = window_function(aggregate.window, block.table, block.time)
        return self._grouped(aggregate, replace(block, relation=relation, items={**block.items, **bounds}))

    @_make.register
    def _(self, regroup: Regroup) -> Block:
        check_regroup(regroup)
        block = self._table(regroup.input)
        assert all(block.items[bound].held == "window" for bound in _BOUNDS)
        return self._grouped(regroup, block)

    def _grouped(self, operator: Aggregate | Regroup, block: Block) -> Block:
        keys = {key: block.items[key] for key in operator.keys if key not in _REVISION}
        calls = {hidden: item(call, block.row) for hidden, call in operator.calls}
        row = {**_REVISION, **keys, **calls}
        made = {column: replace(item(expression, row), computed=True) for column, expression in operator.columns}
        bounds = {one: block.items[one] for one in _BOUNDS}
        closing = bounds if id(operator) in self._regrouped else {one: _zoned(held) for one, held in bounds.items()}
        group = tuple(dict.fromkeys(held.sql for held in (*keys.values(), *bounds.values())))
        return replace(block, items={**keys, **made, **closing}, time=None, table=None, constants=_REVISION, group=group)

    def _computing(self, operator: Operator, columns: Named) -> tuple[Block, Row, Named]:
        """Return the SELECT that columns can be added to, and the columns, each hash that a UUID is cut from made once below."""
        block = self._over(operator, {one for _, expression in columns for one in columns_of(expression)})
        calls = list(dict.fromkeys(call for _, expression in columns for call in _uuids(expression)))
        if not calls:
            return block, block.row, columns
        hashes: dict[str, str] = {}
        for call in calls:
            hashes[fresh("sha1", {*block.known, *block.items, *hashes})] = sha1_of(call.arguments, block.row)
        nested = block.select(*(f"{made} AS {name(hidden)}" for hidden, made in hashes.items()))
        inner = block.view(fresh("hashed", self._taken))
        hidden = {f"@uuid{number}": Item(uuid_of(name(one)), computed=True) for number, one in enumerate(hashes)}
        replacing = {call: Column(one, STRING) for call, one in zip(calls, hidden, strict=True)}
        inner = replace(inner, relation=_nested(nested, inner.table or ""), table=None, known=inner.known | set(hashes), said=block.said)
        swapped = tuple((column, _swap(expression, replacing)) for column, expression in columns)
        return inner, {**inner.row, **hidden}, swapped


def _with(block: Block, items: dict[str, Item]) -> Block:
    constants = {column: held for column, held in (block.constants or {}).items() if column not in items}
    return replace(block, items=items, constants=constants)


def _zoned(held: Item) -> Item:
    return Item(f"CAST({held.sql} AS TIMESTAMP_LTZ(3))", computed=True)


def _nested(body: str, named: str) -> str:
    return f"{listed([body], '({})')} AS {name(named)}"


def _uuids(expression: Expression) -> list[Call]:
    return [node for node in walk(expression) if isinstance(node, Call) and node.function == "UUID_V5"]


def _swap(expression: Expression, replacing: dict[Call, Column]) -> Expression:
    swap: Callable[[Expression], Expression] = lambda node: replacing[node] if node in replacing else rebuild(node, swap)  # noqa: E731
    return swap(expression)
