"""The water plant in InfluxDB: each query of its Grafana dashboards finds rows in what its plant file writes.

No Flux runs here. A small interpreter of the test selects and groups as Flux does, over the points that were sent; VictoriaMetrics has
stored the same numbers.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import shutil
import subprocess
from collections import defaultdict
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from test_influx import Influx, home, log, victoria
from test_influx_lines import line
from test_mqtt_out import fill

from headrace.cli import main
from headrace.cli.plant import target_for
from headrace.connectors.forward import Forward
from headrace.connectors.influx_lines import Lines
from headrace.plant.file import Out, read_plant
from headrace.simulate import Water
from headrace.topics.sqlite import SqliteLog
from victoria import LIMIT, Victoria

__all__ = ["home", "log", "victoria"]

Row = dict[str, Any]
SECONDS, START = 380, 1_704_067_200_000
BUCKETS = {"processed": "processed_data", "alerts": "alerts"}
SENSORS = """from(bucket: "processed_data")
  |> range(start: -5m)
  |> filter(fn: (r) => r._measurement == "scada_data")"""
ACTIVE = """from(bucket: "alerts")
  |> range(start: -1h)
  |> filter(fn: (r) => r._measurement == "scada_alerts")
  |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")
  |> filter(fn: (r) => r._measurement == "scada_alerts" and r.active == 1)"""


@pytest.fixture
def folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the template."""
    assert not home.exists()
    folder = tmp_path / "plant"
    assert main(["init", "water-influxdb", "--folder", str(folder)]) == 0
    monkeypatch.chdir(folder)
    for name, value in re.findall(r"^export (\w+)=(.*)$", Path("influxdb.env").read_text(), re.MULTILINE):
        monkeypatch.setenv(name, value)
    return folder


@pytest.fixture
def topics(folder: Path, log: SqliteLog) -> Path:
    """Fill the topics of the template's pipelines."""
    plant = Water(1, ("filter_outlet_closed",), after_s=30, marked=True, bad_share=0.001)
    rows = itertools.chain.from_iterable(itertools.islice(plant.line_batches(START), SECONDS))
    Path("rows.ndjson").write_bytes(b"".join(one.rstrip(b"\n") + b"\n" for one in rows))
    Path("none.ndjson").touch()
    inputs = ["--input", "scada.normal=rows.ndjson", "--input", "scada.attacks=none.ndjson", "--output", "out"]
    assert main(["run", "water", *inputs, "--set", "tags=swat", "--set", "active=true"]) == 0
    assert main(["run", "water:metrics", *inputs]) == 0
    for out in outs():
        fill(log, out.topic, *(text.encode() for text in (folder / "out" / f"{out.topic}.ndjson").read_text().splitlines()))
    return folder


def outs() -> list[Out]:
    plant, mistakes = read_plant(Path("headrace.toml"))
    assert not mistakes
    return list(plant.outs)


def send(log: SqliteLog, out: Out) -> list[str]:
    told: list[str] = []
    with closing(Forward(log, out.topic, target_for(out), f"forward:{out.name}", latest=True, anew=True, told=told.append)) as one:
        asyncio.run(asyncio.wait_for(one.run(), LIMIT))
    return told


def sent(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Row]]:
    """Return the rows that Flux sees, a field of a point each, by bucket."""
    found = defaultdict[str, list[Row]](list)
    for out in outs():
        with Influx().running() as influx:
            monkeypatch.setenv("INFLUXDB_URL", f"http://127.0.0.1:{influx.port}")
            assert send(log, out) == []
            (bucket,) = {re.search(r"bucket=(\w+)", path)[1] for path, _, _ in influx.requests}  # type: ignore[index]
        for (measurement, tags, time), fields in influx.points.items():
            for name, value in fields.items():
                one = value[0] if isinstance(value, tuple) else value
                found[bucket].append({"_measurement": measurement, **dict(tags), "_time": time, "_field": name, "_value": one})
    return found


# Flux, as far as the dashboards need it


def stages(query: str) -> list[tuple[str, str]]:
    """Return the functions of a query with what is in their parentheses."""
    found = [re.fullmatch(r"(\w+)\((.*)\)", stage, re.DOTALL) for stage in query.split("\n  |> ")]
    return [(one[1], one[2]) for one in found if one]


def condition(text: str) -> Any:
    """Return what a filter asks of a row. A column that a row does not have is null, and nothing equals null."""

    def python(found: re.Match[str]) -> str:
        column = f"r.get({found[1]!r})"
        return column if found[2] is None else f"re.search({found[2]!r}, str({column}))"

    body = re.sub(r"\br\.(\w+)(?: =~ /([^/]*)/)?", python, text.partition("=> ")[2])
    return eval(f"lambda r: {body}", {"re": re})


def columns(text: str, name: str = "columns") -> list[str]:
    found = re.search(rf"{name}: \[([^\]]*)\]", text)
    return re.findall(r'"(\w+)"', found[1]) if found else []


def grouped(rows: list[Row], by: list[str]) -> list[list[Row]]:
    tables = defaultdict[tuple[Any, ...], list[Row]](list)
    for row in rows:
        tables[tuple(row.get(name) for name in by)].append(row)
    return list(tables.values())


class Selected:
    """The rows that a query selects, before they are counted or averaged; a method for each function of Flux."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        names = ("_measurement", "_field", "alert_id", "alert_type", "severity", "data_type", "tag")
        self.by = [name for name in names if any(name in row for row in rows)]

    def tables(self) -> list[list[Row]]:
        return grouped(self.rows, self.by)

    def filter(self, text: str) -> None:
        self.rows = list(filter(condition(text), self.rows))

    def group(self, text: str) -> None:
        self.by = columns(text)

    def sort(self, text: str) -> None:
        self.rows = sorted(self.rows, key=lambda row: row[columns(text)[0]], reverse="desc: true" in text)

    def last(self, _: str) -> None:
        assert all(table == sorted(table, key=lambda row: row["_time"]) for table in self.tables())
        self.rows = [table[-1] for table in self.tables()]

    def pivot(self, _: str) -> None:
        self.by = [name for name in self.by if name != "_field"]
        points = grouped(self.rows, [*self.by, "_time"])
        kept = ({name: one for name, one in table[0].items() if name not in {"_field", "_value"}} for table in points)
        self.rows = [one | {row["_field"]: row["_value"] for row in table} for one, table in zip(kept, points, strict=True)]

    def keep(self, text: str) -> None:
        self.rows = [{name: row[name] for name in columns(text) if name in row} for row in self.rows]

    def map(self, text: str) -> None:
        if 'time(v: r._value + "Z")' in text:
            assert all(datetime.fromisoformat(row["_value"] + "Z").tzinfo for row in self.rows)
        self.rows = [{**row, "_value": 0.0} for row in self.rows]

    def windowed(self, text: str) -> None:
        kinds = [{type(row["_value"]) for row in table} for table in self.tables()]
        assert all(len(kind) == 1 for kind in kinds)
        assert "fn: mean" not in text or all(kind <= {float, int} for kind in kinds)

    def sum(self, _: str) -> None:
        self.windowed("fn: mean")

    def passed(self, _: str) -> None: ...

    FUNCTIONS = {"aggregateWindow": "windowed", **dict.fromkeys(["range", "count", "limit", "distinct"], "passed")}


def run(query: str, buckets: dict[str, list[Row]], source: str = "") -> list[Row]:
    """Return the rows that a query selects."""
    query = query.replace("v.defaultBucket", f'"{source}"').replace("${tag}", "LIT101")
    (first, bucket), *rest = stages(query)
    assert first == "from"
    selected = Selected(buckets[json.loads(bucket.removeprefix("bucket: "))])
    for function, text in rest:
        known = set(itertools.chain.from_iterable(selected.rows)) | {"_value", "_time"}
        named = set(re.findall(r"\br\.(\w+)", text)) | {*columns(text)}
        assert named <= known, f"{function} names {named - known}, which no row has"
        getattr(selected, Selected.FUNCTIONS.get(function, function))(text)
    return selected.rows


def queries() -> list[tuple[str, str, str]]:
    """Return the title, the data source and the Flux of each query of the dashboards."""
    found = []
    for file in sorted(Path("grafana/dashboards").glob("*.json")):
        board = json.loads(file.read_text())
        for panel in board["panels"]:
            for target in panel["targets"]:
                assert target["datasource"] == panel["datasource"]
                found.append((f"{board['title']}: {panel['title']}", target["datasource"]["uid"], target["query"]))
        variables = board["templating"]["list"]
        found += [(f"{board['title']}: {one['name']}", one["datasource"]["uid"], one["query"]) for one in variables]
    return found


@pytest.mark.usefixtures("topics")
def test_every_query_of_the_dashboards_finds_rows(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    buckets = sent(log, monkeypatch)
    assert set(buckets) == {"processed_data", "alerts"}
    assert len({row["_time"] for row in run(SENSORS, buckets)}) == SECONDS
    alerts = [json.loads(text) for text in Path("out/scada.alerts.ndjson").read_text().splitlines()]
    assert len(run(ACTIVE, buckets)) == sum(one["active"] for one in alerts) < len(alerts)
    last = {one["alert_id"]: one["active"] for one in alerts}
    found = dict.fromkeys(last, 0)
    for title, uid, query in queries():
        rows = run(query, buckets, BUCKETS[uid])
        if title.endswith("Active alerts, newest first"):
            found |= {row["alert_id"]: 1 for row in rows}
        assert rows, title
    assert found == last
    assert set(last.values()) == {0, 1}


@pytest.mark.usefixtures("topics")
def test_victoria_metrics_has_the_numbers_that_were_sent(log: SqliteLog, victoria: Victoria, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = defaultdict[tuple[tuple[str, str], ...], list[tuple[int, float]]](list)
    for rows in sent(log, monkeypatch).values():
        for row in rows:
            if not isinstance(row["_value"], str):
                name = ("__name__", f"{row['_measurement']}_{row['_field']}")
                tags = ((tag, value) for tag, value in row.items() if tag[0] != "_")
                wanted[tuple(sorted([name, *tags]))].append((row["_time"] // 10**6, row["_value"]))
    monkeypatch.setenv("INFLUXDB_URL", victoria.url)
    for out in outs():
        assert send(log, out) == []
    found = victoria.series()
    assert wanted.keys() <= found.keys()  # it reads numbers in texts too
    for labels, values in wanted.items():  # it keeps 12 digits
        assert [time for time, _ in found[labels]] == sorted(time for time, _ in values)
        assert [value for _, value in found[labels]] == pytest.approx([value for _, value in sorted(values)], rel=1e-9)
    assert {"scada_data_LIT101", "scada_data_avg_pressure", "scada_alerts_active", "scada_metrics_deviation"} <= {
        dict(labels)["__name__"] for labels in wanted
    }


@pytest.mark.usefixtures("folder")
def test_grafana_finds_the_data_sources_and_dashboards() -> None:
    sources = Path("grafana/provisioning/datasources/influxdb.yml").read_text()
    assert re.findall(r"uid: (\w+)", sources) == list(BUCKETS)
    assert re.findall(r"defaultBucket: (\S+)", sources) == ["$INFLUXDB_BUCKET", "$INFLUXDB_ALERT_BUCKET"]
    variables = set(re.findall(r"^export (\w+)=", Path("influxdb.env").read_text(), re.MULTILINE))
    assert set(re.findall(r"\$(\w+)", sources)) < variables
    compose = Path("compose.yml").read_text()
    assert set(re.findall(r"\$\{(\w+):\?", compose)) == variables - {"INFLUXDB_URL"}
    assert "./grafana/dashboards:/etc/grafana/dashboards:ro" in compose
    assert "path: /etc/grafana/dashboards" in Path("grafana/provisioning/dashboards/dashboards.yml").read_text()
    assert all(port.startswith("127.0.0.1:") for port in re.findall(r'ports: \["([^"]*)"\]', compose))
    boards = [json.loads(file.read_text()) for file in sorted(Path("grafana/dashboards").glob("*.json"))]
    assert [board["uid"] for board in boards] == ["water-alerts", "water-anomalies", "water-performance", "water-sensors"]
    for board in boards:
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    if shutil.which("docker-compose"):
        done = subprocess.run(["docker-compose", "config", "--quiet"], check=False, capture_output=True, text=True, timeout=LIMIT)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("folder")
def test_the_plant_has_the_alarms_and_the_picture_of_the_water_plant(capsys: pytest.CaptureFixture[str]) -> None:
    plant, mistakes = read_plant(Path("headrace.toml"))
    assert (mistakes, plant.page is not None and plant.page.picture, "alarm-commands" in plant.external) == ([], "water.svg", True)
    assert main(["check"]) == main(["init", "water-influxdb", "--folder", "other"]) == 0
    said = capsys.readouterr().out
    assert "cd other; . ./influxdb.env; docker compose up -d; headrace check; headrace up\n" in said, "variables are read first"
    assert ("51 tags, 1 source, 4 pipelines, 3 targets" in said, "alarms.current" in said) == (True, True), said


def test_texts_that_are_numbers_are_floats_where_the_address_says_so() -> None:
    record = {"time": 1, "FIT101": "2.5", "LIT101": "Bad Input", "P101": "2", "FIT102": 3, "FIT103": "1e999", "FIT104": " 7 "}
    assert line(record, numbers=["FIT*", "LIT101"])[2] == {"FIT101": 2.5, "P101": "2", "FIT102": 3.0, "FIT104": 7.0}
    assert Lines.of(numbers=["F*"]).line("m", b'{"time":1,"f":"1","F":"1"}') == b'm f="1",F=1.0 1000000'
