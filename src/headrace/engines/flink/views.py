"""From operators to SELECTs and the views between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import singledispatchmethod

from headrace.engines.flink import hosting
from headrace.engines.flink.block import Block
from headrace.engines.flink.expression import Item, Row, item, loose, sha1_of, sql, uuid_of
from headrace.engines.flink.intake import MS, Intake, Marks, epoch_ms, fresh
from headrace.engines.flink.parts import DUPLICATES, Hosted, Once, Part
from headrace.engines.flink.paths import Paths
from headrace.engines.flink.places import Places
from headrace.engines.flink.refuse import check_regroup, check_window
from headrace.engines.flink.window_words import grouped_at, grouped_by, key_text, nulls_last, plus, window_function, within_window, zoned
from headrace.engines.flink.words import comment, listed, name, text
from headrace.engines.selects import Selects, blaming
from headrace.engines.shipped import pack
from headrace.engines.zones import without_zone
from headrace.errors import PlanError
from headrace.plan.expression import Call, Column, Expression, columns_of, rebuild, walk
from headrace.plan.graph import Node
from headrace.plan.operators import Aggregate, Derive, Named, Operator, Process, Regroup, Select, Side, Source, TopN, Traits, Union, Unnest, Where
from headrace.plan.pipeline import Plan
from headrace.plan.schema import STRING

__all__ = ["Views"]

_BOUNDS = ("window_start", "window_end")
_REVISION = {"revision": Item("CAST(0 AS BIGINT)", computed=True)}


class Views(Selects[Block]):
    """The views of a plan, made as they are found to be needed; `prefix` stands before the name of each. `intakes` are by topic."""

    engine = "Flink"

    def __init__(self, plan: Plan, places: Places, prefix: str = "") -> None:
        super().__init__(plan)
        self.statements: list[Part] = []
        self.prefix = prefix
        taken = {field for node in plan.nodes for field in node.schema.names}
        self.marks = Marks.beside(taken, sources=plan.sources, bounded=places.bounded, processes=bool(plan.processes))
        self.key = fresh("key", taken)
        self.intakes: dict[str, Intake] = {}
        self._places = places
        self._regrouped = {one for node in plan.nodes if node.is_a(Regroup, TopN) for one in within_window(node.input)}
        self._taken = {*(source.topic for source in plan.sources), *(sink.operator.topic for sink in plan.sinks)}
        for node in plan.of(Source):
            with blaming(self.engine, node):
                self.intakes[node.operator.topic] = Intake.of(plan.pipeline, node.operator, places, self.marks, prefix, str(node))
        self._sources = plan.sources
        self._paths = Paths(plan)
        self._hosted: dict[Node[Operator], str] = {}
        self._closed: dict[Node[Operator], Block] = {}

    @staticmethod
    def _is_view(node: Node[Operator]) -> bool:
        return node.is_a(Source, Process, Side)

    def _view(self, node: Node[Operator], block: Block) -> Block:
        named = self.new(f"{node.operator.kind}_{node.id}")
        self.statements.append(f"{comment(*block.said)}CREATE TEMPORARY VIEW {name(named)} AS\n{block.select()};")
        return block.view(named)

    def new(self, wanted: str) -> str:
        """Return a name for a view."""
        named = self.prefix + fresh(wanted, self._taken)
        self._taken.add(named.removeprefix(self.prefix))
        return named

    def _table(self, node: Node[Operator]) -> Block:
        """Return a SELECT from a table or view, with nothing computed."""
        block = self.block(node)
        return block if block.table and block.takes(block.items) else self._view(node, block)

    # the operators

    @singledispatchmethod
    def _make(self, operator: Operator, node: Node[Operator]) -> Block:  # noqa: ARG002
        raise PlanError(f"{type(operator).__name__} is not written in Flink SQL yet")

    @_make.register
    def _(self, source: Source, node: Node[Source]) -> Block:
        block = self.intakes[source.topic].block
        order = {self.marks.order: "''"} if self._paths.entered else {}
        return replace(block, hidden={**block.hidden, **self._way(node), **order})

    @_make.register
    def _(self, derive: Derive, node: Node[Derive]) -> Block:
        block, row, columns = self._computing(node.input, derive.columns)
        return _with(block, {**block.items, **{column: item(expression, row) for column, expression in columns}})

    @_make.register
    def _(self, select: Select, node: Node[Select]) -> Block:
        block, row, columns = self._computing(node.input, select.columns)
        return _with(block, {column: item(expression, row) for column, expression in columns})

    @_make.register
    def _(self, where: Where, node: Node[Where]) -> Block:
        block = self.over(node.input, columns_of(where.predicate))
        return block.and_where(loose(where.predicate, block.row))

    @_make.register
    def _(self, unnest: Unnest, node: Node[Unnest]) -> Block:
        block = self.over(node.input, [unnest.column])
        kind = node.input.schema[unnest.column].type
        given = sql(Column(unnest.column, kind), block.row)
        wanted = [one for one in (unnest.key, unnest.value) if one]
        # Of an ARRAY of ROWs Flink makes a column for each field: its places are unnested instead.
        by_place = kind.element.kind == "ROW" and unnest.key is None
        aliases: dict[str, str] = {}
        for one in [] if by_place else wanted:
            aliases[one] = fresh(one, block.known | set(aliases.values()))
        entry = fresh("entry", block.known | set(aliases.values()))
        hidden, at = block.hidden, fresh("at", {*block.known, *aliases.values(), entry})
        ordered = self._paths.entered and self.marks.order in hidden
        if ordered:
            hidden = {**hidden, self.marks.order: f"CONCAT({hidden[self.marks.order]}, LPAD(CAST({name(at)} AS STRING), 8, '0'))"}
        if ordered or by_place:
            aliases["@at"] = at
        unnested = f"(HR_PLACES(CARDINALITY({given})))" if by_place else f"({given}) WITH ORDINALITY" if ordered else f"({given})"
        relation = f"{block.relation}\nCROSS JOIN UNNEST{unnested} AS {name(entry)} ({', '.join(map(name, aliases.values()))})"
        kept = {column: held for column, held in block.items.items() if column != unnest.column}
        made = {one: Item(f"{given}[{name(at)}]", computed=True) if by_place else Item(name(aliases[one])) for one in wanted}
        known = block.known | {entry, *aliases.values()}
        return replace(block, relation=relation, table=None, items={**kept, **made}, hidden=hidden, known=known)

    @_make.register
    def _(self, union: Union, node: Node[Union]) -> Block:  # noqa: ARG002
        inputs = [one.node for one in node.inputs]
        blocks = [self.block(one) for one in inputs]
        shared = [mark for mark in blocks[0].hidden if all(mark in block.hidden for block in blocks)]
        texts = []
        for one, block in zip(inputs, blocks, strict=True):
            hidden = {mark: block.hidden[mark] for mark in shared}
            if self.marks.way in hidden:
                hidden[self.marks.way] = self._paths.turned(one, node, hidden[self.marks.way])
            columns = {column: block.row[column] for column in node.schema.names}
            texts.append(replace(block, items=columns, hidden=hidden).select())
        called = self.new("every")
        columns = {column: Item(name(column)) for column in node.schema.names}
        body = "\nUNION ALL\n".join(texts)
        said = tuple(one for block in blocks for one in block.said)
        hidden = {mark: name(mark) for mark in shared}
        return Block(_nested(body, called), columns, hidden, known=frozenset([*columns, *hidden]), said=said)

    @_make.register
    def _(self, process: Process, node: Node[Process]) -> Block:  # noqa: ARG002
        return self._output(node, "")

    @_make.register
    def _(self, side: Side, node: Node[Side]) -> Block:
        return self._output(node.process, side.name)

    def _output(self, node: Node[Process], output: str) -> Block:
        process, table, marks = node.operator, self.hosted(node), self.marks
        schema, timed = process.output(output), self._is_timed(node)
        kept = {self.key: "`key`"} if self._places.keyed else {}
        if timed:
            kept |= {marks.time: name(marks.time), marks.order: "`order`"}
        view = self.new(f"{process.name}_{output or 'rows'}")
        self._put(view, hosting.given(table, schema, hosting.number_of(process, output), kept), timed=timed)
        hidden = {column: name(column) for column in kept}
        columns = {column: Item(name(column)) for column in schema.names}
        return Block(name(view), columns, {**hidden, **self._way(node)}, view, frozenset([*columns, *hidden]))

    def _put(self, view: str, body: str, said: str = "", *, timed: bool = False) -> None:
        """Make a view; if `timed`, of rows that are in the time that its column says, although Flink does not know it."""
        self.statements.append(f"{said}CREATE TEMPORARY VIEW {name(view)} AS\n{body};")
        self.statements += [Once(view, self.marks.time, self.marks.now)] if timed else []

    def _way(self, maker: Node[Operator]) -> dict[str, str]:
        return {self.marks.way: text(self._paths.first(maker))} if self._paths.parted else {}

    def _is_timed(self, process: Node[Process]) -> bool:
        return self._paths.is_taken_in_time(process) or self._paths.drops_of_many(process)

    def hosted(self, node: Node[Process]) -> str:
        """Return the view of all that a process gives: `output`, `key` and `json`; if rows of it are taken in time, `time` and `order`."""
        if node not in self._hosted:
            with blaming(self.engine, node):
                self._hosted[node] = self._host(node)
        return self._hosted[node]

    def _host(self, node: Node[Process]) -> str:
        self._paths.check_process(node)
        windowed = node.input.traits.windowed
        block = self._in_windows(node.input) if windowed else self.block(node.input)
        broadcast = None if node.broadcast is None else self._told(node.broadcast)
        rows = hosting.rows_of(node.operator, block, self.marks, self._sources)
        others, aside, derived_inputs = self._inputs(node)
        timed = [one for one, derived in ((block, windowed), (broadcast, self._is_told_derived(node))) if derived and one is not None]
        timed += derived_inputs
        times = [self.new(f"process_{node.name}_times") for _ in timed]
        topics = node.traits.topics if self._places.bounded else node.traits.holding
        told = hosting.told(node, broadcast, self.marks, self.intakes, self._sources, topics, times)
        code = pack(node.operator)
        takes, is_told, view = (self.new(f"process_{node.name}{part}") for part in ("_takes", "_is_told", ""))
        self._put(takes, "\nUNION ALL\n".join([rows, *others]), comment(*block.said, str(node)))
        if aside:
            unheld = self.new(f"process_{node.name}_aside")
            self._put(unheld, "\nUNION ALL\n".join(aside), comment(f"the inputs of #{node.id} that hold no watermark back"))
        for times_of, one in zip(times, timed, strict=True):
            self._put(times_of, f"SELECT {name(self.marks.time)}\nFROM {one.relation}")
        self._put(is_told, told)
        sources, time = tuple(one.topic for one in self._sources), self.marks.time if self._is_timed(node) else ""
        self.statements.append(
            Hosted(
                view,
                takes,
                is_told,
                code,
                sources,
                live=not self._places.bounded,
                broadcast=broadcast is not None,
                time=time,
                aside=unheld if aside else "",
                numbered=bool(node.operator.inputs),
            )
        )
        return view

    @staticmethod
    def _is_told_derived(node: Node[Process]) -> bool:
        return node.broadcast is not None and node.broadcast.traits.derived

    def _told(self, broadcast: Node[Operator]) -> Block:
        return self._in_windows(broadcast) if broadcast.traits.derived else self.block(broadcast)

    def _inputs(self, node: Node[Process]) -> tuple[list[str], list[str], list[Block]]:
        """Return the SELECTs of the other inputs of a process: of those that it waits for, and of the others; and the views of derived rows."""
        held: list[str] = []
        aside: list[str] = []
        derived: list[Block] = []
        for given, one in node.others:
            waits = one.holds or self._places.bounded
            if not waits and one.late != "take" and not node.operator.arrival:
                what = f"input {one.name!r} does not hold, and its late records are not taken: Flink cannot count what is behind the watermark of the process"
                raise PlanError(what, fix="write late='take' or holds=True, or run it on the embedded engine")
            block = self._in_windows(given) if given.traits.derived else self.block(given)
            derived += [block] if given.traits.derived else []
            (held if waits else aside).append(hosting.rows_of_input(node.operator, one, block, self.marks, self._sources))
        return held, aside, derived

    def _in_windows(self, node: Node[Operator]) -> Block:
        """Return a view, and no more, of rows whose times windows have made: they are in those of their last ms."""
        if node not in self._closed:
            block = self._table(node)
            block = self._view(node, block) if block.where else block
            assert block.table is not None
            if node.traits.time == "window" and not self._paths.is_in_window_time(grouped_at(node)):
                self.statements.append(Once(block.table, self.marks.time, self.marks.now))
            self._closed[node] = block
        return self._closed[node]

    def dropped(self, process: Node[Process]) -> str | None:
        """Return the view of the records that a process has dropped, of which several rows came to it; None if one did of each."""
        if not self._paths.drops_of_many(process):
            return None
        table, time = self.hosted(process), name(self.marks.time)
        every, dropped = self.new(f"{process.operator.name}_judged"), self.new(f"{process.operator.name}_dropped")
        columns = ["`key` AS `topic`", "`order` AS `record`", "`json` = '1' AS `dropped`", time]
        self._put(every, f"SELECT {', '.join(columns)}\nFROM {name(table)}\nWHERE `output` = {DUPLICATES}")
        body = f"SELECT `topic`, `window_time` AS {time}\nFROM TABLE(TUMBLE(TABLE {name(every)}, DESCRIPTOR({time}), {MS}))\n"
        having = "HAVING MIN(CASE WHEN `dropped` THEN 1 ELSE 0 END) = 1"
        said = comment(f"the records of which {process} has dropped all rows")
        self._put(dropped, f"{body}GROUP BY `window_start`, `window_end`, `window_time`, `topic`, `record`\n{having}", said)
        return dropped

    @_make.register
    def _(self, aggregate: Aggregate, node: Node[Aggregate]) -> Block:
        check_window(node)
        self._paths.check_window(node)
        block = self._without_own(node.input)
        assert block.table is not None
        if self.marks.time not in block.hidden:
            raise PlanError("the rows have lost their event time")
        bounds = {one: Item(name(one), "window") for one in _BOUNDS}
        relation = window_function(without_zone(aggregate.window, node.traits.origins, self.engine), block.table, self.marks.time)
        if self.marks.watermark in block.hidden:
            block = block.and_where(f"`window_time` > {name(self.marks.watermark)}")
        time = "`window_time`" if self._paths.is_in_window_time(node) else None
        return self._grouped(aggregate, node, replace(block, relation=relation), bounds, time)

    def _without_own(self, node: Node[Operator]) -> Block:
        """Return a SELECT from a table or view, with other names for columns that are named like those that window functions add."""
        own = [one for one in (*_BOUNDS, "window_time") if one in node.schema]
        if not own:
            return self._table(node)
        block = self.block(node)
        taken = {*block.items, *block.hidden}
        other = {one: fresh(f"{one}_before", taken) for one in own if one in block.items}
        made = self._view(node, replace(block, items={other.get(column, column): held for column, held in block.items.items()}))
        return replace(made, items={column: made.items[other.get(column, column)] for column in block.items})

    @_make.register
    def _(self, regroup: Regroup, node: Node[Regroup]) -> Block:
        check_regroup(node)
        block = self._table(node.input)
        assert all(block.items[bound].held == "window" for bound in _BOUNDS)
        bounds = {one: block.items[one] for one in _BOUNDS}
        return self._grouped(regroup, node, block, bounds, block.hidden.get(self.marks.time) if self._paths.is_in_window_time(node) else None)

    @_make.register
    def _(self, top: TopN, node: Node[TopN]) -> Block:
        block = self._table(node.input)
        assert all(block.items[bound].held == "window" for bound in _BOUNDS)
        order = [one for column, falls in top.order for one in nulls_last(block.items[column].sql, falls=falls)]
        order += [block.items[column].sql for column in top.ties]
        group = [block.items[bound].sql for bound in _BOUNDS] + [block.items[key].sql for key in top.keys]
        rank = fresh("rank", block.known)
        ranked = block.select(f"ROW_NUMBER() OVER (PARTITION BY {', '.join(group)} ORDER BY {', '.join(order)}) AS {name(rank)}")
        inner = block.view(self.new(f"ranked_{node.id}"))
        closing = {} if node in self._regrouped else {one: zoned(inner.items[one]) for one in _BOUNDS}
        keys = [name(key) for key in grouped_by(node)]
        return replace(
            inner,
            relation=_nested(ranked, inner.table or ""),
            table=None,
            items={**inner.items, **closing, "rank": Item(name(rank), computed=True)},
            hidden={
                **({self.key: key_text(keys)} if self._places.keyed and node not in self._regrouped else {}),
                **self._closing(
                    node,
                    inner.items["window_end"],
                    [hosting.plain(node.schema, key, inner.items[key]) for key in top.keys] + [name(rank)],
                    inner.hidden.get(self.marks.time) if self._paths.is_in_window_time(node) else None,
                ),
            },
            known=inner.known | {rank},
            where=(f"{name(rank)} <= {top.count}",),
            said=block.said,
        )

    def _grouped(self, operator: Aggregate | Regroup, node: Node[Operator], block: Block, bounds: Mapping[str, Item], time: str | None) -> Block:
        """Return the SELECT of groups of a window; `time` is the column of Flink's own that has their time, if Flink must know it."""
        keys = {key: block.items[key] for key in operator.keys if key not in _REVISION}
        calls = {hidden: item(call, block.row) for hidden, call in operator.calls}
        row = {**_REVISION, **keys, **calls}
        made = {column: replace(item(expression, row), computed=True) for column, expression in operator.columns}
        closing = bounds if node in self._regrouped else {one: zoned(held) for one, held in bounds.items()}
        group = tuple(dict.fromkeys([*(held.sql for held in (*keys.values(), *bounds.values())), *([time] if time else [])]))
        keyed = self._places.keyed and node not in self._regrouped
        hidden = {self.key: key_text(row[key].sql for key in operator.keys)} if keyed else {}
        hidden |= self._closing(node, bounds["window_end"], [hosting.plain(node.schema, key, row[key]) for key in operator.keys], time)
        return replace(block, items={**keys, **made, **closing}, hidden=hidden, table=None, constants=_REVISION, group=group)

    def _closing(self, node: Node[Operator], end: Item, keys: list[str], time: str | None) -> dict[str, str]:
        """Return the hidden columns of rows of windows that a stage takes: the last ms of their windows, and what orders those of one end."""
        if not self._paths.is_taken_in_time(node) and time is None:
            return {}
        order = hosting.json_array(keys) if keys else "'[]'"
        return {self.marks.time: time or f"{zoned(end).sql} - {MS}", self.marks.order: order, **self._way(node)}

    def last_end(self, aggregate: Aggregate, given: Traits) -> str:
        """Return the last millisecond of the last window that holds a row, in ms since the epoch."""
        time, window = epoch_ms(name(self.marks.time)), without_zone(aggregate.window, given.origins, self.engine)
        step = window.step_ms if window.kind == "sliding" else window.size_ms
        # Flink divides towards 0: times before 1970 are moved behind it by whole steps.
        moved = max(-(min(source.range_ms[0] for source in self._sources) - window.offset_ms) // step + 1, 0) * step
        ahead = moved + (window.size_ms if window.kind == "sliding" else 0) - window.offset_ms
        begins = f"{f'({time} {plus(ahead)})' if ahead else time} / {step} * {step}"
        last = (0 if window.kind == "sliding" else window.size_ms) - 1 - moved + window.offset_ms
        return f"{begins} {plus(last)}"

    def is_taken(self, aggregate: Aggregate, given: Traits) -> str:
        """Return whether any window of an aggregate takes a row that is `given` so; what processes give is never late."""
        if given.derived:
            return "TRUE"
        return f"{self.last_end(aggregate, given)} > {epoch_ms(name(self.marks.watermark))}"

    def _computing(self, node: Node[Operator], columns: Named) -> tuple[Block, Row, Named]:
        """Return the SELECT that columns can be added to, and the columns, each hash that a UUID is cut from made once below."""
        block = self.over(node, {one for _, expression in columns for one in columns_of(expression)})
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


def _nested(body: str, named: str) -> str:
    return f"{listed([body], '({})')} AS {name(named)}"


def _uuids(expression: Expression) -> list[Call]:
    return [node for node in walk(expression) if isinstance(node, Call) and node.function == "UUID_V5"]


def _swap(expression: Expression, replacing: dict[Call, Column]) -> Expression:
    swap: Callable[[Expression], Expression] = lambda node: replacing[node] if node in replacing else rebuild(node, swap)  # noqa: E731
    return swap(expression)
