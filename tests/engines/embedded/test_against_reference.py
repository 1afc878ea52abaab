"""The engine gives what the reference gives, over random pipelines and random input."""

from __future__ import annotations

import base64
import json
import math
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import headrace as hr
from engines.embedded.pipelines import write_inputs
from headrace.apps.fingerprint import fingerprint
from headrace.engines.embedded.run import run_files
from headrace.plan.pipeline import Plan
from reference import Branch, LocalWindow, Outcome, Row, Source, Window, over, run, value_or_null
from repeated import examples

START = 1_704_067_200_000  # 2024
YEAR = 365 * 86_400_000
COLUMNS = {"k": "STRING", "n": "BIGINT", "t": "BIGINT NOT NULL", "x": "DOUBLE", "data": "MAP<STRING, STRING>"}
BROKEN = [
    b"{", b"[1]", b"7", b"null", b'{"t": 1}', b'{"k": "a"}', b'{"t": null}', b'{"t": "soon"}', b'{"t": 1704067200}', b'{"t": 4102444800000}',
    b'{"t": 1704067200000.5}', b'{"t": 1704067200000, "x": "high"}', b'{"t": 1704067200000, "x": NaN}', b'{"t": 1704067200000, "data": []}',
    b'{"t": 1704067200000}{"t": 1704067200000}', b'{"t": 1704067200000, "k": "\xff"}', b'{"t": 1704067200000, "k": "a\tb"}', b'{"t": 01}',
]  # fmt: skip
BLANK = [b"", b"  ", b"\r"]

# The family of pipelines


@dataclass(frozen=True)
class Job:
    """A pipeline of the family, as headrace has it and as the reference has it.

    Its topics' rows are filtered in one or more ways; the union of what is left goes into the window (of the first topic alone, if it
    stands `apart`), into the window `beside` it, and if `raw` also out as it is.
    """

    window: Window
    delays: tuple[int, ...] = (0,)
    unnested: bool = False
    ways: tuple[str, ...] = ("TRUE",)
    keys: tuple[str, ...] = ()
    lateness: int = 0
    late_to: str | None = None
    having: str = "TRUE"
    regroup: tuple[str, ...] | None = None
    raw: bool = False
    beside: Window | None = None
    apart: bool = False
    start: int = START

    @property
    def topics(self) -> list[str]:
        return [f"in-{number}" for number in range(len(self.delays))]

    def plan(self) -> Plan:
        return hr.pipeline("job", version="1")(self._build).plan()

    def _build(self) -> dict[str, hr.Stream]:
        first, *others = (
            hr.stream(topic, schema=COLUMNS, event_time="TO_TIMESTAMP_LTZ(t, 3)", watermark=hr.milliseconds(delay))
            for topic, delay in zip(self.topics, self.delays, strict=True)
        )
        rows = self._shaped(first.union(*others) if others else first)
        windowed = (self._shaped(first) if self.apart else rows).window(
            window_of(self.window), by=self.keys, allowed_lateness=hr.milliseconds(self.lateness)
        )
        result = (windowed.late_to(self.late_to) if self.late_to else windowed).aggregate(**{name: text for name, (text, _) in AGGREGATES.items()})
        result = result.where(self.having)
        if self.regroup is not None:
            result = result.aggregate(by=self.regroup, **{name: text for name, (text, _) in SECOND.items()})
        sinks = {"out": result, "raw": rows} if self.raw else {"out": result}
        if self.beside:
            sinks["beside"] = rows.window(window_of(self.beside), by=["k"], allowed_lateness=hr.seconds(3)).aggregate(all="ARRAY_AGG(t)")
        return sinks

    def _shaped(self, stream: hr.Stream) -> hr.Stream:
        if self.unnested:
            stream = stream.unnest("data", key="s", value="raw").derive(x="TRY_CAST(raw AS DOUBLE)")
        first, *others = (stream.where(way) for way in self.ways)
        return first.union(*others) if others else first

    def branches(self) -> list[Branch]:
        calls, second = ({name: call for name, (_, call) in calls.items()} for calls in (AGGREGATES, SECOND))
        branches = [
            Branch(
                "out", self.topics[:1] if self.apart else self.topics, self._rows, self.window, self.keys, calls, self.lateness, self.late_to,
                PREDICATES[self.having], None if self.regroup is None else (self.regroup, second),
            )
        ]  # fmt: skip
        if self.raw:
            branches.append(Branch("raw", self.topics, self._rows))
        if self.beside:
            branches.append(Branch("beside", self.topics, self._rows, self.beside, ("k",), {"all": over("ARRAY_AGG", "t")}, 3 * SECOND_MS))
        return branches

    def _rows(self, _: str, record: Row) -> list[Row]:
        rest = {name: value for name, value in record.items() if name != "data"}
        entries = [rest | {"s": s, "raw": raw, "x": value_or_null(raw, "DOUBLE")} for s, raw in (record["data"] or {}).items()]
        return [row for way in self.ways for row in (entries if self.unnested else [record]) if PREDICATES[way](row)]


def window_of(window: Window) -> hr.Window:
    lengths: list[Any] = [hr.milliseconds(window.size), *([] if window.kind == "tumbling" else [hr.milliseconds(window.step)])]
    if not isinstance(window, LocalWindow):
        return getattr(hr, window.kind)(*lengths)
    if window.months:
        lengths = [hr.months(round(length / lengths[-1]) * window.months) for length in lengths]
    return getattr(hr, window.kind)(*lengths, offset=hr.milliseconds(window.offset), zone=None if window.zone == "UTC" else window.zone)


AGGREGATES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "rows": ("COUNT(*)", over("COUNT")), "values": ("COUNT(x)", over("COUNT", "x")), "total": ("SUM(x)", over("SUM", "x")), "sum": ("SUM(n)", over("SUM", "n")),
    "low": ("MIN(x)", over("MIN", "x")), "high": ("MAX(n)", over("MAX", "n")), "mean": ("AVG(x)", over("AVG", "x")), "mid": ("MEDIAN(x)", over("MEDIAN", "x")),
    "spread": ("STDDEV_POP(x)", over("STDDEV_POP", "x")), "first": ("FIRST_VALUE(x)", over("FIRST_VALUE", "x")), "all": ("ARRAY_AGG(n)", over("ARRAY_AGG", "n")),
    "last": ("LAST_VALUE(t)", over("LAST_VALUE", "t")), "ones": ("COUNT(1)", over("COUNT")), "halves": ("SUM(0.5)", lambda rows: 0.5 * len(rows)),
    "same": ("ARRAY_AGG(CONCAT('a', 'b'))", lambda rows: ["ab"] * len(rows)), "flat": ("STDDEV_POP(2.5)", lambda _: 0.0),
}  # fmt: skip
SECOND: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "groups": ("COUNT(*)", over("COUNT")), "of": ("SUM(rows)", over("SUM", "rows")), "means": ("ARRAY_AGG(mean)", over("ARRAY_AGG", "mean")),
    "top": ("MAX(high)", over("MAX", "high")), "lasts": ("LAST_VALUE(last)", over("LAST_VALUE", "last")), "ones": ("COUNT('x')", over("COUNT")),
    "sevens": ("SUM(7)", lambda rows: 7 * len(rows)),
}  # fmt: skip
PREDICATES: dict[str, Callable[[Row], bool]] = {
    "TRUE": lambda _: True,
    "x > 0": lambda row: row["x"] is not None and row["x"] > 0,
    "n IS NOT NULL": lambda row: row["n"] is not None,
    "rows > 1": lambda row: row["rows"] > 1,
    "'a' = 'b'": lambda _: False,
    "x > 1e9": lambda row: row["x"] is not None and row["x"] > 1e9,
}
SECOND_MS, MINUTE_MS, HOUR_MS = 1000, 60_000, 3_600_000
WINDOWS = [
    Window("tumbling", 10 * SECOND_MS, 10 * SECOND_MS), Window("tumbling", 7, 7), Window("tumbling", 150 * SECOND_MS, 150 * SECOND_MS),
    Window("sliding", 30 * SECOND_MS, 10 * SECOND_MS), Window("sliding", 4 * MINUTE_MS, 2 * MINUTE_MS), Window("sliding", 5, 5),
    Window("cumulating", 40 * SECOND_MS, 10 * SECOND_MS), Window("cumulating", 6 * MINUTE_MS, 3 * MINUTE_MS),
]  # fmt: skip
# With the times at which their clocks change, or a month ends.
LOCAL_WINDOWS = [
    (LocalWindow("tumbling", 10 * SECOND_MS, 10 * SECOND_MS, 3 * SECOND_MS), START),
    (LocalWindow("sliding", 4 * MINUTE_MS, 2 * MINUTE_MS, MINUTE_MS), START),
    (LocalWindow("cumulating", 6 * MINUTE_MS, 3 * MINUTE_MS, 7_001), START),
    (LocalWindow("tumbling", 8 * HOUR_MS, 8 * HOUR_MS, 6 * HOUR_MS, "Europe/Berlin"), 1_711_846_800_000),
    (LocalWindow("tumbling", 8 * HOUR_MS, 8 * HOUR_MS, 6 * HOUR_MS, "Europe/Berlin"), 1_729_990_800_000),
    (LocalWindow("tumbling", HOUR_MS // 2, HOUR_MS // 2, 0, "Europe/Berlin"), 1_729_987_200_000),
    (LocalWindow("sliding", 2 * HOUR_MS, HOUR_MS // 2, 0, "Australia/Lord_Howe"), 1_712_412_000_000),
    (LocalWindow("sliding", 2 * HOUR_MS, HOUR_MS // 2, 0, "Europe/Berlin"), 1_711_843_200_000),
    (LocalWindow("cumulating", 24 * HOUR_MS, HOUR_MS, 0, "Europe/Berlin"), 1_711_836_000_000),
    (LocalWindow("cumulating", 24 * HOUR_MS, HOUR_MS, 0, "America/St_Johns"), 1_289_088_000_000),
    (LocalWindow("tumbling", 24 * HOUR_MS, 24 * HOUR_MS, 0, "Pacific/Apia"), 1_325_066_400_000),
    (LocalWindow("tumbling", 744 * HOUR_MS, 744 * HOUR_MS, 6 * HOUR_MS, "Europe/Berlin", 1), 1_706_000_000_000),
    (LocalWindow("sliding", 3 * 744 * HOUR_MS, 744 * HOUR_MS, 0, "Asia/Kolkata", 1), 1_706_000_000_000),
]


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    window, start = draw(st.sampled_from([(one, START) for one in WINDOWS] + LOCAL_WINDOWS))
    spans = st.sampled_from([0, window.step // 2, window.step, 2 * window.step + 1])
    unnested = draw(st.booleans())
    raw, beside = draw(st.booleans()), draw(st.none() | st.sampled_from([*WINDOWS[3:], LOCAL_WINDOWS[3][0], LOCAL_WINDOWS[8][0]]))
    keys = draw(st.sampled_from([(), ("k",), ("k", "n"), ("n", "k"), *([("k", "s"), ("s",)] if unnested else [])]))
    return Job(
        window,
        tuple(draw(st.lists(spans, min_size=1, max_size=2))),
        unnested,
        tuple(draw(st.lists(st.sampled_from(["TRUE", "x > 0", "x > 1e9", "n IS NOT NULL", "'a' = 'b'"]), min_size=1, max_size=2))),
        keys,
        draw(st.sampled_from([0, 0, window.step // 2, window.step, 3 * window.step])),
        draw(st.sampled_from([None, "too-late"])),
        draw(st.sampled_from(["TRUE", "rows > 1"])),
        draw(st.none() | st.sampled_from([(), keys[:1], keys[1:]])),
        raw,
        beside,
        apart=(raw or beside is not None) and draw(st.booleans()),
        start=start,
    )


# The family of inputs


def entries(job: Job) -> st.SearchStrategy[bytes]:
    """Return a strategy for lines: records on and off the edges of windows, broken ones and blank ones."""
    edges = st.sampled_from([-1, 0, 1, job.window.step // 3, job.lateness - 1, job.lateness, *(delay - 1 for delay in job.delays), *job.delays])
    steps = st.integers(0, 12) | st.sampled_from([0, YEAR // job.window.step])
    times = st.builds(lambda steps, edge: job.start + steps * job.window.step + edge, steps, edges)
    doubles = st.integers(-400, 400).map(lambda quarters: quarters / 4)
    texts = st.sampled_from(["1", "-2.5", "3e2", " 4 ", "null", "off", "", "1e999"])
    records = st.fixed_dictionaries(
        {"t": times},
        optional={
            "k": st.sampled_from(["a", "b", "é", "", None]),
            "n": st.integers(-3, 3) | st.none() | st.just("5"),
            "x": doubles | st.none() | texts.filter(lambda text: value_or_null(text, "DOUBLE") is not None),
            "data": st.none() | st.dictionaries(st.sampled_from(["p", "q", "r"]), texts | st.none() | doubles, max_size=3),
            "more": st.integers(),
        },
    ).map(lambda record: json.dumps(record).encode())
    return st.one_of(records, records, records, records, st.sampled_from(BROKEN + BLANK))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Job, list[Source], int]:
    job = draw(jobs())
    files = st.lists(entries(job), max_size=25).map(lambda lines: b"".join(line + b"\n" for line in lines))
    sources = [
        Source(topic, COLUMNS, draw(st.lists(files, min_size=1, max_size=3)), delay)
        for topic, delay in zip(job.topics, job.delays, strict=True)
    ]  # fmt: skip
    return job, sources, draw(st.sampled_from([1, 40, 300, 1 << 20]))


# The comparison


def run_engine(plan: Plan, sources: list[Source], chunk: int | None = None) -> Outcome:
    """Return what the engine leaves in its output folder."""
    with TemporaryDirectory() as name:
        folder, inputs = Path(name), {}
        for source in sources:
            inputs[source.topic] = [folder / f"{source.topic}.{number}.ndjson" for number in range(len(source.files))]
            for path, data in zip(inputs[source.topic], source.files, strict=True):
                path.write_bytes(data)
        run_files(plan, inputs, folder / "out", chunk=chunk)
        found = {path.name: path.read_bytes() for path in (folder / "out").iterdir()}
    ledger = json.loads(found.pop("ledger.json"))
    assert ledger["pipeline"] == plan.pipeline
    rows = {name.removesuffix(".ndjson"): [json.loads(line) for line in data.splitlines()] for name, data in found.items()}
    dead = {source.topic: rows.pop(f"{source.topic}.dead-letter") for source in sources}
    return Outcome(rows, dead, ledger["sources"])


def assert_same(got: Outcome, expected: Outcome) -> None:
    assert {topic: counts["received"] for topic, counts in got.ledger.items()} == {
        topic: sum(counts.values()) - counts["received"] for topic, counts in got.ledger.items()
    }
    assert got.ledger == expected.ledger
    assert {topic: [letter_of(one) for one in letters] for topic, letters in got.dead.items()} == expected.dead
    assert got.written.keys() == expected.written.keys()
    for topic, rows in expected.written.items():
        assert alike(got.written[topic], rows), f"{topic}:\n" + "\n".join(map(str, differing(got.written[topic], rows)))


def letter_of(found: Row) -> Row:
    """Return a dead letter as the reference has it: its text as bytes, and no detail, which it must have."""
    assert found.pop("detail") and found.pop("pipeline")
    raw = found.pop("raw").encode() if "raw" in found else base64.b64decode(found.pop("raw_base64"))
    return {**found, "raw": raw}


def alike(got: Any, expected: Any) -> bool:
    """Return whether two values are equal in type too, doubles to 9 digits."""
    if isinstance(got, float) and isinstance(expected, float):
        return math.isclose(got, expected, rel_tol=1e-9, abs_tol=1e-9)
    if isinstance(got, dict) and isinstance(expected, dict):
        return list(got) == list(expected) and all(alike(got[key], expected[key]) for key in got)
    if isinstance(got, list) and isinstance(expected, list):
        return len(got) == len(expected) and all(map(alike, got, expected))
    return type(got) is type(expected) and got == expected


def differing(got: list[Row], expected: list[Row]) -> Iterator[tuple[str, Row]]:
    for place in range(max(len(got), len(expected))):
        pair = got[place : place + 1], expected[place : place + 1]
        if not alike(*pair):
            yield from (("got     ", pair[0]), ("expected", pair[1]))


@examples(60, 1500)
@given(cases())
def test_a_pipeline_gives_what_the_reference_gives(case: tuple[Job, list[Source], int]) -> None:
    job, sources, chunk = case
    assert_same(run_engine(job.plan(), sources, chunk), run(sources, job.branches()))


@pytest.mark.parametrize("seed", range(3))
def test_the_fingerprint_app_gives_what_the_reference_gives(seed: int, tmp_path: Path) -> None:
    files = write_inputs(tmp_path, "fingerprint", 500, seed)["sensor-data"]
    columns = {"equip_id": "STRING NOT NULL", "timestamp": "BIGINT", "data": "MAP<STRING, STRING>"}
    source = Source("sensor-data", columns, [file.read_bytes() for file in files], 10 * SECOND_MS, "timestamp")

    def readings(_: str, record: Row) -> list[Row]:
        values = {sensor: value_or_null(raw, "DOUBLE") for sensor, raw in (record["data"] or {}).items()}
        return [{"equip_id": record["equip_id"], "sensor": sensor, "value": value} for sensor, value in values.items() if value is not None]

    statistics = {"min": "MIN", "max": "MAX", "median": "MEDIAN", "mean": "AVG", "std_dev": "STDDEV_POP"}
    per_sensor = {name: over(function, "value") for name, function in statistics.items()}
    data = {"data": lambda rows: {row["sensor"]: {name: row[name] for name in statistics} for row in rows}}
    minute = Window("tumbling", MINUTE_MS, MINUTE_MS)
    branch = Branch("fingerprint-output", ["sensor-data"], readings, minute, ("equip_id", "sensor"), per_sensor, regroup=(("equip_id",), data))
    expected = run([source], [branch])
    assert expected.ledger["sensor-data"]["late"] > 10
    expected.written["fingerprint-output"] = [{"fingerprint": fingerprint_of(row)} for row in expected.written["fingerprint-output"]]
    assert_same(run_engine(fingerprint.plan(), [source]), expected)


def fingerprint_of(row: Row) -> Row:
    """Return a row of the reference as the app shapes it; its id is a UUIDv5 of the design's section 7."""
    start, end = (round(datetime.fromisoformat(row[bound]).timestamp() * 1000) for bound in ("window_start", "window_end"))
    name = uuid.uuid5(uuid.UUID(bytes=b"headrace.uuid.v5"), f"fingerprint/1\x1f{row['equip_id']}\x1f{start}")
    return {"uuid": str(name), "equip_id": row["equip_id"], "type": "kiln", "start_ms": start, "end_ms": end, "data": row["data"]}
