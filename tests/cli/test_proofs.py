"""`headrace prove`: a few kills of each kind of pipeline on SQLite and on Kafka; `make test-long` kills hundreds of times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from broker import Shared, kafka
from headrace.cli import main
from headrace.topics.failpoints import POINTS

__all__ = ["kafka"]

PIPELINES = """
import headrace as hr

def events():
    return hr.stream("events", schema={"k": "STRING NOT NULL", "t": "BIGINT", "v": "DOUBLE"}, event_time="TO_TIMESTAMP_LTZ(t, 3)", watermark=hr.seconds(2))

@hr.pipeline("revised", version="1")
def revised():
    window = events().window(hr.sliding(hr.seconds(20), hr.seconds(5)), by=["k"], allowed_lateness=hr.seconds(3)).late_to("late")
    return {"out": window.aggregate(n="COUNT(*)", mean="AVG(v)", last="LAST_VALUE(v)")}

@hr.pipeline("through", version="1")
def through():
    return {"out": events().where("v > 1").derive(double="v * 2")}

class Acknowledged:
    output = {"what": "STRING", "at": "BIGINT", "n": "BIGINT", "by": "DOUBLE"}
    state = {"n": hr.Value("BIGINT", 0), "by": hr.Value("DOUBLE")}

    def on_record(self, row, state):
        state.n += 1
        state.set_timer("timer", state.time + 700)
        return self.said("record", state) if state.n % 5 == 0 else None

    def on_command(self, row, state):
        state.by = row["v"]
        return self.said("command", state)

    def on_timer(self, name, state):
        return self.said(name, state)

    def said(self, what, state):
        return {"what": what, "at": state.time, "n": state.n, "by": state.by}

@hr.pipeline("changing", version="1")
def changing(least: float = 1.0):
    rows = events().where("v > :least")
    return {"out": rows.window(hr.tumbling(hr.seconds(20)), by=["k"]).aggregate(n="COUNT(*)", mean="AVG(v)"), "rows": rows.select("k", "v")}

@hr.pipeline("commanded", version="1")
def commanded():
    commands = hr.stream("commands", schema={"k": "STRING", "t": "BIGINT", "v": "DOUBLE"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
    return {"out": events().process(Acknowledged, by=["k"], inputs={"command": hr.input(commands, late="take", holds=False)})}
"""

CHANGED = """
import headrace as hr
from apps import events

@hr.pipeline("changing", version="1")
def changed(least: float = 5.0):
    rows = events().where("v > :least").derive(low="v < 8")
    windows = rows.window(hr.tumbling(hr.seconds(20)), by=["k"]).aggregate(n="COUNT(*)", mean="AVG(v)")
    return {"out": windows.derive(least=":least"), "fives": rows.window(hr.tumbling(hr.seconds(5)), by=["k"], name="fives").aggregate(n="COUNT(*)")}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("HEADRACE_HOME", "KAFKA_SERVERS", "KAFKA_BOOTSTRAP_SERVERS", "HEADRACE_TOPIC_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def proved(capfd: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Prove a pipeline, and count its kills for the summary of long runs."""

    def prove(app: str, kills: int, *options: str) -> None:
        assert main(["prove", app, "--kills", str(kills), *options]) == 0
        last = capfd.readouterr().out.splitlines()[-1]
        assert f"{app}: proved. {kills} kills at random, {len(POINTS)} at the steps of a commit" in last
        record_property("kills", kills + len(POINTS))

    return prove


def events(folder: Path) -> None:
    """Write a file of two pipelines, and one of events."""
    (folder / "apps.py").write_text(PIPELINES)
    (folder / "changed.py").write_text(CHANGED)
    lines = [b'{"k":"%d","t":%d,"v":%d}\n' % (n % 3, 1_700_000_000_000 + n * 100 - n % 61 * 150, n % 17) for n in range(4_000)]
    lines[500::1000] = [b'{"k":"7","t":"soon"}\n'] * 4
    (folder / "events.ndjson").write_bytes(b"".join(lines))
    commands = [b'{"k":"%d","t":%d,"v":%d}\n' % (n % 3, 1_700_000_000_000 + n * 4_000 - n % 7 * 3_000 + 2_000, n) for n in range(100)]
    (folder / "commands.ndjson").write_bytes(b"".join(commands))


def test_a_few_kills_of_processes(proved: Callable[..., None]) -> None:
    proved("rules", 3, "--records", "5000")


@pytest.mark.parametrize("name", ["revised", "through"])
def test_a_few_kills_of_pipelines_with_revisions_and_without_windows(name: str, proved: Callable[..., None], folder: Path) -> None:
    events(folder)
    proved(f"apps.py:{name}", 3, "--input", "events.ndjson", "--partitions", "2")


def test_a_few_kills_of_a_process_that_does_not_wait_for_its_commands(proved: Callable[..., None], folder: Path) -> None:
    events(folder)
    proved("apps.py:commanded", 3, "--input", "events=events.ndjson", "--input", "commands=commands.ndjson", "--partitions", "2")


def test_a_few_kills_around_a_change_of_outputs_columns_and_windows(proved: Callable[..., None], folder: Path) -> None:
    events(folder)
    proved("apps.py:changing", 2, "--input", "events.ndjson", "--partitions", "2", "--change", "changed.py", "--change", "least=6")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["apps.py:through"], "--change: pipeline through is another than changing; name a change of the same pipeline"),
        (["least=1"], "--change: pipeline changing is the same behind it; give a setting another value, or another APP"),
        (["changed.py", "apps.py:changing"], "--change: there is one change, and one pipeline behind it; give KEY=VALUE … and at most one APP"),
        (["lest=1"], "setting 'lest'"),
    ],
)
def test_what_is_no_change_is_refused(change: list[str], message: str, capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    events(folder)
    given = [word for one in change for word in ("--change", one)]
    assert main(["prove", "apps.py:changing", "--input", "events.ndjson", *given]) == 2
    assert message in capfd.readouterr().err


def test_a_few_kills_on_kafka(proved: Callable[..., None], kafka: Shared) -> None:
    proved("fingerprint", 3, "--records", "5000", "--partitions", "2", "--kafka-servers", kafka.servers)


@pytest.mark.long
@pytest.mark.parametrize(("seed", "partitions"), [(1, 1), (2, 2), (3, 3), (4, 2)])
def test_fifty_kills_on_sqlite(seed: int, partitions: int, proved: Callable[..., None]) -> None:
    proved("fingerprint", 50, "--seed", str(seed), "--partitions", str(partitions))


@pytest.mark.long
def test_kills_of_processes(proved: Callable[..., None]) -> None:
    proved("rules", 25, "--records", "20000")


@pytest.mark.long
@pytest.mark.parametrize("name", ["revised", "through"])
def test_kills_of_pipelines_with_revisions_and_without_windows(name: str, proved: Callable[..., None], folder: Path) -> None:
    events(folder)
    proved(f"apps.py:{name}", 15, "--input", "events.ndjson", "--partitions", "2")


@pytest.mark.long
def test_kills_of_a_process_that_does_not_wait_for_its_commands(proved: Callable[..., None], folder: Path) -> None:
    events(folder)
    proved("apps.py:commanded", 15, "--input", "events=events.ndjson", "--input", "commands=commands.ndjson", "--partitions", "2")


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2])
def test_a_dozen_and_more_kills_on_kafka(seed: int, proved: Callable[..., None], kafka: Shared) -> None:
    options = ["--seed", str(seed), "--records", "20000", "--partitions", str(seed), "--kafka-servers", kafka.servers]
    proved("fingerprint", 15, *options)


@pytest.mark.long
def test_kills_of_processes_on_kafka(proved: Callable[..., None], kafka: Shared) -> None:
    proved("rules", 10, "--records", "15000", "--kafka-servers", kafka.servers)


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2])
def test_kills_around_a_change(seed: int, proved: Callable[..., None], folder: Path) -> None:
    events(folder)
    options = ["--seed", str(seed), "--partitions", str(seed), "--change", "changed.py"]
    proved("apps.py:changing", 25, "--input", "events.ndjson", *options)
    proved("rules", 25, "--records", "20000", "--seed", str(seed), "--change", "high=80", "--change", "silence_seconds=20")


@pytest.mark.long
def test_kills_around_a_change_on_kafka(proved: Callable[..., None], kafka: Shared) -> None:
    proved("rules", 10, "--records", "15000", "--change", "high=80", "--change", "in_a_row=2", "--kafka-servers", kafka.servers)
