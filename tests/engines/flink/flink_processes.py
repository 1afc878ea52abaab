"""Processes that the tests send to Flink, whose workers import this module: it needs nothing but headrace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import headrace as hr

SCHEMA = {
    "id": "STRING", "t": "BIGINT NOT NULL", "x": "DOUBLE", "name": "STRING", "big": "BIGINT",
    "at": "TIMESTAMP_LTZ(3)", "times": "ARRAY<TIMESTAMP_LTZ(3)>", "m": "MAP<STRING, DOUBLE>",
}  # fmt: skip


class Watch:
    """Keeps a value, a list and a map, each for a while, and tells of each record and timer all that it keeps."""

    output = {
        "n": "BIGINT NOT NULL", "sum": "DOUBLE", "names": "ARRAY<STRING>", "limit": "BIGINT",
        "last": "TIMESTAMP_LTZ(3)", "times": "ARRAY<TIMESTAMP_LTZ(3)>", "big": "BIGINT",
    }  # fmt: skip
    side_outputs = {"quiet": {"name": "STRING", "at": "TIMESTAMP_LTZ(3)", "kept": "MAP<STRING, BIGINT>"}}
    state = {
        "count": hr.Value("BIGINT", 0),
        "recent": hr.Value("STRING", ttl=hr.seconds(7)),
        "values": hr.List("DOUBLE", ttl=hr.seconds(10)),
        "seen": hr.Map("BIGINT", ttl=hr.seconds(6)),
    }
    shared = {"limits": hr.Map("BIGINT"), "version": hr.Value("BIGINT", 0)}

    def on_record(self, row: dict[str, Any], state: Any) -> Iterator[dict[str, Any]]:
        if row["x"] is not None and row["x"] > 98:
            raise ValueError(f"too hot: {row['x']}")
        state.count += 1
        if row["x"] is not None:
            state.values.append(row["x"])
        state.seen[row["name"] or ""] = row["big"]
        state.set_timer("b", state.time + 3000)
        state.set_timer("a", state.time + 3000)
        if state.count % 7 == 0:
            state.set_timer("past", state.time - 5)
        before, state.recent = state.recent, row["name"]
        limit = state.shared.limits.get(row["name"] or "")
        names, times = [before or "-", *sorted(state.seen)], row["times"]
        yield {"n": state.count, "sum": sum(state.values, 0.0), "names": names, "limit": limit, "last": row["at"], "times": times, "big": row["big"]}

    def on_timer(self, name: str, state: Any) -> list[tuple[str, dict[str, Any]]]:
        if name == "a":
            state.count += 100
        return [("quiet", {"name": f"{name} {state.count} {state.shared.version}", "at": state.time, "kept": dict(state.seen)})]

    def on_broadcast(self, row: dict[str, Any], shared: Any) -> None:
        if row["limit"] is None:
            raise ValueError("no limit")
        shared.limits[row["name"]] = row["limit"]
        shared.version += 1


class Every:
    """Gives each so-many-th record of a key."""

    output = {"rows": "BIGINT NOT NULL", "v": "DOUBLE"}
    state = {"rows": hr.Value("BIGINT", 0)}

    def __init__(self, count: int) -> None:
        self.count = count

    def on_record(self, row: dict[str, Any], state: Any) -> list[dict[str, Any]]:
        state.rows += 1
        return [{"rows": state.rows, "v": row["v"]}] if state.rows % self.count == 0 else []


class Raises:
    """Raises at a record that is so."""

    output = {"n": "BIGINT"}

    def on_record(self, row: dict[str, Any], _: Any) -> None:
        if row["x"] == 3:
            raise ValueError("it is three")
        while row["x"] == 4:
            pass


class Chain:
    """Numbers the records of a key, which are to come in the order of their numbers, and tells of silence."""

    output = {"n": "BIGINT NOT NULL", "number": "BIGINT NOT NULL"}
    side_outputs = {"silent": {"since": "BIGINT NOT NULL"}}
    state = {"n": hr.Value("BIGINT", 0)}

    def on_record(self, row: dict[str, Any], state: Any) -> list[dict[str, Any]]:
        state.n += 1
        state.set_timer("silent", state.time + 5000)
        return [{"n": state.n, "number": row["number"]}]

    def on_timer(self, _: str, state: Any) -> list[tuple[str, dict[str, Any]]]:
        return [("silent", {"since": state.time - 5000})]


class Rechained(Chain):
    """The same with its state of another type, under the same version."""

    state = {"n": hr.Value("STRING")}


class Ticks:
    """Says after half a second by the clock that a record came."""

    output = {"n": "BIGINT NOT NULL"}
    state = {"n": hr.Value("BIGINT", 0)}

    def on_record(self, _: dict[str, Any], state: Any) -> None:
        state.n += 1
        state.set_clock_timer("tick", state.now)

    def on_clock(self, _: str, state: Any) -> list[dict[str, Any]]:
        return [{"n": state.n}]


def readings(delay_ms: int = 2000) -> hr.Stream:
    return hr.stream("readings", schema=SCHEMA, event_time="TO_TIMESTAMP_LTZ(t, 3)", watermark=hr.milliseconds(delay_ms))


@hr.pipeline("watching", version="1")
def watching() -> dict[str, hr.Stream]:
    rules = hr.stream(
        "rules",
        schema={"name": "STRING NOT NULL", "t": "BIGINT NOT NULL", "limit": "BIGINT"},
        event_time="TO_TIMESTAMP_LTZ(t, 3)",
        watermark=hr.seconds(1),
    )
    rows = readings()
    watched = rows.where("name <> 'skip' OR name IS NULL").process(Watch, by=["id"], broadcast=rules, failed_to="failed")
    each = rows.unnest("m", key="sensor", value="v").process(Every(3), by=["sensor", "id"])
    many = watched.where("n > 3").select("n", "last", double="sum * 2")
    return {"watched": watched, "quiet": watched.side("quiet"), "many": many, "each": each}


@hr.pipeline("raising", version="1")
def raising(limit_ms: int = 10_000) -> dict[str, hr.Stream]:
    return {"never": readings().process(Raises, by=["id"], limit=hr.milliseconds(limit_ms))}


def chain_of(code: type[Chain]) -> dict[str, hr.Stream]:
    numbers = hr.stream(
        "numbers",
        schema={"key": "STRING", "t": "BIGINT NOT NULL", "number": "BIGINT NOT NULL"},
        event_time="TO_TIMESTAMP_LTZ(t, 3)",
        watermark=hr.seconds(1),
    )
    linked = numbers.process(code, by=["key"], name="chain")
    ticks = numbers.where("key = 'k0'").process(Ticks, by=["key"])
    return {"linked": linked, "silent": linked.side("silent"), "ticks": ticks}


@hr.pipeline("chain", version="1")
def chain() -> dict[str, hr.Stream]:
    return chain_of(Chain)


class Arrives:
    """Numbers the records of a key as they come, tells what it has seen lately, and of silence."""

    output = {"n": "BIGINT NOT NULL", "t": "BIGINT", "lately": "ARRAY<DOUBLE>"}
    side_outputs = {"silent": {"name": "STRING", "at": "TIMESTAMP_LTZ(3)", "n": "BIGINT"}}
    state = {"n": hr.Value("BIGINT", 0), "lately": hr.List("DOUBLE", ttl=hr.seconds(5))}

    def on_record(self, row: dict[str, Any], state: Any) -> Iterator[dict[str, Any]]:
        state.n += 1
        lately = [*state.lately]
        if row["x"] is not None:
            state.lately.append(row["x"])
        state.set_timer("silent", state.time + 3000)
        if state.n % 5 == 0:
            state.set_timer("past", state.time - 4000)
        yield {"n": state.n, "t": row["t"], "lately": lately}

    def on_timer(self, name: str, state: Any) -> list[tuple[str, dict[str, Any]]]:
        return [("silent", {"name": name, "at": state.time, "n": state.n})]


class Numbers:
    """Numbers the records of a key as they come, and tells the limit that then counts."""

    output = {"n": "BIGINT NOT NULL", "number": "BIGINT NOT NULL", "limit": "BIGINT"}
    state = {"n": hr.Value("BIGINT", 0)}
    shared = {"limit": hr.Value("BIGINT")}

    def on_record(self, row: dict[str, Any], state: Any) -> dict[str, Any]:
        state.n += 1
        return {"n": state.n, "number": row["number"], "limit": state.shared.limit}

    def on_broadcast(self, row: dict[str, Any], shared: Any) -> None:
        if row["limit"] is None:
            raise ValueError("no limit")
        shared.limit = row["limit"]


@hr.pipeline("arriving", version="1")
def arriving() -> dict[str, hr.Stream]:
    arrived = readings().where("name <> 'skip' OR name IS NULL").process(Arrives, by=["id"], order="arrival")
    return {"arrived": arrived, "silent": arrived.side("silent")}


@hr.pipeline("numbering", version="1")
def numbering() -> dict[str, hr.Stream]:
    timed = {"event_time": "TO_TIMESTAMP_LTZ(t, 3)", "watermark": hr.seconds(1)}
    numbers = hr.stream("numbers", schema={"key": "STRING", "t": "BIGINT NOT NULL", "number": "BIGINT NOT NULL"}, **timed)
    limits = hr.stream("limits", schema={"t": "BIGINT NOT NULL", "limit": "BIGINT"}, **timed)
    return {"numbered": numbers.process(Numbers, by=["key"], order="arrival", broadcast=limits, failed_to="refused")}
