"""The water plant: rows and attacks joined, with pressure statistics and severity; numbered alerts of attacks and limits; alarms."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import headrace as hr
from headrace.errors import PlanError
from headrace.kernels.reading.rules import double_of
from headrace.plant.quality import Quality
from headrace.plant.tags import Tag, Tags, load
from headrace.simulate.water import water_tags

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Alerts", "Limits", "alarms", "causes", "metrics", "water", "whole"]

Row = dict[str, Any]

STATISTICS = {
    "readings": "COUNT(*)", "minimum": "MIN(value)", "maximum": "MAX(value)", "average": "AVG(value)", "deviation": "STDDEV_SAMP(value)"
}  # fmt: skip
_OTHERS = ("The water is out of its specification.", "Check the sensor, then the dosing of this stage.")
_GUIDANCE = {
    ("level", "L"): ("The pump after the tank may run dry.", "Check the inflow, or stop the pump after the tank."),
    ("level", "H"): ("The tank may overflow.", "Check the inlet valve, or start the pump after the tank."),
    ("flow", "H"): ("A pump or a valve lets too much through.", "Compare the pump and the valve with what was commanded."),
    ("pressure", "H"): ("The membranes may be damaged.", "Check the valves after the pump, or stop the pump."),
    ("differential pressure", "H"): ("The filter is fouled, or its outlet is closed.", "Check the outlet valve MV302; else rinse the filter."),
}
_SWITCHING = frozenset({"level", "flow", "pressure", "differential pressure"})
_ATTACK = "attack_type"
_LONGEST_QUIET_S = 31_536_000
_WRITTEN = ("t_stamp", "processed_at", "avg_pressure", "pressure_variance", "data_type", "severity")


class Limits(NamedTuple):
    """The limits of a tag, None where there is no limit; the deadband; and `low` and `high`, between which a value is within all limits."""

    tag: str
    ll: float | None
    l: float | None  # noqa: E741  (so the limit is called)
    h: float | None
    hh: float | None
    deadband: float
    low: float
    high: float

    def level(self, value: float, before: str | None) -> str | None:
        """Return the limit that a value is beyond, of which HH and LL go before H and L; `before` is the one that it was beyond."""
        for name, limit, above in (("HH", self.hh, True), ("LL", self.ll, False), ("H", self.h, True), ("L", self.l, False)):
            if limit is None:
                continue
            slack = self.deadband if before == name else 0.0
            if (value > limit - slack) if above else (value < limit + slack):
                return name
        return None

    def band(self, before: str | None) -> tuple[float, float]:
        """Return the least and the greatest of values whose `level` is `before` again; some others may have it too."""
        low, high = (-math.inf if self.ll is None else self.ll), (math.inf if self.hh is None else self.hh)
        if before is None:
            return self.low, self.high
        limit = getattr(self, before.lower())
        if limit is None:
            return math.inf, -math.inf
        if "H" in before:
            least = math.nextafter(limit - self.deadband, math.inf)
            return (least, math.inf) if before == "HH" else (max(low, least), high)
        most = min(high, math.nextafter(limit + self.deadband, -math.inf))
        return (-math.inf, most) if before == "LL" else (low, most if self.h is None else min(self.h, most))


class Alerts:
    """Numbers the alerts of attacks and of values beyond limits: one when it begins, and with `active` one more when it ends."""

    state = {
        "count": hr.Value("BIGINT", 0), "attacks": hr.Map("BIGINT"), "levels": hr.Map("STRING"), "ids": hr.Map("STRING"),
    }  # fmt: skip

    def __init__(self, limits: Mapping[str, Limits], quiet_ms: int, *, sensor_data: str, active: bool, every_record: bool) -> None:
        self.limits, self.quiet_ms, self.active, self.every_record = limits, quiet_ms, active, every_record
        self.output = {
            "alert_id": "STRING NOT NULL", "timestamp": "STRING NOT NULL", "sensor_data": sensor_data,
            "alert_type": "STRING NOT NULL", "severity": "STRING NOT NULL", "message": "STRING NOT NULL",
            **({"active": "BIGINT NOT NULL"} if active else {}),
        }  # fmt: skip

    def on_record(self, row: Row, state: Any) -> Iterator[Row]:  # noqa: ANN401
        """Compare a row with the limits, and note whether it is part of an attack."""
        fields = row["fields"] or {}
        if row["attack"] is not None:
            if not state.attacks:
                state.set_timer("quiet", state.time + self.quiet_ms)
            if self.every_record or row["attack"] not in state.attacks:
                yield from self._begun(row, state, _of_attack(row["attack"]), "attack", "high", f"Attack detected: {row['attack']}")
            state.attacks[row["attack"]] = state.time  # the time of its last row
        beyond = set(state.levels)
        for spelling, limits in self.limits.items():
            text = fields.get(spelling)
            value = None if text is None else double_of(text)
            if value is None or (limits.low <= value <= limits.high and limits.tag not in beyond):
                continue
            before = state.levels.get(limits.tag)
            level = limits.level(value, before)
            if level == before:
                continue
            if level is None:
                del state.levels[limits.tag]
                yield from self._ended(row["t_stamp"], fields, state, limits.tag, f"{limits.tag} is {text}, within its limits")
                continue
            state.levels[limits.tag] = level
            if before != 2 * level:  # from HH back to H is no new alert
                severity = "high" if len(level) == 2 else "medium"
                side, limit = "above" if "H" in level else "below", getattr(limits, level.lower())
                yield from self._begun(
                    row, state, limits.tag, "anomaly", severity, f"Anomaly detected: {limits.tag} is {text}, {side} {level} {limit:g}"
                )

    def _needed(self, rows: pl.DataFrame, states: Iterable[Any]) -> pl.Series:
        """Return which of many rows may alert. The embedded engine asks for it."""
        import polars as pl  # not on every worker

        levels = [dict(state.levels) for state in states]
        bands = [
            (group, spelling, *limits.band(found.get(limits.tag))) for group, found in enumerate(levels) for spelling, limits in self.limits.items()
        ]
        table = pl.DataFrame(bands, schema={"@group": pl.Int64, "key": pl.String, "low": pl.Float64, "high": pl.Float64}, orient="row")
        entries = _entries(rows).join(table, on=["@group", "key"])
        number = pl.col("value").cast(pl.Float64, strict=False)
        # A text without a digit is no number.
        same = (number.is_finite() & number.is_between("low", "high")).fill_null(value=False) | ~pl.col("value").str.contains("[0-9]")
        moved = entries.filter(~same)["@row"].unique()
        moves = pl.Series("@row", range(len(rows)), dtype=pl.Int64).is_in(moved.implode())
        judged = rows.select("@group", "attack", moves.alias("moves"))
        return judged.select(pl.col("moves").cum_max().over("@group") | pl.col("attack").is_not_null()).to_series()

    def on_timer(self, _name: str, state: Any) -> Iterator[Row]:  # noqa: ANN401
        """End the attacks of which no row has come for long."""
        for name, last in sorted(state.attacks.items()):
            if last + self.quiet_ms <= state.time:
                del state.attacks[name]
                yield from self._ended(f"{state.time}000000", None, state, _of_attack(name), f"Attack ended: {name}")
        if state.attacks:
            state.set_timer("quiet", min(state.attacks.values()) + self.quiet_ms)

    def _begun(self, row: Row, state: Any, of: str, kind: str, severity: str, message: str) -> Iterator[Row]:  # noqa: ANN401
        state.count += 1
        alert = f"ALERT_{state.count:06}"
        yield from self._ended(row["t_stamp"], row["fields"], state, of, f"Replaced by {alert}")
        if self.active:
            state.ids[of] = alert
        yield {
            "alert_id": alert, "timestamp": row["t_stamp"], "sensor_data": _sensed(row["fields"]), "alert_type": kind, "severity": severity,
            "message": message, **({"active": 1} if self.active else {}),
        }  # fmt: skip

    def _ended(self, t_stamp: str, fields: Mapping[str, str] | None, state: Any, of: str, message: str) -> Iterator[Row]:  # noqa: ANN401
        if self.active and of in state.ids:
            yield {
                "alert_id": state.ids[of], "timestamp": t_stamp, "sensor_data": _sensed(fields), "alert_type": "attack" if of.startswith(_ATTACK) else "anomaly",
                "severity": "low", "message": message, "active": 0,
            }  # fmt: skip
            del state.ids[of]


def _entries(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the fields of rows that are not NULL, one a row: `@row`, `@group`, `key`, `value`."""
    import polars as pl

    place = pl.int_range(pl.len(), dtype=pl.Int64).alias("@row")
    if isinstance(rows["fields"].dtype, pl.Struct):
        wide = rows.select(place, "@group", pl.col("fields").struct.unnest())
        long = wide.unpivot(index=["@row", "@group"], variable_name="key")
    else:
        lists = rows.select(place, "@group", rows["fields"].map.entries().alias("@entry")).explode("@entry")
        long = lists.unnest("@entry")
    return long.filter(pl.col("value").is_not_null())


def _of_attack(name: str) -> str:
    """Return the key of an attack among those of tags."""
    return f"{_ATTACK} {name}"


def _sensed(fields: Mapping[str, str] | None) -> dict[str, str]:
    return {name: text for name, text in (fields or {}).items() if name != _ATTACK}


def _tags(name: str) -> tuple[Tags, bool]:
    """Return the tag list of a setting, and whether its limits count: `swat` is the simulated plant's, none is that without limits."""
    if name in ("", "swat"):
        pressures = [Tag(f"water/P{stage}", tag_class="pressure") for stage in range(1, 7)]
        states = [Tag(f"water/P{stage}_STATE", interpolation="stepped", spellings=(f"P{stage}_STATE",)) for stage in range(1, 7)]
        return Tags([*water_tags(), *pressures, *states]), bool(name)
    return load(name), True


def _spellings(tag: Tag) -> tuple[str, ...]:
    """Return how a tag can be called in a row, with a blank before its number too."""
    letters = tag.name.rstrip("0123456789")
    blank = f"{letters} {tag.name[len(letters) :]}" if letters != tag.name else tag.name
    return tuple(dict.fromkeys([tag.name, *tag.spellings, blank]))


def _number(tag: Tag, fields: Collection[str]) -> str:
    """Return an expression for the number of a tag; `fields` are those that are columns, none if they are entries of a MAP."""
    found = [_column(spelling) if fields else f"fields[{_quoted(spelling)}]" for spelling in _spellings(tag) if not fields or spelling in fields]
    if not found:
        return "CAST(NULL AS DOUBLE)"
    text = found[0] if len(found) == 1 else f"COALESCE({', '.join(found)})"
    return f"TRY_CAST({text} AS DOUBLE)"


def _column(name: str) -> str:
    return f"`{name}`"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _limits(tag: Tag) -> Limits:
    """Return the limits of a tag; the ends of its range stand in for HH and LL."""
    ll, hh = tag.low if tag.ll is None else tag.ll, tag.high if tag.hh is None else tag.hh
    low = max(limit for limit in (ll, tag.l, -math.inf) if limit is not None)
    high = min(limit for limit in (hh, tag.h, math.inf) if limit is not None)
    return Limits(tag.name, ll, tag.l, tag.h, hh, tag.deadband or 0.0, low, high)


def _severity(limits: Mapping[str, Limits]) -> str:
    """Return an expression for the severity of a row, by columns with limits: high in an attack and beyond HH or LL, medium beyond H or L."""
    beyond: dict[str, list[str]] = {"high": [], "medium": []}
    for column, one in limits.items():
        for severity, limit, sign in (("high", one.hh, ">"), ("high", one.ll, "<"), ("medium", one.h, ">"), ("medium", one.l, "<")):
            if limit is not None:
                beyond[severity].append(f"{column} {sign} {limit}")
    cases = [f"WHEN {' OR '.join(conditions)} THEN '{severity}'" for severity, conditions in beyond.items() if conditions]
    return f"CASE WHEN attack IS NOT NULL THEN 'high' {' '.join(cases)} ELSE 'low' END"


def _rows(watermark_seconds: int, fields: Collection[str] = (), *, placed: bool = False) -> hr.Stream:
    """Return the rows of both topics; `attack` is the name of an attack, NULL in normal operation. `fields` has all fields, or those named.

    With `placed` a row says where it is: `topic`, `partition`, `offset`.
    """
    declared = dict.fromkeys([*fields, _ATTACK], "STRING") if fields else {}
    normal, attacks = (
        hr.stream(
            topic,
            schema={"t_stamp": "STRING NOT NULL", **declared},
            event_time="TO_TIMESTAMP_LTZ(TRY_CAST(t_stamp AS BIGINT) / 1000000, 3)",
            watermark=hr.seconds(watermark_seconds),
            rest=None if fields else "fields",
            metadata={"arrived": "arrival_time", **({name: name for name in ("partition", "offset")} if placed else {})},
        )
        for topic in ("scada.normal", "scada.attacks")
    )
    if placed:
        normal, attacks = normal.derive(topic="'scada.normal'"), attacks.derive(topic="'scada.attacks'")
    name = _ATTACK if fields else f"fields['{_ATTACK}']"
    attack = f"NULLIF({name}, '')"
    rows = normal.derive(attack=attack).union(attacks.derive(attack=f"COALESCE({attack}, 'unknown')"))
    return rows.derive(fields=f"STRUCT({', '.join(map(_column, fields))})") if fields else rows


@hr.pipeline("water", version="1")
def water(
    tags: str = "",
    fields: str = "",
    variance: str = "sample",
    quiet_seconds: int = 60,
    active: bool = False,  # noqa: FBT001, FBT002  (a setting)
    every_record: bool = False,  # noqa: FBT001, FBT002
    time: bool = False,  # noqa: FBT001, FBT002
    watermark_seconds: int = 1,
) -> dict[str, hr.Stream]:
    """Rows of `scada.normal` and `scada.attacks` with pressure statistics and severity, and alerts of attacks and of limits."""
    if variance not in ("sample", "population"):
        raise PlanError(f"variance is {variance!r}", where="pipeline water", fix="sample or population")
    if not 0 <= quiet_seconds <= _LONGEST_QUIET_S:
        raise PlanError(f"quiet_seconds is {quiet_seconds}", where="pipeline water", fix=f"give 0 to {_LONGEST_QUIET_S}, a year")
    named = list(dict.fromkeys(name.strip() for name in fields.split(",") if name.strip()))
    for name in named:
        if name in _WRITTEN:
            raise PlanError(f"fields names {name!r}", where="pipeline water", fix="leave it out: scada.processed always has this column")
    return _watched(_rows(watermark_seconds, named), tags, named, variance, quiet_seconds, active=active, every_record=every_record, time=time)


def _watched(
    rows: hr.Stream, tags: str, named: Sequence[str], variance: str, quiet_seconds: int, *, active: bool, every_record: bool, time: bool
) -> dict[str, hr.Stream]:
    """Return the rows with pressure statistics and severity, and the alerts."""
    listed, limited = _tags(tags)
    pressures = [tag for tag in listed if tag.tag_class == "pressure"]
    limits = {f"value_{number}": tag for number, tag in enumerate(listed) if limited and any(limit is not None for limit in _limits(tag)[1:5])}
    values = {f"pressure_{number}": _number(tag, named) for number, tag in enumerate(pressures)}
    sums = " + ".join(f"COALESCE({name}, 0)" for name in values) or "0"
    squares = " + ".join(f"COALESCE(({name} - avg_pressure) * ({name} - avg_pressure), 0)" for name in values) or "0"
    count = " + ".join(f"CASE WHEN {name} IS NULL THEN 0 ELSE 1 END" for name in values) or "0"
    fewer = 1 if variance == "sample" else 0
    processed = (
        rows.derive(**values, **{column: _number(tag, named) for column, tag in limits.items()})
        .derive(pressures=count)
        .derive(avg_pressure=f"CASE WHEN pressures > 0 THEN ({sums}) / CAST(pressures AS DOUBLE) END")
        .select(
            "t_stamp",
            *(named or ["fields"]),
            processed_at="DATE_FORMAT(COALESCE(arrived, TO_TIMESTAMP_LTZ(TRY_CAST(t_stamp AS BIGINT) / 1000000, 3)), 'yyyy-MM-dd''T''HH:mm:ss')",
            avg_pressure="avg_pressure",
            pressure_variance=f"CASE WHEN pressures > {fewer} THEN ({squares}) / CAST(pressures - {fewer} AS DOUBLE) END",
            data_type="CASE WHEN attack IS NULL THEN 'normal' ELSE 'attack' END",
            severity=_severity({column: _limits(tag) for column, tag in limits.items()}),
        )
    )
    watched = {spelling: _limits(tag) for tag in limits.values() for spelling in _spellings(tag)}
    sensor_data = f"ROW<{', '.join(f'{_column(name)} STRING' for name in named)}>" if named else "MAP<STRING, STRING>"
    watch = Alerts(watched, quiet_seconds * 1000, sensor_data=sensor_data, active=active, every_record=every_record)
    alerts = rows.select("t_stamp", "fields", "attack", plant="'water'").process(watch, by=["plant"])
    return {
        "scada.processed": processed if named else processed.spread("fields"),
        "scada.alerts": alerts.select(*watch.output, **({"time": "TRY_CAST(`timestamp` AS BIGINT) / 1000000"} if time else {})),
    }


@hr.pipeline("alarms", version="1")
def alarms(tags: str = "swat", delay_seconds: float = 2, watermark_seconds: int = 1) -> dict[str, hr.Stream]:
    """Readings of each tag, and alarms after ISA-18.2: by the limits of the tag list, and of sensors that deliver no value."""
    return _alarmed(_rows(watermark_seconds, placed=True), tags, delay_seconds)


def _alarmed(rows: hr.Stream, tags: str, delay_seconds: float) -> dict[str, hr.Stream]:
    """Return the readings of rows that say where they are, and their alarms."""
    listed, _ = _tags(tags)
    paths = " ".join(f"WHEN name IN ({', '.join(map(_quoted, _spellings(tag)))}) THEN {_quoted(tag.path)}" for tag in listed)
    readings = (
        rows.select("t_stamp", "topic", "partition", "offset", "fields")
        .unnest("fields", key="name", value="raw")
        .derive(tag=f"CASE {paths} END")
        .where("tag IS NOT NULL")
        .derive(value="CASE raw WHEN 'Open' THEN 2.0 WHEN 'Closed' THEN 1.0 ELSE TRY_CAST(raw AS DOUBLE) END")
        .derive(quality=f"CASE WHEN value IS NULL THEN {int(Quality.BAD_NO_DATA)} ELSE 0 END")
    )
    definitions = [one for tag in listed for one in _definitions(tag, delay_seconds)]
    found = hr.alarm(readings, definitions, hr.alarm_commands(), evidence=True)
    return {
        "scada.readings": readings.select("tag", "value", "quality", time="TRY_CAST(t_stamp AS BIGINT) / 1000000"),
        **found.topics(),
    }


def _definitions(tag: Tag, delay_seconds: float) -> Iterator[dict[str, Any]]:
    """Yield the alarms of a tag: of its limits, and of a sensor by which pumps and valves are switched that delivers no value."""
    common = {"tag": tag.path, "on_delay": delay_seconds, **({"class": tag.tag_class} if tag.tag_class else {})}
    for kind, limit, priority in (("LL", tag.ll, 2), ("L", tag.l, 3), ("H", tag.h, 3), ("HH", tag.hh, 2)):
        if limit is not None:
            consequence, action = _GUIDANCE.get((tag.tag_class, kind[0]), _OTHERS)
            more = {"limit": limit, "deadband": tag.deadband or 0.0, "priority": priority, "consequence": consequence, "action": action}
            if kind in {"LL", "HH"} and (tag.l if kind == "LL" else tag.h) is not None:
                more["caused_by"] = [f"{tag.path}/{kind[0]}"]  # the value passed that limit before
            yield {**common, "definition": kind, "kind": kind, **more}
    if tag.tag_class in _SWITCHING:
        action = "Check the sensor and its line; watch the stage by its other sensors."
        yield {**common, "definition": "bad", "kind": "bad_quality", "on_delay": 30.0, "priority": 4, "ne107": "failure", "action": action}


@hr.pipeline("causes", version="1")
def causes(tags: str = "swat", delay_seconds: float = 2) -> dict[str, hr.Stream]:
    """The alarms of the pipeline `alarms`, grouped by cause: beyond HH below beyond H of the same tag. The settings are those of `alarms`."""
    listed, _ = _tags(tags)
    return {"alarms.causes": hr.alarm_causes(hr.alarm_transitions(), [one for tag in listed for one in _definitions(tag, delay_seconds)])}


@hr.pipeline("states", version="1")
def states(tags: str = "", watermark_seconds: int = 1) -> dict[str, hr.Stream]:
    """The changes of the states of valves, pumps and stages: from which state to which."""
    listed, _ = _tags(tags)
    spelled = [spelling for tag in listed if tag.interpolation == "stepped" for spelling in _spellings(tag)]
    if not spelled:
        raise PlanError(f"{tags} has no state", where="pipeline states", fix="write stepped as the interpolation of the tags that are states")
    shown = (
        _rows(watermark_seconds)
        .select("t_stamp", "fields")
        .unnest("fields", key="tag", value="state")
        .where(f"tag IN ({', '.join(map(_quoted, spelled))})")
        .over(by=["tag"], rows=2, before="LAG(state)")
        .where("before IS NOT NULL AND before <> state")
    )
    return {"scada.states": shown.select("t_stamp", "tag", "before", "state")}


@hr.pipeline("metrics", version="1")
def metrics(tags: str = "", watermark_seconds: int = 1) -> dict[str, hr.Stream]:
    """Statistics of each tag in the last minute, every ten seconds, and in each five minutes. States are left out."""
    return _measured(_rows(watermark_seconds), tags)


def _measured(rows: hr.Stream, tags: str) -> dict[str, hr.Stream]:
    """Return the statistics of rows."""
    listed, _ = _tags(tags)
    states = list(chain.from_iterable(_spellings(tag) for tag in listed if tag.interpolation == "stepped"))
    readings = (
        rows.select("fields")
        .unnest("fields", key="tag", value="raw")
        .where(" AND ".join([f"tag NOT IN ({', '.join(map(_quoted, states))})"] * bool(states) or ["TRUE"]))
        .derive(value="TRY_CAST(raw AS DOUBLE)")
        .where("value IS NOT NULL")
    )
    windows = {"scada.metrics.1m": hr.sliding(hr.minutes(1), hr.seconds(10)), "scada.metrics.5m": hr.tumbling(hr.minutes(5))}
    return {
        topic: readings.window(window, by=["tag"]).aggregate(**STATISTICS).select("tag", "window_start", "window_end", *STATISTICS)
        for topic, window in windows.items()
    }


@hr.pipeline("whole", version="1")
def whole(tags: str = "swat", quiet_seconds: int = 60, delay_seconds: float = 2, watermark_seconds: int = 1) -> dict[str, hr.Stream]:
    """What `water`, `metrics` and `alarms` give, by one pipeline, which reads the rows once."""
    return _whole(_rows(watermark_seconds, placed=True), tags, quiet_seconds, delay_seconds)


def _whole(rows: hr.Stream, tags: str, quiet_seconds: int, delay_seconds: float) -> dict[str, hr.Stream]:
    """Return all that the system makes of rows that say where they are."""
    return {
        **_watched(rows, tags, (), "sample", quiet_seconds, active=False, every_record=False, time=False),
        **_measured(rows, tags),
        **_alarmed(rows, tags, delay_seconds),
    }
