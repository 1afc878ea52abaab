"""The page of a plant."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headrace.console.watching import Group, Watching
from headrace.plant.reading import reading_of
from headrace.topics.dead_letters import DeadLetter, encode_dead_letter
from headrace.topics.sqlite import SqliteLog
from running_plant import LIMIT, Up, up
from waiting import wait_for

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
CSV = """time,tag,value
2026-01-05T08:00:00Z,TT-1,71.5
2026-01-05T08:00:00Z,PT-1,9.5
2026-01-05T08:00:30Z,TT-1,96.25
2026-01-05T08:01:00Z,PT-1,Bad Input
"""


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    with closing(SqliteLog(tmp_path / "log.db")) as one:
        one.create("readings")
        yield one


@pytest.fixture
def watching(tmp_path: Path, log: SqliteLog) -> Iterator[Watching]:
    assert log.topics(), "there is a log"
    with closing(
        Watching(lambda: SqliteLog(tmp_path / "log.db"), ["readings", "none"], 2, lambda: [Group("bridge:readings", "in", "source")])
    ) as one:
        yield one


def test_the_latest_values_and_what_has_changed_since(log: SqliteLog, watching: Watching) -> None:
    log.append("readings", [reading_of("a", number, number).encode() for number in range(1000)])
    log.append("readings", [b"no json", b'{"tag": 1}', b"[]", b'{"tag":"b","time":5,"value":"on"}', b'{"tag":"\xff","time":1}'])
    found = wait_for(lambda: len((seen := watching.values(0))["values"]) == 2 and seen, "both tags", seconds=LIMIT)
    assert found["values"] == [("a", 999, 999, 0, None), ("b", 5, "on", 0, None)]
    assert watching.values(found["number"])["values"] == []
    assert [point[1] for point in watching.trend("a")] == list(range(400, 1000)), "the history is bounded"
    assert (watching.trend("b"), watching.trend("c")) == ([(5, None, 0)], [])
    log.append("readings", [reading_of("b", 2.5, 6).encode(), reading_of("b", 1.5, 4).encode()])
    changed = wait_for(lambda: watching.values(found["number"])["values"], "the change", seconds=LIMIT)
    assert changed == [("b", 6, 2.5, 0, None)], "an older one does not take the place of the latest"


def test_a_record_that_cannot_be_shown_is_passed_over(log: SqliteLog, watching: Watching) -> None:
    deep = "[" * 50_000
    fields = [
        f'"x":{deep}',
        f'"value":{"1" * 400}',
        '"time":9000000000000000',
        '"time":-1e18',
        '"quality":-1',
        '"quality":99999999999',
        f'"tag":"{"t" * 1001}"',
    ]
    log.append("readings", [f'{{"tag":"bad","time":5,{one}}}'.encode() for one in fields])
    log.append("readings", [b'{"tag":"long","time":5,"value":"' + b"v" * 100_000 + b'"}', b'{"tag":"b","time":5,"value":18446744073709551616}'])
    log.create("readings.dead-letter")
    letters = [deep, f'{{"offset":{"9" * 30}}}', '{"reason":[1]}', '{"raw":5}', '{"topic":"readings","reason":"malformed"}']
    log.append("readings.dead-letter", [one.encode() for one in letters])
    values = wait_for(lambda: len((seen := watching.values(0))["values"]) == 2 and seen, "the two that can be shown", seconds=LIMIT)
    assert [(row[0], row[2]) for row in values["values"]] == [("long", "v" * 400 + "…"), ("b", 2.0**64)]
    state = wait_for(lambda: (seen := watching.state())["letters"] and seen, "the letter", seconds=LIMIT)
    assert [(one["topic"], one["reason"], one["raw"]) for one in state["letters"]] == [("readings", "malformed", "")]
    assert msgspec.json.encode((values, state))


def test_topics_ledgers_and_dead_letters(log: SqliteLog, watching: Watching) -> None:
    log.create("readings.dead-letter")
    log.append("readings.dead-letter", [encode_dead_letter("p", DeadLetter("readings", 0, 7, "malformed", "is no JSON", 5, "x" * 1000))[:-1], b"[1]"])
    log.append("readings", [b'{"tag":"a","time":1}'])
    state = wait_for(lambda: len((seen := watching.state())["letters"]) == 1 and seen["topics"][0]["last"] and seen, "the letter", seconds=LIMIT)
    (letter,) = state["letters"]
    assert (letter["topic"], letter["offset"], letter["reason"], letter["detail"], len(letter["raw"])) == (
        "readings",
        7,
        "malformed",
        "is no JSON",
        400,
    )
    assert [(one["name"], one["records"]) for one in state["topics"]] == [("readings", 1), ("readings.dead-letter", 2)]
    assert state["ledgers"] == {"source": {"ledger": {}, "lag": None}}


def test_a_log_that_cannot_be_read_is_a_fault_that_is_shown(tmp_path: Path) -> None:
    (tmp_path / "log.db").write_bytes(b"no log" * 1000)
    with closing(Watching(lambda: SqliteLog(tmp_path / "log.db"), ["readings"], 0, list)) as watching:
        assert wait_for(lambda: watching.values(0)["fault"], "the fault", seconds=LIMIT)


class Page:
    def __init__(self, running: Up) -> None:
        url: str = running.wait_for(lambda: [one["why"] for one in running.said() if one.get("part") == "page" and "why" in one], "the page")[0]
        self.url, self.port = url, int(url.rstrip("/").rpartition(":")[2])

    def get(self, path: str, host: str | None = None) -> tuple[int, str, bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)) as one:
            one.request("GET", path, headers={} if host is None else {"Host": host})
            answer = one.getresponse()
            return answer.status, answer.headers["Content-Type"], answer.read()

    def json(self, path: str) -> Any:
        status, kind, body = self.get(path)
        assert (status, kind) == (200, "application/json")
        return json.loads(body)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    from headrace.cli import main

    monkeypatch.chdir(tmp_path)
    for name in ("HEADRACE_HOME", "KAFKA_SERVERS"):
        monkeypatch.delenv(name, raising=False)
    assert main(["init", "csv"]) == 0
    Path("readings.csv").write_text(CSV)
    Path("headrace.toml").write_text(Path("headrace.toml").read_text().replace("port = 8000", "port = 0"))
    with up() as running:
        yield Page(running)
        assert running.end() == 0


def test_a_running_plant_has_a_page(page: Page) -> None:
    plant = page.json("/api/plant")
    assert (plant["name"], plant["zone"], [tag["path"] for tag in plant["tags"]]) == ("works", "UTC", ["works/boiler/TT-1", "works/boiler/PT-1"])
    assert plant["tags"][0] == {
        "path": "works/boiler/TT-1", "name": "Boiler temperature", "unit": "°C", "stepped": False, "low": 0, "high": 150, "l": 40, "h": 95
    }  # fmt: skip
    values = wait_for(lambda: len(found := page.json("/api/values?since=0")["values"]) == 2 and found, "values of both tags", seconds=LIMIT)
    assert values == [["works/boiler/TT-1", 1767600030000, 96.25, 0, "°C"], ["works/boiler/PT-1", 1767600060000, None, 0x809B0000, "bar"]]
    assert page.json("/api/trend?tag=works/boiler/PT-1") == [[1767600000000, 9.5, 0], [1767600060000, None, 0x809B0000]]
    assert page.json("/api/trend?tag=none") == page.json("/api/trend") == []
    assert page.json("/api/values?since=x")["values"] == values

    def ledgers() -> Any:
        state = page.json("/api/state")
        counted = {name: sum(counts["received"] for counts in one["ledger"].values()) for name, one in state["ledgers"].items()}
        return counted == {"readings": 4, "minutes": 4, "minutes-file": 3} and state

    state = wait_for(ledgers, "the ledgers", seconds=LIMIT)
    assert [(one["name"], one["kind"]) for one in state["parts"]] == [
        ("readings", "in"),
        ("minutes", "pipeline"),
        ("minutes-file", "out"),
        ("page", "page"),
    ]
    assert page.json("/health") == {"status": "ok"}
    metrics = page.get("/metrics")[2].decode()
    assert all(f'pipeline="{name}"' in metrics for name in ("bridge:readings", "minutes", "forward:minutes-file"))
    assert metrics.count("# TYPE headrace_ledger_records gauge") == 1


def test_a_log_that_is_removed_is_a_fault_on_the_page_and_of_each_part_and_none_is_made_in_its_place(page: Page) -> None:
    wait_for(lambda: len(page.json("/api/values?since=0")["values"]) == 2, "values of both tags", seconds=LIMIT)
    for file in Path(".headrace").glob("log.db*"):
        file.unlink()
    wait_for(lambda: "was removed while the plant runs" in page.json("/api/values?since=0")["fault"], "the fault on the page", seconds=LIMIT)

    def reasons() -> list[str]:
        return [part["reason"] for part in page.json("/api/state")["parts"] if part["kind"] == "pipeline"]

    wait_for(lambda: all("was removed while the plant runs" in why for why in reasons()), "the fault of the pipeline", seconds=LIMIT)
    assert page.json("/api/values?since=0")["fault"]
    assert not [*Path(".headrace").glob("log.db*")]


def test_it_answers_its_own_names_alone_and_its_files_are_there(page: Page) -> None:
    assert page.get("/", "plant.example")[0] == 421
    assert page.get("/none")[0] == 404
    status, kind, html = page.get("/")
    assert (status, kind) == (200, "text/html; charset=utf-8")
    for name in ("page.js", "page.css", "vendor/uPlot.iife.min.js", "vendor/uPlot.min.css"):
        assert f"/{name}".encode() in html
        assert page.get(f"/{name}")[0] == 200
    for name in re.findall(rb'from "./([a-z]+.js)"', b"".join(page.get(f"/{one}")[2] for one in ("page.js", "alarms.js", "picture.js", "trend.js"))):
        assert page.get(f"/{name.decode()}")[0] == 200
    assert b"innerHTML" not in page.get("/page.js")[2], "text is only ever set as text"


def test_what_others_wrote_is_as_they_published_it() -> None:
    folder = files("headrace.console") / "plant" / "vendor"
    listed = dict(line.split()[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert {one.name: sha256(one.read_bytes()).hexdigest() for one in folder.iterdir() if one.name != "SHA256SUMS"} == listed
    assert "MIT License" in (folder / "uPlot.LICENSE").read_text()
    project = tomllib.loads(PROJECT.read_text())["project"]
    assert (project["license"], project["license-files"][1:]) == ("Apache-2.0 AND MIT", ["src/headrace/console/plant/vendor/uPlot.LICENSE"])


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium")
def test_a_browser_shows_tags_with_their_limits_and_quality(page: Page, tmp_path: Path) -> None:
    wait_for(lambda: len(page.json("/api/values?since=0")["values"]) == 2, "values of both tags", seconds=LIMIT)
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/browser", "--virtual-time-budget=5000"]
    done = subprocess.run([*browser, "--dump-dom", f"{page.url}#works%2Fboiler%2FTT-1"], capture_output=True, text=True, timeout=LIMIT, check=True)
    for shown in ("works / boiler", "96.25 H", "°C", "bad 0x809B0000", "2 tags, 1 without good quality", "minutes-file", "live"):
        assert shown in done.stdout
    assert "Boiler temperature: 96.25 °C</figcaption>" in done.stdout
