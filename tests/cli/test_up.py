"""A plant file checked, and its parts run by `headrace up`."""

from __future__ import annotations

import json
import os
import plistlib
import pty
import re
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from calling import called
from connectors.plant_servers import PlantServer
from headrace.cli.init import TEMPLATES
from headrace.plant.quality import Quality
from headrace.topics.sqlite import SqliteLog
from mosquitto import Mosquitto, mosquitto
from ports import free_port
from running_plant import HEADRACE, LIMIT, up
from serving import Server

__all__ = ["mosquitto"]

TARGET = """
import json
from pathlib import Path

from headrace.connectors.protocol import Target

class Lines(Target):
    def __init__(self, path):
        self.name, self._path = f"lines:{path}", Path(path)

    async def send(self, records):
        known = set(self._path.read_text().split()) if self._path.exists() else set()
        with self._path.open("a") as file:
            file.writelines(f"{one.id}\\n" for one in records if one.id not in known)

def target(address):
    return Lines(address.partition(":")[2].partition("?")[0])
"""
COPY = """
import headrace as hr

@hr.pipeline("copy", version="1")
def copy(least: float = 0.0):
    events = hr.stream("events", schema={"GeneratorID": "STRING", "timestamp": "BIGINT"}, event_time="TO_TIMESTAMP_LTZ(timestamp, 3)")
    return {"copied": events.select("GeneratorID", "timestamp")}
"""
PLANT = """
[plant]
name = "generators"

[[in]]
name = "stream"
from = "{url}"
to = "events"

[[pipeline]]
app = "copy.py"

[[out]]
name = "lines"
from = "copied"
to = "target.py:lines.txt"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("HEADRACE_HOME", "KAFKA_SERVERS", "EQUIPMENT_IDS", "SENSOR_IDS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "target.py").write_text(TARGET)
    (tmp_path / "copy.py").write_text(COPY)
    return tmp_path


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    one.start()
    yield one
    one.end()


def sent() -> list[str]:
    file = Path("lines.txt")
    return file.read_text().split() if file.exists() else []


def records(topic: str) -> list[Any]:
    with closing(SqliteLog(Path(".headrace/log.db"))) as log:
        there = topic in {info.name for info in log.topics()}
        return [json.loads(one.value) for one in log.entries(topic, 0, 0, 100_000)] if there else []


def test_a_plant_that_is_killed_and_stopped_loses_nothing_and_repeats_nothing(server: Server) -> None:
    Path("headrace.toml").write_text(PLANT.format(url=server.url("count=3000&rate=600")))
    for least in (300, 900):
        with up() as running:
            running.wait_for(lambda least=least: len(sent()) >= least, "records at the target")
            assert running.end(signal.SIGKILL) == -signal.SIGKILL
    with up() as running:
        running.wait_for(lambda: len(sent()) >= 1800, "records at the target")
        assert running.end() == 0
        assert running.states("stream")[-1] == running.states("copy")[-1] == running.states("lines")[-1] == "ended"
        order = [one["part"] for one in running.said() if one.get("event") == "ended"][-3:]
        assert order == ["stream", "copy", "lines"], "they end in order"
    with up() as running:
        running.wait_for(lambda: len(sent()) >= 3000, "all records at the target")
        running.wait_for(lambda: running.states("stream")[-1] == "ended", "the source has ended")
        assert running.end(signal.SIGINT) == 0
    events = records("events")
    assert len(events) == 3000
    assert [(one["GeneratorID"], one["timestamp"]) for one in events] == [(one["GeneratorID"], one["timestamp"]) for one in records("copied")]
    assert sent() == [f"copied/0/{number}" for number in range(3000)]
    assert "Traceback" not in running.lines.read_text()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_kills_at_any_moment(server: Server, seed: int) -> None:
    dice = Random(seed)
    Path("headrace.toml").write_text(PLANT.format(url=server.url("count=4000&rate=400")))
    for _ in range(8):
        with up() as running:
            with suppress(subprocess.TimeoutExpired):
                running.process.wait(dice.uniform(0.3, 4.0))
            running.end(signal.SIGKILL)
    Path("up.err").unlink()
    with up() as running:
        running.wait_for(lambda: running.states("stream"), "the source has begun")  # all may have come before; then it is as good as ended
        running.wait_for(lambda: len(sent()) >= 4000, "all records at the target")
        assert running.end() == 0
    assert sent() == [f"copied/0/{number}" for number in range(4000)]
    assert [one["timestamp"] for one in records("copied")] == [one["timestamp"] for one in records("events")]


def test_a_source_that_is_away_is_waited_for_while_the_others_run() -> None:
    server = Server()
    Path("headrace.toml").write_text(PLANT.format(url=server.url("count=50&rate=0")))
    with up() as running:
        running.wait_for(lambda: "waiting" in running.states("stream"), "the source waits")
        running.wait_for(lambda: "running" in running.states("copy"), "the pipeline runs")
        server.start()
        try:
            running.wait_for(lambda: len(sent()) == 50, "records at the target")
            state = json.loads(Path(".headrace/up.json").read_text())
            assert (state["pid"], state["plant"]) == (running.process.pid, "generators")
            assert {one["name"]: one["kind"] for one in state["parts"]} == {"stream": "in", "copy": "pipeline", "lines": "out"}
            assert running.end() == 0
        finally:
            server.end()


def test_a_part_that_fails_for_good_leaves_the_others_running_and_the_status_is_1(server: Server) -> None:
    failing = "\n[[in]]\nname = 'bad'\nfrom = 'bad.py:x'\nto = 'other'\n"
    Path("bad.py").write_text(
        "from headrace.connectors.protocol import Source\nfrom headrace.errors import DataError\n"
        "class Bad(Source):\n    name = 'bad'\n    async def open(self, position):\n        raise DataError('is not what it was', fix='look')\n"
        "def source(address):\n    return Bad()\n"
    )
    Path("headrace.toml").write_text(PLANT.format(url=server.url("count=20&rate=0")) + failing)
    with up() as running:
        running.wait_for(lambda: "failed" in running.states("bad"), "the part has failed")
        running.wait_for(lambda: len(sent()) == 20, "records at the target")
        assert running.end() == 1
    assert "headrace: bad: failed for good; look at their lines above" in running.lines.read_text()
    assert [one["why"] for one in running.said() if one["event"] == "failed"] == ["is not what it was; look"]


def test_a_fault_of_a_connector_restarts_it() -> None:
    Path("shaky.py").write_text(
        "from pathlib import Path\nfrom headrace.connectors.protocol import Event, Source\n"
        "class Shaky(Source):\n    name = 'shaky'\n    async def open(self, position):\n"
        "        tries = Path('tries')\n        tries.write_text((tries.read_text() if tries.exists() else '') + 'x')\n"
        "        if len(tries.read_text()) < 3:\n            raise ZeroDivisionError('by zero')\n"
        "        return None if position else self._events()\n"
        '    async def _events(self):\n        yield Event(b\'{"timestamp": 1700000000000, "GeneratorID": "g"}\', 1)\n'
        "def source(address):\n    return Shaky()\n"
    )
    Path("headrace.toml").write_text(PLANT.format(url="shaky.py:x"))
    with up() as running:
        running.wait_for(lambda: len(sent()) == 1, "the record at the target")
        assert running.end() == 0
    whys = [one["why"] for one in running.said() if one["event"] == "waiting"]
    (why,) = (one for one in whys if "ZeroDivisionError" in one)  # the same fault is reported once
    assert why.startswith("not foreseen: ZeroDivisionError: by zero, at ")
    assert why.endswith("shaky.py line 9")


def test_one_part_runs_alone(server: Server) -> None:
    Path("headrace.toml").write_text(PLANT.format(url=server.url("count=20&rate=0")))
    with up("stream") as one:
        assert one.process.wait(LIMIT) == 0, "a source that has ended was all there was"
    assert (len(records("events")), sent(), one.states("copy")) == (20, [], [])
    with up("copy") as pipeline, up("lines") as out:
        out.wait_for(lambda: len(sent()) == 20, "records at the target")
        assert (pipeline.end(), out.end()) == (0, 0)


def test_a_second_process_is_refused(server: Server) -> None:
    Path("headrace.toml").write_text(PLANT.format(url=server.url("rate=10")))
    with up() as running:
        running.wait_for(sent, "records at the target")
        second = called("up")
        assert second.returncode == 1
        assert f"process {running.process.pid} runs it" in second.stderr
        assert running.end() == 0


def test_another_folder_and_part(folder: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    inner = folder / "inner"
    inner.mkdir()
    for name in ("copy.py", "target.py"):
        (folder / name).rename(inner / name)
    (inner / "headrace.toml").write_text(PLANT.format(url="simulate:generators"))
    status, out, _ = run("check", "inner/headrace.toml")
    assert (status, out.splitlines()) == (
        0,
        [
            "inner/headrace.toml: plant generators is sound: 0 tags, 1 source, 1 pipeline, 1 target",
            "in        stream: → events",
            "pipeline  copy: events → copied",
            "out       lines: copied →",
        ],
    )
    assert run("up", "strem", "--plant", str(inner / "headrace.toml"))[::2] == (
        2,
        "headrace: PART: there is no part 'strem'; did you mean 'stream'?\n",
    )


def test_a_page_beyond_this_machine_is_said(run: Callable[..., tuple[int, str, str]]) -> None:
    Path("headrace.toml").write_text("[page]\nhost = '0.0.0.0'\n")
    status, _, err = run("check")
    assert status == 0
    assert err.startswith("headrace: headrace.toml line 2, column 1: the page is served beyond this machine, to anyone who reaches 0.0.0.0")


def mistakes(run: Callable[..., tuple[int, str, str]], text: str) -> list[str]:
    Path("headrace.toml").write_text(text)
    status, out, err = run("check")
    assert (status, out) == (2, "")
    assert "Traceback" not in err
    return [line.removeprefix("headrace: ").removeprefix("headrace.toml ") for line in err.splitlines()]


LOOPED = """
import headrace as hr

def copied(name, read, written):
    @hr.pipeline(name, version="1")
    def copy():
        return {written: hr.stream(read, schema={"t": "BIGINT"}).where("t > 0")}
    return copy

there, back, on = copied("there", "a", "b"), copied("back", "b", "a"), copied("on", "b", "c")
"""


def test_pipelines_that_read_each_others_results_are_named(run: Callable[..., tuple[int, str, str]]) -> None:
    Path("looped.py").write_text(LOOPED)
    parts = {name: f"[[pipeline]]\napp = 'looped.py:{name}'\n" for name in ("on", "there", "back")}
    Path("headrace.toml").write_text("[plant]\nexternal = ['a']\n" + parts["there"] + parts["on"])
    assert run("check")[::2] == (0, "")
    Path("headrace.toml").write_text("".join(parts.values()))
    status, _, err = run("check")
    assert status == 0
    assert err.startswith("headrace: headrace.toml line 6, column 1: a cycle through topics, in which records may circulate for ever: ")
    named = err.partition("for ever: ")[2].split(" → ")
    assert {one.strip() for one in named} == {"topic a", "topic b", "pipeline there", "pipeline back"}


def test_a_sound_plant_file_is_checked(run: Callable[..., tuple[int, str, str]]) -> None:
    text = PLANT.format(url="http://127.0.0.1:1/") + "\n[copy]\nleast = 3\n"
    Path("headrace.toml").write_text(text)
    assert run("check")[0] == 0
    assert run("plan", "copy.py")[0] == 0, "the same table is that of the pipeline's settings"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("", ["line 5, column 1: nobody fills the topic 'sensor-data'; add an [[in]] with to = 'sensor-data', or name it in external of [plant]"]),
        ("[[in]]\nfrom = 'gopher://h'\nto = 'sensor-data'", "there is no connector for 'gopher'; write an address such as"),
        ("[[in]]\nfrom = 'simulate:kilm'\nto = 'sensor-data'", "there is no simulated plant 'kilm'; did you mean 'kiln'?"),
        ("[[in]]\nfrom = 'simulate:kiln'\nto = 'sensor-data'\nsed = 3", "has no parameter 'sed'; did you mean 'seed'?"),
        ("[[in]]\nfrom = 'target.py:x'\nto = 'sensor-data'", "cannot be bridged from 'target.py:x'; its connector has no source(address)"),
        ("[[in]]\nfrom = 'none.py:x'\nto = 'sensor-data'", "none.py: there is no such file; name a Python file that defines a connector"),
        ("[[in]]\nfrom = 'simulate:kiln'\nto = 'sensor-dat'", "nobody fills the topic 'sensor-data'; did you mean 'sensor-dat'? Else add an [[in]]"),
        (
            "[[in]]\nfrom = 'simulate:kiln'\nto = 'sensor-data'\n[[in]]\nfrom = 'simulate:kiln'\nto = 'fingerprint-output'",
            "pipeline fingerprint writes the topic 'fingerprint-output', which has another writer; give it a topic of its own",
        ),
        ("[[in]]\nfrom = 'simulate:kiln'\nto = 'sensor-data'\nname = 'fingerprint'", "two parts have the name 'fingerprint'"),
        ("[[in]]\nfrom = 'simulate:kiln'\nto = 'sensor-data'\n[[out]]\nfrom = 'x'\nto = 'simulate:kiln'", "there is no connector for 'simulate'"),
        ("settings = {window_size_minuts = 1}", "line 7, column 13: pipeline fingerprint has no setting 'window_size_minuts'; did you mean"),
        ("settings = {window_size_minutes = 'x'}", "line 7, column 13: setting window_size_minutes = 'x' is no int"),
        ("[fingerprint]\nwindow_size = 1", "line 8, column 1: pipeline fingerprint has no setting 'window_size'"),
        (
            "settings = {watermark_seconds = 1}\n[fingerprint]\nwatermark_seconds = 1",
            "line 7, column 13: setting watermark_seconds is also in [fingerprint]; remove one of them",
        ),
        ("idle_after = 'soon'", "--idle-after: 'soon' is not a duration"),
        ("[[pipeline]]\napp = 'none.py'", "line 8, column 1: none.py: there is no such file"),
        ("[[pipeline]]\napp = 'broken.py'", "broken.py line 1: ZeroDivisionError: division by zero"),
        ("[tags]\nfile = 'tags.csv'", "tags.csv line 2, column unit: unknown unit 'C'; did you mean 'CEL' (°C)?"),
        ("[[in]]\nfrom = 'simulate:kiln'\nto = 'sensor-data'\nname = 'page'\n[page]", "a part has the name 'page', which is that of [page]"),
        ("[page]\npicture = 'none.svg'", "line 8, column 1: picture none.svg cannot be read: No such file or directory; name an SVG file"),
        ("[page]\npicture = 'tags.csv'", "picture tags.csv is no SVG"),
        ("[tags]\nfile = 'none.csv'", "none.csv: cannot be read: No such file or directory"),
    ],
)
def test_a_mistake_of_a_plant_file(run: Callable[..., tuple[int, str, str]], more: str, says: str | list[str]) -> None:
    Path("broken.py").write_text("1 / 0\n")
    Path("tags.csv").write_text("path,unit\na,C\n")
    found = mistakes(run, f"[plant]\nname = 'kiln'\n\n[[pipeline]]\napp = 'fingerprint'\n\n{more}\n")
    if isinstance(says, list):
        assert found == says
    else:
        assert any(says in line for line in found), found


def test_all_mistakes_of_a_plant_file_are_reported_at_once(run: Callable[..., tuple[int, str, str]]) -> None:
    found = mistakes(
        run, "[plant]\nzone = 'x'\n[[in]]\nfrom = 'gopher://h'\nto = 'a'\n[[pipeline]]\napp = 'fingerprnt'\n[[out]]\nto = 'target.py:x'\n"
    )
    assert [line.split(":")[0] for line in found] == [f"line {line}, column 1" for line in (2, 4, 7, 8)]


def test_secrets_are_expanded_late_and_never_shown(run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("shown.py").write_text(
        "from headrace.connectors.protocol import Source\nfrom headrace.errors import PlanError\n"
        "def source(address):\n    assert address.endswith('?token=t%20k&file=from%20a%20file'), address\n    raise PlanError('was asked')\n"
    )
    Path("secret.txt").write_text("from a file\nmore\n")
    text = "[[in]]\nfrom = 'shown.py:${USER_NAME}'\nto = 'a'\ntoken = '${TOKEN}'\nfile = 'file:secret.txt'\n"
    Path("headrace.toml").write_text(text)
    status, _, err = run("check")
    assert (status, err) == (0, "headrace: headrace.toml line 2, column 1: the variable TOKEN is not set; export TOKEN=…\n")
    monkeypatch.setenv("TOKEN", "t k")
    assert run("check")[::2] == (0, "headrace: headrace.toml line 2, column 1: the variable USER_NAME is not set; export USER_NAME=…\n")
    monkeypatch.setenv("USER_NAME", "u")
    assert mistakes(run, text) == ["line 2, column 1: was asked"]


# reload


def reload() -> tuple[int, str, str]:
    done = called("reload")
    return done.returncode, done.stdout, done.stderr


def test_a_reload_restarts_what_has_changed_and_loses_nothing(server: Server) -> None:
    text = PLANT.format(url=server.url("count=2000&rate=400"))
    Path("headrace.toml").write_text(text)
    assert reload()[0] == 2
    with up() as running:
        running.wait_for(lambda: len(sent()) >= 200, "records at the target")
        Path("headrace.toml").write_text(text.replace('app = "copy.py"', 'app = "copy.py"\nsettings = {least = 5}'))
        assert reload() == (0, "started:   copy\nunchanged: lines, stream\n", "")
        Path("copy.py").write_text(COPY.replace('"timestamp")}', '"timestamp", other="1")}'))
        assert reload()[1] == "started:   copy\nunchanged: lines, stream\n"
        Path("headrace.toml").write_text(text + "\n[[in]]\nfrom = 'simulate:generators'\nto = 'more'\n")
        assert reload()[1] == "started:   more, copy\nunchanged: lines, stream\n"
        running.wait_for(lambda: records("more"), "records of the new source")
        Path("headrace.toml").write_text(text + "\n[[inn]]\n")
        assert reload()[0] == 2, "the mistake is found before the plant is told"
        running.process.send_signal(signal.SIGHUP)
        running.wait_for(lambda: any(one["event"] == "not reloaded" for one in running.said()), "the line")
        Path("headrace.toml").write_text(text)
        assert reload()[1] == "stopped:   more\nunchanged: copy, lines, stream\n"
        running.wait_for(lambda: len(sent()) >= 2000, "all records at the target")
        assert running.end() == 0
    assert sent() == [f"copied/0/{number}" for number in range(2000)]
    assert [one["timestamp"] for one in records("copied")] == [one["timestamp"] for one in records("events")]


# init and service


@pytest.mark.parametrize("template", TEMPLATES)
def test_each_template_is_a_sound_plant(run: Callable[..., tuple[int, str, str]], template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "TOKEN", "ORG", "BUCKET", "ALERT_BUCKET"):
        monkeypatch.setenv(f"INFLUXDB_{name}", "http://127.0.0.1:8086" if name == "URL" else "works")
    status, out, _ = run("init", template, "--folder", template)
    assert (status, "headrace check; headrace up" in out) == (0, True)
    assert run("init", template, "--folder", template)[0] == 2, "nothing is written over"
    assert run("check", f"{template}/headrace.toml")[::2] == (0, "")


def test_the_template_for_a_csv_file_runs(run: Callable[..., tuple[int, str, str]]) -> None:
    assert run("init", "csv")[0] == 0
    Path("headrace.toml").write_text(Path("headrace.toml").read_text().replace("port = 8000", "port = 0"))
    file = Path("minutes.ndjson")
    with up() as running:
        running.wait_for(lambda: file.exists() and len(file.read_text().splitlines()) == 4, "statistics of two minutes and two tags")
        assert running.end(signal.SIGKILL) == -signal.SIGKILL
    with Path("readings.csv").open("a") as more:
        more.write("2026-01-05T08:05:00Z,TT-1,70\n2026-01-05T08:05:01Z,XX-9,1\nsoon,TT-1,1\n2026-01-05T08:05:02Z,TT-1,999\n2026-01-05T08:05:0")
    with up() as running:
        running.wait_for(lambda: len(file.read_text().splitlines()) == 6, "statistics of another minute")
        assert running.end() == 0
    written = [json.loads(line) for line in file.read_text().splitlines()]
    assert [one["id"] for one in written] == [f"minutes-output/0/{number}" for number in range(6)]
    assert [(one["record"]["tag"], one["record"]["readings"], one["record"]["good"], one["record"]["max"]) for one in written] == [
        ("works/boiler/PT-1", 2, 1, 4.2),
        ("works/boiler/TT-1", 2, 2, 72.1),
        ("works/boiler/PT-1", 1, 1, 4.4),
        ("works/boiler/TT-1", 1, 1, 72.8),
        ("XX-9", 1, 1, 1),
        ("works/boiler/TT-1", 2, 1, 70),
    ]
    assert [(one["detail"], one["raw"]) for one in records("readings.dead-letter")] == [
        ("readings.csv: the time 'soon' is not ISO 8601", '{"time":"soon","tag":"TT-1","value":"1"}')
    ]


def test_the_template_for_the_water_plant_shows_an_attack(run: Callable[..., tuple[int, str, str]]) -> None:
    assert run("init", "water")[0] == 0
    Path("headrace.toml").write_text(Path("headrace.toml").read_text().replace("port = 8000", "port = 0").replace("after = 30", "after = 1"))
    file = Path("alerts.ndjson")
    with up() as running:
        running.wait_for(lambda: file.exists() and file.read_text().endswith("\n"), "the alert of an attack")
        alarm = running.wait_for(lambda: [json.loads(line) for line in run("alarms", "list", "--json")[1].splitlines()], "the alarm")[-1]
        assert running.end() == 0
    assert (alarm["alarm_id"], alarm["state"]) == ("water/stage3/DPIT301/H", "unacknowledged")
    alert = json.loads(file.read_text().splitlines()[0])["record"]
    assert (alert["alert_id"], alert["message"], alert["active"]) == ("ALERT_000001", "Attack detected: filter_outlet_closed", 1)


def test_init_names_the_templates(run: Callable[..., tuple[int, str, str]]) -> None:
    assert "there is no template 'kilm'; did you mean 'kiln'?" in run("init", "kilm")[2]
    assert run("init")[::2] == (2, f"headrace: TEMPLATE: no template is named; name one of {', '.join(TEMPLATES)}\n")


@pytest.mark.parametrize(
    ("answer", "says"), [(b"2\n", b"Wrote headrace.toml"), (b"kilm\n", b"did you mean 'kiln'?"), (b"\x04", b"no template is named")]
)
def test_init_asks_on_a_terminal(answer: bytes, says: bytes) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([HEADRACE, "init"], stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        with suppress(OSError):  # the terminal is gone with the process
            while b"? " not in said:
                said += os.read(ours, 65_536)
            os.write(ours, answer)
            while part := os.read(ours, 65_536):
                said += part
    os.close(ours)
    assert says in said and b"Traceback" not in said
    assert (process.returncode, Path("headrace.toml").exists()) == ((0, True) if answer == b"2\n" else (2, False))


def test_service_prints_a_unit_and_a_launchd_file(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    folder = tmp_path / "a b%"
    folder.mkdir()
    (folder / "headrace.toml").write_text("[plant]\nname = 'x<y>'\n")
    status, unit, _ = run("service", "systemd", "--plant", str(folder / "headrace.toml"))
    assert status == 0
    doubled = str(folder).replace("%", "%%")
    assert f'ExecStart={HEADRACE} up --plant "{doubled}/headrace.toml"\n' in unit
    assert f'WorkingDirectory={doubled}\nEnvironment="HEADRACE_HOME={doubled}/.headrace"\n' in unit
    status, plist, _ = run("service", "launchd", "--plant", str(folder / "headrace.toml"))
    found = plistlib.loads(plist.encode())
    assert (status, found["Label"], found["ProgramArguments"]) == (0, "headrace.x<y>", [HEADRACE, "up", "--plant", f"{folder}/headrace.toml"])


def test_the_template_for_mqtt_runs(run: Callable[..., tuple[int, str, str]], mosquitto: Mosquitto) -> None:
    assert run("init", "mqtt")[0] == 0
    text = Path("headrace.toml").read_text().replace("mqtt://127.0.0.1:1883", mosquitto.address).replace("port = 8000", "port = 0")
    Path("headrace.toml").write_text(text.replace("settings = {minutes = 1}", "settings = {minutes = 1, late_seconds = 0}"))
    with up() as running:
        running.wait_for(lambda: running.states("readings")[-1:] == ["running"], "the broker has answered")
        mosquitto.publish("plant/boiler/TT-1/state", '{"v": 71.5}', '{"v": 72.5}')
        found = running.wait_for(lambda: records("readings") if len(records("readings")) == 2 else None, "both readings")
        assert running.end() == 0
    assert [(one["tag"], one["value"], one["quality"]) for one in found] == [("boiler/TT-1", 71.5, 0), ("boiler/TT-1", 72.5, 0)]


def test_the_tutorial_shows_live_values_of_an_opc_ua_server_and_of_a_broker(mosquitto: Mosquitto) -> None:
    page = Path(__file__).parents[2] / "docs" / "first-page.md"
    (text,) = re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    simulations = re.findall(r"^headrace (simulate plc .*)$", page.read_text(), re.MULTILINE)
    opc = free_port()

    def placed(one: str) -> str:
        moved = one.replace("mqtt://127.0.0.1:1883", mosquitto.address).replace("mqtt://127.0.0.1/", f"{mosquitto.address}/")
        return moved.replace("127.0.0.1:4840", f"127.0.0.1:{opc}").replace("port = 8000", "port = 0")

    Path("headrace.toml").write_text(placed(text))
    with ExitStack() as stack:
        for one in simulations:
            process = stack.enter_context(subprocess.Popen([HEADRACE, *placed(one).split()], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            stack.callback(process.kill)
        running = stack.enter_context(up())
        (address,) = running.wait_for(
            lambda: [one["why"] for one in running.said() if (one.get("part"), one["event"]) == ("page", "running")], "page"
        )

        def shown() -> dict[str, list[Any]] | None:
            with urllib.request.urlopen(f"{address}api/values?since=0", timeout=LIMIT) as answer:
                values = {one[0]: one for one in json.load(answer)["values"]}
            return values if len(values) == 16 and all(one[3] == 0 for one in values.values()) else None

        values = running.wait_for(shown, "the values of two controllers, from the server and from the broker")
        assert running.end() == 0
    assert len(simulations) == 2
    assert {one[4] for one in values.values()} == {"r/min", "kW", "bar", "°C"}
    assert {path for path in values if path.startswith("mqtt/")} == {f"mqtt/{path}" for path in values if not path.startswith("mqtt/")}


def test_the_template_for_opc_ua_runs_with_a_list_of_tags_of_which_one_is_renamed(run: Callable[..., tuple[int, str, str]]) -> None:
    assert run("init", "opcua")[0] == 0
    Path("tags.csv").write_text("path,unit,low,high,source\nworks/line 1/temperature,CEL,0,20,ns=2;s=Temp\n")
    with PlantServer("opc_server", json.dumps({"values": {"Temp": 21.5, "Other": 5}, "units": {"Temp": "CEL"}})) as server:
        text = Path("headrace.toml").read_text().replace("127.0.0.1:4840", f"127.0.0.1:{server.port}/plant/").replace("port = 8000", "port = 0")
        Path("headrace.toml").write_text(text.replace('interval = "500ms"', 'interval = "50ms"\ntags = "tags.csv"'))
        with up() as running:
            running.wait_for(lambda: records("readings"), "the reading")
            Path("tags.csv").write_text("path,unit,low,high,source\nworks/kiln/temperature,CEL,0,30,ns=2;s=Temp\n")
            assert reload()[1] == "started:   readings\nunchanged: minutes, minutes-file, page\n"
            found = running.wait_for(lambda: len(records("readings")) == 2 and records("readings"), "the reading under its new name")
            assert running.end() == 0
    assert [(one["tag"], one["value"], one["quality"], one["unit"]) for one in found] == [
        ("works/line 1/temperature", 21.5, Quality.UNCERTAIN_ENGINEERING_UNITS_EXCEEDED, "CEL"), ("works/kiln/temperature", 21.5, Quality.GOOD, "CEL"),
    ]  # fmt: skip
