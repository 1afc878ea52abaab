"""Streams, and their methods, with which an author defines a pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from headrace._lazy import lazy_import
from headrace.errors import PlanError, near
from headrace.plan.aggregates import aggregates_of, frame_of, running_of
from headrace.plan.cache import cached
from headrace.plan.deduplicate import Deduplicate
from headrace.plan.expression import Column, Expression
from headrace.plan.graph import Node, node
from headrace.plan.inputs import InputStream, checked_inputs
from headrace.plan.operators import (
    METADATA,
    TEXTS,
    WINDOW_COLUMNS,
    Aggregate,
    Derive,
    Named,
    Operator,
    Over,
    Process,
    Regroup,
    Select,
    Side,
    Source,
    TopN,
    Union,
    Unnest,
    Where,
    metadata_fields,
)
from headrace.plan.over import RunningAggregates, plain_calls, waits
from headrace.plan.process import Declaration, declaration_of, spoken_name
from headrace.plan.schema import BOOLEAN, NULL, TIMESTAMP, Schema, Type, check_name
from headrace.plan.settings import current_settings
from headrace.plan.stream_checks import check_bounds, check_final, check_in_time, check_joined, check_order, keys_of
from headrace.plan.window import Window, milliseconds

if TYPE_CHECKING:
    from headrace.plan import sql
else:
    sql = lazy_import("headrace.plan.sql")

__all__ = ["ProcessedStream", "Stream", "WindowedStream", "stream"]

_BELIEVED = ("2000-01-01", "2100-01-01")


def stream(
    topic: str,
    *,
    schema: Mapping[str, str],
    event_time: str | None = None,
    watermark: timedelta = timedelta(0),
    event_time_range: tuple[str, str] = _BELIEVED,
    rest: str | None = None,
    metadata: Mapping[str, str] | None = None,
    decimal: str = ".",
) -> Stream:
    """Return the stream of a topic's records.

    Parameters
    ----------
    topic
        The topic's name. A run says which log or which files stand behind it.
    schema
        Column names and SQL types, such as `{"equip_id": "STRING NOT NULL"}`.
    event_time
        A SQL expression of type TIMESTAMP_LTZ(3) over the columns. Windows need one.
    watermark
        How long after the greatest event time seen a record may still come and be on time.
    event_time_range
        ISO dates; an event time before the first or not before the second makes a record malformed.
    rest
        A name for a column `MAP<STRING, STRING>` of all the fields that the schema does not declare.
    metadata
        Names for columns of what the topic knows of a record, such as `{"device": "key", "received": "arrival_time"}`: `key` (STRING),
        `headers` (MAP<STRING, STRING>), `partition` and `offset` (BIGINT), `arrival_time` (TIMESTAMP_LTZ(3)). What a topic does
        not know is NULL: files have no keys, headers and arrival times, embedded topics have no headers.
    decimal
        The decimal sign of numbers in CSV files, a point or a comma: that of the cells of DOUBLE and BIGINT columns. The texts that
        `rest` collects stay as they are, and so do JSON and Parquet.

    Raises
    ------
    PlanError
        If a type, the expression, a duration or the metadata is wrong.

    Examples
    --------
    >>> readings = hr.stream(
    ...     "readings",
    ...     schema={"tag": "STRING NOT NULL", "time": "BIGINT", "value": "DOUBLE"},
    ...     event_time="TO_TIMESTAMP_LTZ(time, 3)",
    ...     watermark=hr.seconds(5),
    ... )
    >>> hot = readings.where("value > 90").window(hr.tumbling(hr.minutes(1)), by=["tag"]).aggregate(n="COUNT(*)")
    """
    place = f"stream({topic!r})"
    declared = Schema.parse(schema, place)
    if rest is not None and check_name(rest, f"{place} rest") in declared:
        raise PlanError(f"rest {rest!r} is a declared column", where=place, fix="give it another name")
    known = _metadata({} if metadata is None else metadata, declared, rest, f"{place} metadata")
    time = None
    if event_time is not None:
        time = _bound(event_time, declared.with_fields(*metadata_fields(known)), f"{place} event_time")
        if time.type != TIMESTAMP:
            raise PlanError(f"event_time is a {time.type}", where=place, fix="write TO_TIMESTAMP_LTZ(column, 3) for ms since the epoch")
    delay = milliseconds(watermark, "the watermark's delay", place)
    if decimal not in (".", ","):
        raise PlanError(f"a decimal sign is not {decimal!r}", where=f"{place} decimal", fix='write "." or ","')
    return Stream(node(Source(topic, declared, time, delay, _range_ms(event_time_range, place), rest, metadata=known, decimal=decimal)), place)


def _metadata(metadata: Mapping[str, str], declared: Schema, rest: str | None, where: str) -> tuple[tuple[str, str], ...]:
    """Return columns and what they hold of a record's metadata. Raises PlanError if one cannot be."""
    if not isinstance(metadata, Mapping):
        raise PlanError(f"{metadata!r} is not a table of columns", where=where, fix='write {"device": "key"}')
    for name, kind in metadata.items():
        if check_name(name, where) in declared or name == rest:
            other = "rest" if name == rest else "a column of the schema"
            raise PlanError(f"column {name!r} is {other} too", where=where, fix="give it another name")
        if kind not in METADATA:
            fix = near(kind, METADATA) if isinstance(kind, str) else f"name one of {', '.join(METADATA)}"
            raise PlanError(f"column {name!r} holds unknown metadata {kind!r}", where=where, fix=fix)
    return tuple(metadata.items())


def _range_ms(believed: tuple[str, str], place: str) -> tuple[int, int]:
    try:
        first, last = (time if time.tzinfo else time.replace(tzinfo=UTC) for time in map(datetime.fromisoformat, believed))
    except (ValueError, TypeError):
        raise PlanError(f"event_time_range {believed!r} cannot be read", where=place, fix='write ("2000-01-01", "2100-01-01")') from None
    if first >= last:
        raise PlanError(f"event_time_range {believed!r} is empty", where=place, fix="name the earlier date first")
    return int(first.timestamp() * 1000), int(last.timestamp() * 1000)


def _bound(text: str, schema: Schema, where: str, *, aggregates: bool = False) -> Expression:
    if not isinstance(text, str):
        raise PlanError(f"{text!r} is not a SQL text", where=where)
    settings = current_settings()
    return cached(
        lambda: sql.parse_expression(text, schema, settings, where=where, aggregates=aggregates), text, schema, settings, aggregates=aggregates
    )


class Stream:
    """Rows of one schema. Each method returns a new stream; none changes this one."""

    def __init__(self, given: Node[Operator], path: str) -> None:
        self.node, self._path = given, path
        self.spread_column: str | None = None

    @property
    def operator(self) -> Operator:
        """The operator that gives the rows."""
        return self.node.operator

    @property
    def schema(self) -> Schema:
        """The columns of the rows."""
        return self.node.schema

    def __repr__(self) -> str:
        return f"<Stream {self._path}: {self.schema}>"

    def _bind(self, text: str, step: str, *, aggregates: bool = False) -> Expression:
        return _bound(text, self.schema, f"{self._path}.{step}", aggregates=aggregates)

    def _value(self, text: str, step: str, *, aggregates: bool = False) -> Expression:
        """Return the bound expression of a column, whose values need a type."""
        bound = self._bind(text, step, aggregates=aggregates)
        if _untyped(bound.type):
            raise PlanError(f"{text!r} holds a NULL of no type", where=f"{self._path}.{step}", fix="write CAST(NULL AS DOUBLE), say")
        return bound

    def _field(self, name: str, step: str) -> None:
        if name not in self.schema:
            raise PlanError(f"unknown column {name!r}", where=f"{self._path}.{step}", fix=near(str(name), self.schema.names))

    def _then(self, step: str, operator: Operator, *others: Node[Operator]) -> Stream:
        return Stream(node(operator, self.node, *others), f"{self._path}.{step}")

    def derive(self, **columns: str) -> Stream:
        """Return the stream with columns added, or replaced where they have the name of one."""
        named = tuple((check_name(name, f"{self._path}.derive"), self._value(text, f"derive({name})")) for name, text in columns.items())
        return self._then("derive", Derive(named))

    def select(self, *names: str, **columns: str) -> Stream:
        """Return the stream with just the columns named, in that order, then those given as expressions."""
        for name in names:
            self._field(name, "select")
        kept: Named = tuple((name, Column(name, self.schema[name].type)) for name in names)
        named = tuple((check_name(name, f"{self._path}.select"), self._value(text, f"select({name})")) for name, text in columns.items())
        if not kept + named:
            raise PlanError("nothing is selected", where=f"{self._path}.select")
        for name, _ in kept + named:
            if (*names, *columns).count(name) > 1:
                raise PlanError(f"column {name!r} is selected twice", where=f"{self._path}.select", fix="give one another name")
        return self._then("select", Select(kept + named))

    def where(self, predicate: str) -> Stream:
        """Return the rows of which the predicate is true, neither false nor NULL."""
        bound = self._bind(predicate, "where")
        if bound.type != BOOLEAN:
            raise PlanError(f"{predicate!r} is a {bound.type}, not a BOOLEAN", where=f"{self._path}.where")
        return self._then("where", Where(bound, " ".join(predicate.split())))

    def spread(self, column: str) -> Stream:
        """Return the stream as an output in which the entries of a MAP of texts are fields beside the other columns.

        It is the counterpart of `rest=`: fields that no schema declares are written as they came. If an entry has the name of a column,
        the column is written. Only the JSON of outputs differs; any further step takes the MAP as a column. The embedded engine alone
        has it.
        """
        self._field(column, "spread")
        if self.schema[column].type != TEXTS:
            raise PlanError(f"{column!r} is a {self.schema[column].type}", where=f"{self._path}.spread", fix=f"only a {TEXTS} can be spread")
        spread = Stream(self.node, self._path)
        spread.spread_column = column
        return spread

    def unnest(self, column: str, *, value: str, key: str | None = None) -> Stream:
        """Return a row for each entry of a MAP (`key` and `value`) or element of an ARRAY (`value`), in place of `column`."""
        self._field(column, "unnest")
        kind = self.schema[column].type
        if kind.kind not in ("MAP", "ARRAY"):
            raise PlanError(f"{column!r} is a {kind}", where=f"{self._path}.unnest", fix="only a MAP or an ARRAY can be unnested")
        if (kind.kind == "MAP") != (key is not None):
            raise PlanError(f"{column!r} is a {kind}", where=f"{self._path}.unnest", fix="a MAP needs key= and value=, an ARRAY value= alone")
        for name in (value,) if key is None else (key, value):
            check_name(name, f"{self._path}.unnest")
            if name in self.schema.without(column) or key == value:
                raise PlanError(f"column {name!r} is there already", where=f"{self._path}.unnest", fix="give another name")
        return self._then("unnest", Unnest(column, key, value))

    def union(self, *others: Stream) -> Stream:
        """Return the rows of this stream and of others, which have the same columns and types in the same order."""
        mine = [(field.name, field.type) for field in self.schema.fields]
        for other in others:
            if not isinstance(other, Stream):
                raise PlanError(f"{other!r} is not a stream", where=f"{self._path}.union")
            if [(field.name, field.type) for field in other.schema.fields] != mine:
                raise PlanError(f"{other._path} has {other.schema}, not {self.schema}", where=f"{self._path}.union", fix="select the same columns")
        joined = [self.node, *(other.node for other in others)]
        check_joined(joined, f"{self._path}.union")
        return self._then("union", Union(len(joined)), *joined[1:])

    def window(
        self, window: Window, *, by: Sequence[str] = (), allowed_lateness: timedelta = timedelta(0), name: str | None = None
    ) -> WindowedStream:
        """Return the stream cut into windows and grouped by columns.

        A row of a window or a process has its own time: that of a window is the last ms before its end. So windows of an hour may be
        cut from the rows of windows of a minute. Such rows are never late.

        With `allowed_lateness`, a closed window is kept that much longer, and each late record within it has its group
        emitted again with `revision` one higher. `name` tells the window from others in the plan; by default its keys do.
        """
        if not isinstance(window, Window):
            raise PlanError(f"{window!r} is not a window", where=f"{self._path}.window", fix="write hr.tumbling(hr.minutes(1))")
        keys = keys_of(by, self, "window")
        self._timed("window")
        check_in_time(self.node, f"{self._path}.window")
        check_final(self.node, f"{self._path}.window")
        check_bounds(window, self.node.traits.origins, f"{self._path}.window")
        lateness_ms = milliseconds(allowed_lateness, "allowed_lateness", f"{self._path}.window")
        called = None if name is None else check_name(name, f"{self._path}.window name")
        return WindowedStream(self, Aggregate(window, keys, (), (), lateness_ms, name=called))

    def _timed(self, step: str) -> None:
        """Raise PlanError unless the rows have an event time."""
        for source in self.node.traits.origins:
            if source.event_time is None:
                raise PlanError(f"stream {source.topic!r} has no event time", where=f"{self._path}.{step}", fix="give it event_time=")

    def process(
        self,
        code: object,
        *,
        by: Sequence[str],
        order: str = "event_time",
        broadcast: Stream | None = None,
        inputs: Mapping[str, InputStream] | None = None,
        failed_to: str | None = None,
        name: str | None = None,
        limit: timedelta = timedelta(seconds=10),
    ) -> ProcessedStream:
        """Return what an author's process gives for the records of each key.

        Parameters
        ----------
        code
            The process: an object with `output`, `on_record` and what else it needs (`headrace.plan.process`).
        by
            The columns that a key is made of.
        order
            `event_time`: records wait until the watermark passes them and come in the order of their times, and those
            older than their partition's watermark are late. `arrival`: they come at once, in the order of the input.
        broadcast
            A stream of which every record is told to the process before any record of its time or later.
        inputs
            Other keyed inputs by name: `{"command": hr.input(commands, late="take", holds=False)}` calls `on_command(row, state)`.
            Of records of one time, those of the stream itself come first, then those of the inputs in the order in which they stand here.
        failed_to
            A topic for the records at which the process raises, its state as it was before. By default the run stops there.
        name
            What the process is called in errors and metrics; by default its class's name.
        limit
            How long it may take over one record or timer.

        Raises
        ------
        PlanError
            If the process declares something that cannot be, or the stream cannot be processed so.
        """
        place = f"{self._path}.process"
        keys = keys_of(by, self, "process")
        if not keys:
            raise PlanError("a process has no key", where=place, fix="name the columns in by=")
        self._timed("process")
        code = code() if isinstance(code, type) else code
        told = {"broadcast": broadcast.node} if isinstance(broadcast, Stream) else {}
        others = checked_inputs(inputs or {}, self, keys, told.get("broadcast"), arrival=order == "arrival", where=place)
        check_order([self.node, *told.values(), *(given for given, _ in others.values())], order, place)
        declared = declaration_of(code, keys, place, others)
        _check_broadcast(broadcast, self.node, declared, place)
        if failed_to is not None and (not isinstance(failed_to, str) or not failed_to):
            raise PlanError(f"{failed_to!r} is not a topic", where=f"{place} failed_to", fix="name a topic")
        limit_ms = milliseconds(limit, "the limit", place)
        if limit_ms == 0:
            raise PlanError("a limit of 0 leaves no time for anything", where=place, fix="give limit=hr.seconds(10), say")
        operator = Process(
            code,
            check_name(spoken_name(code) if name is None else name, f"{place} name"),
            declared,
            keys,
            self.schema,
            None if broadcast is None else broadcast.schema,
            arrival=order == "arrival",
            failed_topic=failed_to,
            limit_ms=limit_ms,
            pipeline=str(current_settings().get("@pipeline", "")).partition("/")[0],
            inputs=tuple(policy for _, policy in others.values()),
        )
        told |= {f"input.{name}": given for name, (given, _) in others.items()}
        return ProcessedStream(node(operator, self.node, **told), f"{self._path}.process({operator.name})")

    def deduplicate(self, by: Sequence[str], *, within: timedelta, name: str | None = None) -> Stream:
        """Return the records without those whose key came less than `within` of event time after one that was kept.

        Records come out in the order of event time, when the watermark has passed them; those older than their partition's
        watermark are late. What is dropped is `duplicate` in the ledger. It is a process; `name` tells it from another in the plan.
        """
        place = f"{self._path}.deduplicate"
        keys = keys_of(by, self, "deduplicate")
        if self.node.traits.derived:
            raise PlanError("only records can be duplicates, not rows of windows or processes", where=place, fix="deduplicate before")
        if milliseconds(within, "within", place) == 0:
            raise PlanError("within is 0", where=place, fix="say how long a key is remembered: hr.minutes(5)")
        code = Deduplicate(self.schema.without(*keys), within)
        process = self.process(code, by=keys, name=name).operator
        assert isinstance(process, Process)
        return Stream(node(replace(process, drops_duplicates=True), self.node), place).select(*self.schema.names)

    def over(self, by: Sequence[str], *, rows: int | None = None, time: timedelta | None = None, name: str | None = None, **columns: str) -> Stream:
        """Return each record with columns computed over the records of its key up to it, in event-time order.

        Records are emitted in event-time order, when the watermark has passed them; those older than their partition's watermark are late.
        Records of one time follow each other in the order of partition and offset.

        Parameters
        ----------
        by
            The columns that a key is made of.
        rows
            The frame of the aggregates: this number of rows of the key, of which the record itself is the last.
        time
            The frame of the aggregates: the rows of the key up to the record that are at most so much older, that age included. Without `rows`
            and `time`, all rows up to the record.
        name
            The name in errors, metrics and state; by default `over_` and the keys, and a number if there are several.
        columns
            Expressions with aggregate functions, such as `"value - AVG(value)"`, with `LAG(value)`, which reads the row before whatever the
            frame, or with `LEAD(value)`, for which a row waits until the next row of its key, or the end of the input.

        Raises
        ------
        PlanError
            If the frame, a column or an expression is wrong, or the stream has no event time.

        Examples
        --------
        >>> smoothed = readings.over(by=["tag"], rows=10, mean="AVG(value)", change="value - LAG(value)")
        """
        place = f"{self._path}.over"
        keys = keys_of(by, self, "over")
        if not keys:
            raise PlanError("over has no key", where=place, fix="name the columns in by=")
        self._timed("over")
        check_final(self.node, place)
        check_order([self.node], "event_time", place)
        frame = frame_of(rows, time, place)
        computed, calls = running_of(self, frame, columns)
        arguments, called, computed = plain_calls(calls, computed, {*self.schema.names, *columns})
        given = self._then("derive", Derive(arguments)) if arguments else self
        code = RunningAggregates(called, self.schema.without(*keys), frame)
        known_as = check_name(f"over_{'_'.join(keys)}" if name is None else name, f"{place} name")
        pipeline = str(current_settings().get("@pipeline", "")).partition("/")[0]
        declared = declaration_of(code, keys, place)
        operator = Over(
            code,
            known_as,
            declared,
            keys,
            given.schema,
            pipeline=pipeline,
            named=name is not None,
            calls=tuple(called),
            frame=str(frame),
            waits=waits(called),
        )
        kept: Named = tuple((one, Column(one, self.schema[one].type)) for one in self.schema.names)
        return Stream(node(Select(kept + computed), node(operator, given.node)), f"{place}({known_as})")

    def top_n(self, count: int, *, order: str | Sequence[str], by: Sequence[str] = ()) -> Stream:
        """Return the first rows of each window, and of each group in it, with their `rank` from 1.

        Parameters
        ----------
        count
            How many.
        order
            Columns such as `"mean DESC"`; NULLs come last, and rows alike in all of them in the order of the keys.
        by
            The columns of a group; by default each window is one.
        """
        place = f"{self._path}.top_n"
        if self.node.traits.time != "window":
            raise PlanError("the rows are not those of one window", where=place, fix="write .window(…).aggregate(…) before .top_n(…)")
        made_by = next(self.node.nearest(frozenset(["window", "aggregate"]))).operator
        assert isinstance(made_by, Aggregate | Regroup)
        if type(count) is not int or count < 1:
            raise PlanError(f"count {count!r} is not a whole number from 1", where=place)
        for name in (*(f.name for f in WINDOW_COLUMNS[:2]), *made_by.keys):
            self._field(name, "top_n")
        if "rank" in self.schema:
            raise PlanError("column 'rank' is there already", where=place, fix="rename it with select()")
        keys = keys_of(by, self, "top_n")
        ordered = tuple(self._ordered(one) for one in ([order] if isinstance(order, str) else order))
        if not ordered:
            raise PlanError("there is no order", where=place, fix='write order="mean DESC", say')
        return self._then("top_n", TopN(count, ordered, keys, tuple(key for key in made_by.keys if key not in keys)))

    def _ordered(self, text: str) -> tuple[str, bool]:
        name, _, direction = str(text).strip().partition(" ")
        if direction.strip().upper() not in {"", "ASC", "DESC"}:
            raise PlanError(f"{text!r} is no order", where=f"{self._path}.top_n", fix='write "mean" or "mean DESC"')
        self._field(name, "top_n")
        if self.schema[name].type.kind in ("MAP", "ARRAY", "ROW"):
            raise PlanError(
                f"{name!r} is a {self.schema[name].type}", where=f"{self._path}.top_n", fix="order by text, numbers, booleans or timestamps"
            )
        return name, direction.strip().upper() == "DESC"

    def aggregate(self, by: Sequence[str], **aggregates: str) -> Stream:
        """Return the rows of each window grouped further, by fewer keys."""
        if self.node.traits.time != "window":
            what = "the rows are not those of one window" if self.node.traits.windowed else "the stream has no window"
            raise PlanError(what, where=f"{self._path}.aggregate", fix="write .window(…) before .aggregate(…)")
        missing = [f.name for f in WINDOW_COLUMNS[:2] if f.name not in self.schema]
        if missing:
            raise PlanError(f"{missing[0]!r} was selected away", where=f"{self._path}.aggregate", fix="group further before select()")
        for name in (f.name for f in WINDOW_COLUMNS[:2] if f.name not in self.node.traits.bounds):
            raise PlanError(f"{name!r} is no longer the window's own", where=f"{self._path}.aggregate", fix="give the column made of it another name")
        keys = keys_of(by, self, "aggregate")
        columns, calls = aggregates_of(self, keys, aggregates)
        return self._then("aggregate", Regroup(keys, columns, calls))


class ProcessedStream(Stream):
    """The rows of a process's main output."""

    def side(self, name: str) -> Stream:
        """Return the rows of a side output of the process."""
        process = self.operator
        assert isinstance(process, Process)
        known = [one for one in process.declared.outputs if one]
        if name not in known:
            raise PlanError(f"no side output {name!r}", where=self._path, fix=near(str(name), known))
        return self._then(f"side({name})", Side(process.name, name, process.output(name)))


class WindowedStream:
    """A stream cut into windows, which `aggregate` makes a stream again."""

    def __init__(self, input_: Stream, window: Aggregate) -> None:
        self._input, self._window = input_, window

    def late_to(self, topic: str) -> WindowedStream:
        """Return the same, with the rows that no window takes any more written to `topic`."""
        if not isinstance(topic, str) or not topic:
            raise PlanError(f"{topic!r} is not a topic", where=f"{self._input._path}.window.late_to", fix="name a topic")
        return WindowedStream(self._input, replace(self._window, late_topic=topic))

    def aggregate(self, **aggregates: str) -> Stream:
        """Return a row for each window and group: the keys, the aggregates, `window_start`, `window_end` and `revision`."""
        columns, calls = aggregates_of(self._input, self._window.keys, aggregates)
        return self._input._then("window.aggregate", replace(self._window, columns=columns, calls=calls))


def _check_broadcast(broadcast: Stream | None, beside: Node[Operator], declared: Declaration, where: str) -> None:
    if broadcast is None:
        if declared.shared:
            raise PlanError(f"{declared.name} has on_broadcast, and there is no broadcast", where=where, fix="give broadcast= a stream")
        return
    if not isinstance(broadcast, Stream):
        raise PlanError(f"broadcast {broadcast!r} is not a stream", where=where, fix="give it hr.stream(topic, schema=…, event_time=…)")
    broadcast._timed("broadcast")
    if broadcast.node is beside:
        raise PlanError("the broadcast is the stream itself", where=where, fix="give broadcast= another stream")
    if not declared.shared:
        fix = "write on_broadcast(self, row, shared), and declare shared"
        raise PlanError(f"{declared.name} cannot be told of a broadcast", where=where, fix=fix)


def _untyped(kind: Type) -> bool:
    return kind == NULL or any(map(_untyped, kind.arguments))
