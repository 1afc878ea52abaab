"""From operators to SELECTs and the views between them.

Hidden columns go along with every row. Before a window they say of which record it comes: `_source`, `_partition` and
`_offset`; when that was: `_time_ms`, and the watermark of its partition before it, `_watermark_ms`; `_shown_ms` is the
greatest event time up to it, and `_entry` which of the record's rows it is. Behind a window they are its bounds in ms,
`_start_ms` and `_end_ms`, and the keys, `_key`, by which rows are put in order. In a stream `_time` and behind a window
`_window` go along too, by which Spark knows of the watermark.

Rows that a process gives have those of a record, of source 0, and are never late (`hosting.GIVEN`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatchmethod

from headrace.engines.selects import Selects
from headrace.engines.spark.block import Block
from headrace.engines.spark.expression import loose, sql
from headrace.engines.spark.hidden import BOUNDS, CLOSED, GIVEN, HIDDEN, INPUT_ORDER, LIVE_CLOSED, RECORD, TIME, WINDOW
from headrace.engines.spark.process_rows import SLOTS, keyed_rows, keys_of, numbered_rows, place_of, slotted_rows
from headrace.engines.spark.rows import plain_json, read_json, timed_row
from headrace.engines.spark.source import Source as Reading
from headrace.engines.spark.taking import floor_of, slice_order, taken_by
from headrace.engines.spark.words import name, text
from headrace.engines.spark.zones import Zoned, zoned
from headrace.engines.zones import without_zone
from headrace.errors import PlanError
from headrace.kernels.keyed.schedule import BROADCAST, RECORDS
from headrace.plan.expression import Call, Column, Expression, columns_of
from headrace.plan.graph import Node
from headrace.plan.operators import Aggregate, Derive, Named, Operator, Process, Regroup, Select, Side, Source, TopN, Union, Unnest, Where
from headrace.plan.pipeline import FAILED, Plan

__all__ = ["Views", "hosted", "rows_of", "rows_of_input", "told_to"]


def rows_of(number: int) -> str:
    """Return the name of the view of the rows that reached a window or a process, whether it took them or not."""
    return f"rows_{number}"


def rows_of_input(number: int, place: int) -> str:
    """Return the same of another input of a process, by its place among them."""
    return f"rows_{number}_{place}"


def hosted(number: int) -> str:
    """Return the name of the view of all that a process gives."""
    return f"process_{number}"


def told_to(number: int) -> str:
    """Return the name of the view of what a process is told by its broadcast."""
    return f"broadcast_{number}"


class Views(Selects[Block]):
    """The views of a plan, made as they are found to be needed: by name, what each is. If `live`, Spark's own windows close them."""

    engine = "Spark"

    def __init__(self, plan: Plan, *, live: bool = False) -> None:
        super().__init__(plan)
        self.statements: dict[str, str] = {}
        self._live = live
        self._hosted: set[Node[Operator]] = set()
        # Of one time, rows of windows come before those of processes, which are emitted when the watermark is past it.
        self._ranks = {node: rank for rank, node in enumerate(sorted(plan.stages, key=lambda node: node.traits.passed), 1)}
        for node in plan.nodes:
            for column in node.schema.names:
                if column in HIDDEN:
                    raise PlanError(f"column {column!r} has the name of one that a Spark script adds", fix="give it another name")

    def _view(self, node: Node[Operator], block: Block) -> Block:
        return self._put(f"{node.operator.kind}_{node.id}", block, block.select())

    def _put(self, named: str, block: Block, query: str) -> Block:
        """Make a view of `query`, and return the SELECT over it with the columns of `block`."""
        comment = "".join(f"-- {' '.join(line.split())}\n" for line in block.said)
        named = f"{named}_columns" if named in self.statements else named
        self.statements[named] = f"{comment}{query}"
        return block.view(named)

    # the operators

    @singledispatchmethod
    def _make(self, operator: Operator, node: Node[Operator]) -> Block:  # noqa: ARG002
        raise PlanError(f"{type(operator).__name__} is not written in Spark SQL yet")

    @_make.register
    def _(self, source: Source, node: Node[Source]) -> Block:
        reading = Reading(source, node.id)
        self.statements[reading.view] = f"-- {node}\n{reading.live_query if self._live else reading.query}"
        time = ("_time_ms", "_time") if self._live else TIME[:3]
        arrived = {"_arrived_ms": "arrived_ms"} if self._plan.processes else {}
        hidden = {"_source": str(node.id), **{column: name(column) for column in (*RECORD[1:], *time)}, **arrived}
        hidden["_entry"] = "CAST(ARRAY() AS ARRAY<INT>)"
        return Block(reading.view, reading.items, hidden, where=("malformed IS NULL AND future IS NULL",))

    @_make.register
    def _(self, derive: Derive, node: Node[Derive]) -> Block:
        block = self.over(node.input, {one for _, expression in derive.columns for one in columns_of(expression)})
        return _with(block, {**block.items, **_made(derive.columns, block)}, derive.columns)

    @_make.register
    def _(self, select: Select, node: Node[Select]) -> Block:
        block = self.over(node.input, {one for _, expression in select.columns for one in columns_of(expression)})
        return _with(block, _made(select.columns, block), select.columns)

    @_make.register
    def _(self, where: Where, node: Node[Where]) -> Block:
        block = self.over(node.input, columns_of(where.predicate))
        return replace(block, where=(*block.where, loose(where.predicate, block.items)))

    @_make.register
    def _(self, unnest: Unnest, node: Node[Unnest]) -> Block:
        block = self.over(node.input, [unnest.column])
        names = ", ".join(name(one) for one in ("_at", unnest.key, unnest.value) if one)
        kept = {column: held for column, held in block.items.items() if column != unnest.column}
        left = replace(block, items=kept, computed=block.computed - {unnest.column})
        exploded = f"POSEXPLODE({block.items[unnest.column]}) AS ({names})"
        over = self._put(f"unnest_{node.id}", left.saying(str(node)), left.select(exploded))
        made = {one: name(one) for one in (unnest.key, unnest.value) if one}
        placed = {"_key": "STRUCT(`_key`, `_at`)"} if "_key" in over.hidden else {"_entry": "ARRAY_APPEND(`_entry`, `_at`)"}
        return replace(over, items={**over.items, **made}, hidden={**over.hidden, **placed})

    @_make.register
    def _(self, union: Union, node: Node[Union]) -> Block:  # noqa: ARG002
        blocks = [self._joined(one.node) if node.traits.derived else self.block(one.node) for one in node.inputs]
        ways = _longest_first([one.node for one in node.inputs])
        texts = []
        for place, way in enumerate(ways):
            block = blocks[way]
            turned = replace(block, hidden={**block.hidden, "_entry": f"ARRAY_PREPEND({block.hidden['_entry']}, {place})"})
            columns = replace(turned, items={column: turned.items[column] for column in node.schema.names})
            texts.append(columns.select())
        said = tuple(dict.fromkeys(one for block in blocks for one in block.said))
        return self._put(f"union_{node.id}", replace(blocks[0], said=said).saying(str(node)), "\nUNION ALL\n".join(texts))

    def _joined(self, node: Node[Operator]) -> Block:
        """Return the SELECT of derived rows that are joined with others: a rank stands for the partition of those of each window and process."""
        if self._live and node.traits.windowed:
            raise PlanError("rows of windows joined with others: Spark's streams cannot order them", fix="run it as a batch, or embedded")
        block = self._timed(node) if node.traits.time == "window" else self.block(node)
        maker, *others = node.producers
        return block if others else replace(block, hidden={**block.hidden, "_partition": str(self._ranks[maker])})

    def _timed(self, node: Node[Operator]) -> Block:
        """Return the SELECT of rows that a stage takes: those of windows are of the last ms of their windows."""
        block = self._table(node)
        if node.traits.time != "window":
            return block
        block = self._put(f"closed_{node.id}", block, block.select()) if block.said else block
        return replace(block, hidden=LIVE_CLOSED if self._live else CLOSED)

    @_make.register
    def _(self, aggregate: Aggregate, node: Node[Aggregate]) -> Block:
        if aggregate.lateness_ms:
            raise PlanError(
                f"allowed lateness of {aggregate.lateness_ms} ms: Spark gives a window once, when it is over",
                fix="leave allowed_lateness out on Spark, or run it embedded",
            )
        if self._live:
            return self._live_window(aggregate, node)
        if (local := zoned(aggregate.window, node.traits.origins)) is not None:
            return self._zoned_window(aggregate, node, local)
        window = without_zone(aggregate.window, node.traits.origins, "Spark")
        block = self._timed(node.input)
        taken, ends = taken_by(window)
        rows = self._put(rows_of(node.id), block.saying(f"#{node.id} the rows that reach the window"), block.select(ends, taken))
        if window.kind == "tumbling":
            relation, end = rows.relation, "`_ends`"
        else:
            relation, end = f"(SELECT *, EXPLODE(`_ends`) AS `_end_ms` FROM {rows.relation}) AS every", "`_end_ms`"
        start = floor_of(f"{end} - 1", window.size_ms, window) if window.kind == "cumulating" else f"{end} - {window.size_ms}"
        order = INPUT_ORDER.format("" if window.one_slice else slice_order(window))
        over = replace(rows, relation=relation, where=("`_taken`",), said=())
        return self._grouped(aggregate, node, over, {"_start_ms": start, "_end_ms": end}, [end], order)

    def _zoned_window(self, aggregate: Aggregate, node: Node[Aggregate], local: Zoned) -> Block:
        block = self._timed(node.input)
        rows = self._put(rows_of(node.id), block.saying(f"#{node.id} the rows that reach the window"), block.select(*local.columns()))
        relation, end = rows.relation, "`_ends`"
        if local.window.kind != "tumbling":
            relation, end = f"(SELECT *, EXPLODE(`_ends`) AS `_bound_ms` FROM {rows.relation}) AS every", "`_bound_ms`"
        over = replace(rows, relation=relation, where=("`_taken`",), said=())
        return self._grouped(aggregate, node, over, local.bounds(end), [end], INPUT_ORDER.format(local.slices))

    def _live_window(self, aggregate: Aggregate, node: Node[Aggregate]) -> Block:
        window = without_zone(aggregate.window, node.traits.origins, "Spark")
        if window.kind == "cumulating":
            raise PlanError("Spark's streams have no cumulating windows", fix="run it as a batch, or take sliding windows")
        if aggregate.late_topic:
            raise PlanError(
                f"late_to({aggregate.late_topic!r}): Spark's streams drop late rows unseen", fix="run it as a batch, or leave late_to out"
            )
        _refuse_distinct(aggregate)
        block = self._timed(node.input)
        if node.input.traits.time == "window":
            block = self._put(f"timed_{node.input.id}", block, block.select())
        block = self._view(node.input, block) if block.said else block
        begins = window.offset_ms % window.step_ms
        lengths = (window.size_ms, window.step_ms, begins) if begins else dict.fromkeys((window.size_ms, window.step_ms))
        span = f"WINDOW(`_time`, {', '.join(text(f'{length} milliseconds') for length in lengths)})"
        bounds = {"_start_ms": f"UNIX_MILLIS({span}.start)", "_end_ms": f"UNIX_MILLIS({span}.end)", "_window": span}
        start = floor_of("`_time_ms`", window.slice_ms, window)
        order = INPUT_ORDER.format("" if window.one_slice else f"{start} AS slice, ")
        return self._grouped(aggregate, node, block, bounds, [span], order)

    @_make.register
    def _(self, regroup: Regroup, node: Node[Regroup]) -> Block:
        block = self.over(node.input, {*regroup.keys, *(one for _, call in regroup.calls for one in columns_of(call))})
        bounds = {one: block.hidden[one] for one in (*WINDOW[:2], "_window") if one in block.hidden}
        return self._grouped(regroup, node, block, bounds, list(bounds.values()), block.hidden["_key"])

    @_make.register
    def _(self, top: TopN, node: Node[TopN]) -> Block:
        block = self._table(node.input)
        keys = [block.items[key] for key in top.keys]
        order = [f"{block.items[column]} {'DESC' if falls else 'ASC'} NULLS LAST" for column, falls in top.order]
        order += [block.items[column] for column in top.ties]
        over = f"PARTITION BY {', '.join([block.hidden['_end_ms'], *keys])} ORDER BY {', '.join(order)}"
        ranked = self._put(f"ranked_{node.id}", block, block.select(f"CAST(ROW_NUMBER() OVER ({over}) AS BIGINT) AS `_rank`"))
        group = f"STRUCT({', '.join([*(name(key) for key in top.keys), '`_rank`'])})"
        hidden = {**ranked.hidden, "_key": group}
        return replace(ranked, items={**ranked.items, "rank": "`_rank`"}, hidden=hidden, where=(f"`_rank` <= {top.count}",))

    # processes

    @_make.register
    def _(self, process: Process, node: Node[Process]) -> Block:  # noqa: ARG002
        return self.given(node, "")

    @_make.register
    def _(self, side: Side, node: Node[Side]) -> Block:
        return self.given(node.process, side.name)

    def given(self, node: Node[Process], output: str | None) -> Block:
        """Return the SELECT of what a process gives to an output; None is that of its failures."""
        process, number = node.operator, node.id
        outputs = [*process.declared.outputs]
        place, schema = (len(outputs), FAILED) if output is None else (outputs.index(output), process.output(output))
        self.host(node)
        hidden = {column: name(column) for column in (*GIVEN, *(["_time"] if self._live else []))}
        taken = Block(name(hosted(number)), {}, hidden, where=(f"`_output` = {place}",))
        named = f"failed_{number}" if output is None else f"given_{number}_{place}"
        over = self._put(named, taken, taken.select(f"{read_json('`_row`', schema)} AS row"))
        return replace(over, items=timed_row("row", schema))

    def host(self, node: Node[Process]) -> None:
        """Make the view of what a process gives, of which Python makes what it becomes; that of the rows that reach it before."""
        if node in self._hosted:
            return
        self._hosted.add(node)
        if self._live:
            self._refuse_live(node)
        rows = self._reaching(node)
        if node.broadcast is not None:
            self._tell(node, node.broadcast)
        if self._live:
            query = self._dealt(node, rows)
        elif node.others:
            query = self._of_inputs(node, rows)
        else:
            query = keyed_rows(node, rows)
        self.statements[hosted(node.id)] = f"-- {node}\n{query}"

    def _of_inputs(self, node: Node[Process], rows: Block) -> str:
        """Return the query of what a process takes of all its inputs, with the number of the input."""
        process = node.operator
        texts = [numbered_rows(rows, keys_of(process), process.keys, process.record_schema, RECORDS)]
        for place, (given, one) in enumerate(node.others):
            block = self._timed(given)
            time, watermark = block.hidden["_time_ms"], block.hidden["_watermark_ms"]
            always = process.arrival or one.late == "take"
            taken = "TRUE AS `_taken`" if always else f"{time} >= {watermark} AS `_taken`"
            said = block.saying(f"#{node.id} the rows that reach the input {one.name}")
            reached = self._put(rows_of_input(node.id, place), said, block.select(taken))
            if one.late == "take" and not process.arrival:
                reached = replace(reached, hidden={**reached.hidden, "_time_ms": "GREATEST(`_time_ms`, `_watermark_ms`)"})
            reached = replace(reached, where=("`_taken`",))
            texts.append(numbered_rows(reached, keys_of(process), one.keys, one.schema, RECORDS + 1 + place))
        return "\nUNION ALL\n".join(texts)

    def _reaching(self, node: Node[Process]) -> Block:
        """Return the SELECT of the rows that a process takes."""
        block = self._timed(node.input)
        if self._live:
            return block
        taken = "TRUE AS `_taken`" if node.operator.arrival else f"{block.hidden['_time_ms']} >= {block.hidden['_watermark_ms']} AS `_taken`"
        rows = self._put(rows_of(node.id), block.saying(f"#{node.id} the rows that reach the process"), block.select(taken))
        return replace(rows, where=("`_taken`",))

    def _tell(self, node: Node[Process], broadcast: Node[Operator]) -> None:
        """Make the view of what a process is told by its broadcast."""
        told = self._timed(broadcast)
        row = f"{plain_json(told.items, broadcast.schema)} AS `_row`"
        if self._live:
            hidden = {column: told.hidden[column] for column in (*RECORD, "_time_ms", "_entry", "_arrived_ms")}
        else:
            hidden = {**told.hidden, "_time_ms": f"GREATEST({told.hidden['_time_ms']}, {told.hidden['_watermark_ms']})"}
        self._put(told_to(node.id), told, replace(told, items={}, hidden=hidden).select(row))

    def _dealt(self, node: Node[Process], rows: Block) -> str:
        """Return the query of what a live process takes and is told, dealt among the slots of its keys."""
        process = node.operator
        number = RECORDS if node.others else None
        query = slotted_rows(rows, keys_of(process), process.keys, process.record_schema, number)
        for place, (given, one) in enumerate(node.others):
            block = self._table(given)
            if one.late == "take" and not process.arrival:  # it has no time by which Spark could find it late
                block = replace(block, hidden={**block.hidden, "_time": "CAST(NULL AS TIMESTAMP)"})
            query += f"\nUNION ALL\n{slotted_rows(block, keys_of(process), one.keys, one.schema, RECORDS + 1 + place)}"
        if node.broadcast is None:
            return query
        told = Block(told_to(node.id), {}, {column: name(column) for column in (*RECORD, "_entry", "_arrived_ms")})
        every = ["CAST(NULL AS TIMESTAMP) AS `_time`", "`_time_ms`", f"EXPLODE(SEQUENCE(0, {SLOTS - 1})) AS `_slot`", "TRUE AS `_told`"]
        numbered = [f"{BROADCAST} AS `_input`"] if node.others else []
        return f"{query}\nUNION ALL\n{told.selecting([*every, *numbered, place_of(told), '`_row`'])}"

    @staticmethod
    def _refuse_live(node: Node[Process]) -> None:
        if node.broadcast is not None and node.broadcast.traits.derived:
            raise PlanError("a broadcast from a window or a process: Spark's streams have none", fix="write it to a topic first, or run it embedded")
        for given, one in node.others:
            if given.traits.derived:
                what = f"input {one.name!r} is of rows of a window or a process: Spark's streams have none"
                raise PlanError(what, fix="write them to a topic first, run it as a batch, or run it embedded")
            if one.late == "side":
                what = f"late='side' of input {one.name!r}: Spark's streams drop late rows unseen"
                raise PlanError(what, fix="run it as a batch, write late='take', or run it embedded")
            if one.late == "drop" and not one.holds and not node.operator.arrival:
                what = f"input {one.name!r} does not hold, and its late records are not taken: Spark's streams judge them by no watermark"
                raise PlanError(what, fix="write late='take' or holds=True, or run it embedded")
        before = [one.operator for one in node.upstream()]
        if any(isinstance(one, TopN) for one in before):
            raise PlanError("a process of the first rows of windows: Spark's streams cannot rank", fix="run it as a batch, or embedded")
        for regroup in (one for one in before if isinstance(one, Regroup)):
            _refuse_distinct(regroup)
        if node.operator.declared.clock_timers:
            raise PlanError("on_clock: a stream of Spark has timers of event time or of the clock, not both", fix="run it embedded")

    def _table(self, node: Node[Operator]) -> Block:
        block = self.block(node)
        return block if not block.computed else self._view(node, block)

    def _grouped(
        self, operator: Aggregate | Regroup, node: Node[Operator], block: Block, bounds: dict[str, str], group: list[str], order: str
    ) -> Block:
        """Return the SELECT over a view of the groups, in which each call is a column."""
        named = {hidden: _own_name(hidden, operator.columns) for hidden, _ in operator.calls}
        keys = {key: block.items[key] for key in operator.keys if key not in BOUNDS}
        calls = [f"{sql(call, block.items, order)} AS {name(named[hidden])}" for hidden, call in operator.calls]
        columns = [f"{held} AS {name(key)}" if held != name(key) else held for key, held in keys.items()]
        edges = [f"{held} AS {name(edge)}" if held != name(edge) else held for edge, held in bounds.items()]
        query = f"{block.selecting([*edges, *columns, *calls])}\nGROUP BY {', '.join(dict.fromkeys([*group, *keys.values()]))}"
        groups = self._put(f"{operator.kind}_{node.id}", block.saying(str(node)), query)
        row = {**BOUNDS, **{key: name(key) for key in keys}, **{hidden: name(one) for hidden, one in named.items()}}
        items = {key: row[key] for key in operator.keys}
        items.update({column: loose(expression, row) for column, expression in operator.columns})
        items.update({column: held for column, held in BOUNDS.items() if column not in items})
        key = f"STRUCT({', '.join(row[one] for one in operator.keys)})" if operator.keys else "0"
        computed = frozenset(column for column, held in items.items() if held != name(column))
        return Block(groups.relation, items, {**{edge: name(edge) for edge in bounds}, "_key": key}, computed)


def _refuse_distinct(operator: Aggregate | Regroup) -> None:
    if any(isinstance(call, Call) and call.function == "COUNT DISTINCT" for _, call in operator.calls):
        raise PlanError("COUNT(DISTINCT …): Spark's streams cannot count so", fix="run it as a batch")


def _own_name(hidden: str, columns: Named) -> str:
    """Return the name of the column that is nothing but the call, else one of its own."""
    return next((column for column, expression in columns if expression == Column(hidden, expression.type)), f"_{hidden.removeprefix('@')}")


def _made(columns: Named, block: Block) -> dict[str, str]:
    return {column: loose(expression, block.items) for column, expression in columns}


def _with(block: Block, items: dict[str, str], columns: Named) -> Block:
    made = {column for column, expression in columns if not _passed(expression, block)}
    computed = frozenset(made | (block.computed & set(items)) - {column for column, _ in columns})
    return replace(block, items=items, computed=computed)


def _passed(expression: Expression, block: Block) -> bool:
    """Return whether the column is one of the relation's, handed on."""
    return isinstance(expression, Column) and expression.name not in block.computed


def _longest_first(inputs: list[Node[Operator]]) -> list[int]:
    """Return the places of a union's inputs: of one record, rows that have gone a longer way come first."""
    before = [set(one.upstream()) for one in inputs]

    def stands_before(way: int) -> bool:
        return any(inputs[way] in before[other] for other in range(len(inputs)) if other != way)

    return sorted(range(len(inputs)), key=lambda way: (stands_before(way), way))
