"""The processes that cases name."""

from __future__ import annotations

from typing import Any

import headrace as hr
from engines.embedded.processes import Machine, Unruled
from headrace.alarms.cause import FixedCauses
from headrace.alarms.definition import definition_of
from headrace.alarms.process import fixed
from headrace.detect.model import Bounds, Fitted, Scale, Training
from headrace.detect.process import Detector

Row = dict[str, Any]


# The lines at which these two raise stand in cases.


class Grumpy:
    """Adds up, and raises at negative numbers when it has half changed its mind."""

    output = {"total": "BIGINT"}
    state = {"total": hr.Value("BIGINT", 0), "last": hr.List("BIGINT")}

    def on_record(self, row: Row, state: Any) -> Any:
        state.total += row["v"]
        state.last.append(row["v"])
        yield {"total": state.total}
        if row["v"] < 0:
            raise ValueError(f"negative {row['v']}")


class Limited:
    """Tells of values above a limit that is broadcast; there is none before."""

    output = {"v": "BIGINT", "high": "BIGINT"}
    shared = {"high": hr.Value("BIGINT")}

    def on_broadcast(self, row: Row, shared: Any) -> None:
        shared.high = row["v"]
        if row["v"] is None:
            raise ValueError("a limit that is none")

    def on_record(self, row: Row, state: Any) -> Row | None:
        high = state.shared.high
        return {"v": row["v"], "high": high} if high is not None and row["v"] > high else None


class Counting:
    """Tells how often its key has come."""

    output = {"t": "BIGINT", "n": "BIGINT NOT NULL"}
    state = {"n": hr.Value("BIGINT", 0)}

    def on_record(self, row: Row, state: Any) -> Row:
        state.n += 1
        return {"t": row["t"], "n": state.n}


class Lately:
    """Tells of a value, a list and a map of which everything is forgotten after 10 s."""

    output = {"t": "BIGINT", "before": "BIGINT", "recent": "ARRAY<BIGINT>", "seen": "MAP<STRING, BIGINT>"}
    state = {
        "before": hr.Value("BIGINT", ttl=hr.seconds(10)),
        "recent": hr.List("BIGINT", ttl=hr.seconds(10)),
        "seen": hr.Map("BIGINT", ttl=hr.seconds(10)),
    }

    def on_record(self, row: Row, state: Any) -> Row:
        told = {"t": row["t"], "before": state.before, "recent": [*state.recent], "seen": dict(state.seen)}
        if row["v"] is not None:
            state.before = row["v"]
            state.recent.append(row["v"])
            state.seen[str(row["v"])] = row["t"]
        return told


class Silence:
    """Tells of a key of which nothing has come for 10 s, and again every 10 s."""

    output = {"at": "TIMESTAMP_LTZ(3)", "what": "STRING"}

    def on_record(self, _row: Row, state: Any) -> None:
        state.set_timer("silent", state.time + 10_000)

    def on_timer(self, name: str, state: Any) -> Row:
        state.set_timer(name, state.time + 10_000)
        return {"at": state.time, "what": name}


class Alarms:
    """Sets the timers that a record names, `v` seconds off, and takes back those that it names with a minus."""

    output = {"at": "TIMESTAMP_LTZ(3)", "what": "STRING"}

    def on_record(self, row: Row, state: Any) -> Row:
        for name in (row["do"] or "").split():
            if name.startswith("-"):
                state.clear_timer(name[1:])
            else:
                state.set_timer(name, state.time + row["v"] * 1000)
        return {"at": state.time, "what": f"record {row['do']}"}

    def on_timer(self, name: str, state: Any) -> Row:
        if name == "chain":
            state.set_timer("link", state.time)
            state.set_timer("past", state.time - 5000)
        return {"at": state.time, "what": name}


class Acknowledged:
    """Tells in what order it is called, and by whom it was acknowledged last."""

    output = {"nth": "BIGINT", "at": "TIMESTAMP_LTZ(3)", "what": "STRING", "by": "STRING"}
    state = {"nth": hr.Value("BIGINT", 0), "by": hr.Value("STRING")}

    def on_record(self, row: Row, state: Any) -> Row:
        if row["v"] is not None:
            state.set_timer("due", state.time + row["v"])
        return self._told("record", state)

    def on_command(self, row: Row, state: Any) -> Row:
        state.by = row["operator"]
        return self._told("command", state)

    def on_limit(self, _row: Row, state: Any) -> Row:
        return self._told("limit", state)

    def on_timer(self, name: str, state: Any) -> Row:
        return self._told(name, state)

    def _told(self, what: str, state: Any) -> Row:
        state.nth += 1
        return {"nth": state.nth, "at": state.time, "what": what, "by": state.by}


class Split:
    """Gives even numbers, odd ones on the side, and nothing for others."""

    output = {"even": "BIGINT"}
    side_outputs = {"odd": {"odd": "BIGINT", "as_text": "STRING"}}

    def on_record(self, row: Row, _state: Any) -> Any:
        if row["v"] is None:
            return
        yield {"even": row["v"]} if row["v"] % 2 == 0 else ("odd", {"odd": row["v"], "as_text": str(row["v"])})


class Exact:
    """Gives every type back as it came, and by way of its state."""

    COLUMNS = {
        "b": "BOOLEAN",
        "i": "BIGINT",
        "d": "DOUBLE",
        "s": "STRING",
        "at": "TIMESTAMP_LTZ(3)",
        "l": "ARRAY<DOUBLE>",
        "m": "MAP<STRING, STRING>",
    }
    output = {**COLUMNS, "r": "ROW<i BIGINT, d DOUBLE>", "kept": "DOUBLE"}
    state = {"d": hr.Value("DOUBLE"), "i": hr.Value("BIGINT")}

    def on_record(self, row: Row, state: Any) -> Row:
        kept = state.d
        state.d, state.i = row["d"], row["i"]
        return {**{name: row[name] for name in self.COLUMNS}, "r": {"i": state.i, "d": state.d}, "kept": kept}


class Announced(Limited):
    """Emits each limit that is broadcast, with the one before, and values above the limit."""

    def on_broadcast(self, row: Row, shared: Any) -> Any:
        yield {"k": row["k"], "v": row["v"], "high": shared.high}
        super().on_broadcast(row, shared)


def consequences() -> FixedCauses:
    """Group the alarms of a pump, the flow behind it and a tank by cause."""
    causes: dict[str, list[str]] = {"pump/failed": [], "flow/L": ["pump/failed"], "tank/L": ["flow/L", "pump/failed"]}
    definitions = [
        definition_of({"tag": tag, "definition": name, "kind": "custom", "caused_by": given or None, "caused_within": 5 if given else None})
        for (tag, name), given in ((alarm.split("/"), given) for alarm, given in causes.items())
    ]
    return FixedCauses(fixed(definitions))


# `Ranges` scores how far flow is outside of 0 to 10, and level of 10 to 20, as shares of 10: two of three above 0.1 are an anomaly.
# `Sums` adds up what flow is above 6 or below 4, in units of 2: above 2 is an anomaly, and 4 is the most.
_TRAINING = Training(100, 50, 0, 0, 149_000, 1000, "", 0.0, 0.0, 0)
_RANGES = hr.Model("ranges", "range", ("flow", "level"), 0.1, Fitted(bounds=Bounds((0.0, 10.0), (10.0, 20.0))), _TRAINING, {"margin": 0.0}, k=2, n=3)
_SUMS = hr.Model("sums", "cusum", ("flow",), 2.0, Fitted(scale=Scale((5.0,), (2.0,))), _TRAINING, {"slack": 0.5, "residual": "center", "lags": 1})


NAMED = {
    type_.__name__: type_ for type_ in (Counting, Lately, Silence, Alarms, Split, Grumpy, Limited, Announced, Exact, Machine, Unruled, Acknowledged)
} | {"Causes": consequences(), "Ranges": Detector(_RANGES, "ranges", None), "Sums": Detector(_SUMS, "sums", None)}
