"""Processes that go to Spark's workers: nothing is imported here that they lack."""

from __future__ import annotations

from typing import Any

import headrace as hr

SECOND = 1000


class Everything:
    """All kinds of state, with and without TTL, timers at equal times, a side output, failures."""

    output = {"kind": "STRING NOT NULL", "at": "TIMESTAMP_LTZ(3)", "n": "BIGINT", "x": "DOUBLE", "seen": "ARRAY<BIGINT>", "by": "MAP<STRING, DOUBLE>"}
    side_outputs = {"big": {"n": "BIGINT", "r": "ROW<a TIMESTAMP_LTZ(3), b ARRAY<TIMESTAMP_LTZ(3)>>"}}
    state = {
        "count": hr.Value("BIGINT", 0),
        "short": hr.Value("DOUBLE", ttl=hr.seconds(5)),
        "seen": hr.List("BIGINT"),
        "recent": hr.List("BIGINT", ttl=hr.seconds(5)),
        "by": hr.Map("DOUBLE"),
    }

    def on_record(self, row: dict[str, Any], state: Any) -> Any:
        if row["n"] == -1:
            raise ValueError("minus one")
        state.count += 1
        held = state.short
        state.short = row["x"]
        state.seen = [*state.seen, row["n"]][-3:]
        state.recent.append(row["n"])
        if row["s"] is not None:
            state.by[row["s"]] = row["x"]
        state.set_timer("b", state.time + 3 * SECOND)
        state.set_timer("a", state.time + 3 * SECOND)
        if row["n"] is not None and row["n"] > 2**53:
            yield "big", {"n": row["n"], "r": {"a": row["t"], "b": [state.time, None]}}
        yield {"kind": "record", "at": state.time, "n": row["n"], "x": held, "seen": [*state.recent], "by": dict(state.by)}

    def on_timer(self, name: str, state: Any) -> Any:
        yield {"kind": f"timer {name}", "at": state.time, "n": state.count, "x": state.short, "seen": [*state.seen]}


class Facts:
    """Keeps for 5 s, shows what it keeps, and sets two timers at one time."""

    output = {"at": "TIMESTAMP_LTZ(3)", "said": "STRING"}
    state = {"value": hr.Value("STRING", ttl=hr.seconds(5)), "list": hr.List("STRING", ttl=hr.seconds(5)), "map": hr.Map("BIGINT", ttl=hr.seconds(5))}

    def on_record(self, row: dict[str, Any], state: Any) -> Any:
        match row["s"]:
            case "keep":
                state.value = row["s"]
                state.list.append(row["s"])
                state.map[row["s"]] = 1
            case "timers":
                state.set_timer("2", state.time + 2 * SECOND)
                state.set_timer("1", state.time + 2 * SECOND)
            case "timer beyond the end":
                state.set_timer("1", state.time + 1)
            case what:
                yield {"at": state.time, "said": f"{what}: {state.value} {list(state.list)} {dict(state.map)}"}

    def on_timer(self, name: str, state: Any) -> Any:
        yield {"at": state.time, "said": f"timer {name}"}


class Limits:
    """Thresholds that are broadcast."""

    output = {"at": "TIMESTAMP_LTZ(3)", "n": "BIGINT", "limit": "BIGINT"}
    shared = {"limits": hr.Map("BIGINT")}

    def on_broadcast(self, row: dict[str, Any], shared: Any) -> None:
        shared.limits = {**shared.limits, row["s"]: 100 // row["n"]}

    def on_record(self, row: dict[str, Any], state: Any) -> Any:
        state.set_timer("later", state.time + 2 * SECOND)
        yield {"at": state.time, "n": row["n"], "limit": state.shared.limits.get(row["s"])}

    def on_timer(self, name: str, state: Any) -> Any:
        assert name == "later"
        yield {"at": state.time, "n": -1, "limit": max(state.shared.limits.values(), default=None)}


class Sequence:
    """What came in what order."""

    output = {"order": "BIGINT", "n": "BIGINT", "time": "TIMESTAMP_LTZ(3)"}
    state = {"count": hr.Value("BIGINT", 0)}

    def on_record(self, row: dict[str, Any], state: Any) -> Any:
        state.count += 1
        if row["n"] is not None and row["n"] % 3 == 0:
            state.set_timer("t", state.time + SECOND)
        return {"order": state.count, "n": row["n"], "time": state.time}

    def on_timer(self, name: str, state: Any) -> Any:
        assert name == "t"
        state.count += 1
        return {"order": state.count, "n": None, "time": state.time}


class Retyped(Sequence):
    """Keeps the same as if it were a text."""

    state = {"count": hr.Value("STRING")}


class Clocked:
    """Sets a timer of the clock."""

    output = {"n": "BIGINT"}

    def on_record(self, row: dict[str, Any], state: Any) -> Any:
        state.set_clock_timer("t", state.now + row["n"])

    def on_clock(self, name: str, state: Any) -> Any:
        return {"n": len(name) + state.now}


class Raises:
    """Raises at one record."""

    output = {"n": "BIGINT"}

    def on_record(self, row: dict[str, Any], state: Any) -> Any:
        return {"n": 10 // row["n"] + len(state.timers)}


class Endless:
    """Does not come to an end."""

    output = {"n": "BIGINT"}

    def on_record(self, row: dict[str, Any], state: Any) -> Any:
        while row is not state:
            pass


class Needy:
    """Needs a module that the workers lack."""

    output = {"n": "BIGINT"}

    def __init__(self) -> None:
        import lacking_on_workers

        self.given = lacking_on_workers.Thing()

    def on_record(self, row: dict[str, Any], state: Any) -> Any:
        return {"n": self.given.n + row["n"] + len(state.timers)}
