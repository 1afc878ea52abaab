"""The alarms on the page of a plant: listed, acknowledged, shelved and explained over HTTP and in a browser, beside a pipeline that runs."""

from __future__ import annotations

import http.client
import json
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from alarms.alarm_plant import definition
from headrace._clock import now_ms
from headrace.cli.apps import plan_of
from headrace.connectors.progress import Health
from headrace.console import alarming
from headrace.console.plant_pages import PlantPages
from headrace.engines.embedded.live import Live, Patience, run_live
from headrace.gateway.pages import Pages
from headrace.plan.pipeline import Plan
from headrace.plant.tags import Tag, Tags
from headrace.topics import sqlite_file
from headrace.topics.sqlite import SqliteLog
from waiting import wait_for

LIMIT = 400.0
PLANT = """
import headrace as hr

READING = {"tag": "STRING NOT NULL", "time": "BIGINT NOT NULL", "value": "DOUBLE", "quality": "BIGINT"}


@hr.pipeline("plant", version="1")
def plant():
    readings = hr.stream(
        "readings", schema=READING, event_time="TO_TIMESTAMP_LTZ(time, 3)", metadata={"partition": "partition", "offset": "offset"}
    )
    return hr.alarm(readings, hr.alarm_definitions(), hr.alarm_commands(), evidence=True).topics()
"""
PICTURE = b"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100"><title>works</title><script>document.title = "broken"</script>
<image href="/none" onerror="document.title = 'broken'"/><g id="tree"/>
<g data-tag="a/P9"><rect data-show="level" data-low="0" data-high="200" data-bottom="90" data-full="80" width="9" height="0"/><text data-show="value"/></g>
<g data-tag="a/P7" data-on="2"><text data-show="value"/></g></svg>"""
FRAME = """<!doctype html><title>operator</title><iframe id="page" src="/" width="1200" height="800"></iframe><pre id="seen"></pre>
<iframe id="alone" src="/picture.svg"></iframe><script type="module" src="/frame.js"></script>"""
SCRIPT = """
const until = async (what) => {
  for (let looks = 0; looks < 600; looks += 1) {
    const found = what();
    if (found) return found;
    await new Promise((done) => setTimeout(done, 100));
  }
  throw new Error(String(what));
};
const seen = document.getElementById("seen");
try {
  const page = await until(() => document.getElementById("page").contentDocument.getElementById("alarms")?.ownerDocument);
  const row = (name) => [...page.querySelectorAll("#alarms tbody tr")].find((one) => one.textContent.includes(name));
  const button = (name, what) => row(name)?.querySelector(`[data-command=${what}]`);
  (await until(() => button("P8", "acknowledge"))).click();
  await until(() => page.querySelector("#drawing .mark"));
  const drawn = [...page.querySelectorAll("#drawing [data-tag]")].map((one) => `${one.dataset.tag} ${one.getAttribute("class")} ${one.textContent}`);
  seen.append(`drawn: ${drawn.join("; ")} level ${page.querySelector("#drawing [data-show=level]").getAttribute("height")}\n`);
  const alone = await until(() => document.getElementById("alone").contentDocument.querySelector("title"));
  seen.append(`titles: ${page.title}, ${alone.textContent}; tags: ${page.querySelectorAll("#tags tr[data-path='a/P9']").length}\\n`);
  seen.append(`scripts: ${page.querySelectorAll("#drawing script").length}\n`);
  seen.append(`unnamed: ${page.getElementById("alarm-said").textContent} focus ${page.activeElement.id}\\n`);
  page.getElementById("operator").value = "ada";
  button("P8", "acknowledge").click();
  await until(() => page.getElementById("alarm-said").textContent.startsWith("Done"));
  seen.append(`${page.getElementById("alarm-said").textContent}\\n`);
  await until(() => page.activeElement.dataset.command);
  seen.append(`focus on: ${page.activeElement.getAttribute("aria-label")}\\n`);
  button("P9", "explain").click();
  await until(() => page.querySelectorAll("#explanation-body table").length >= 3);
  await until(() => page.querySelector("#explanation-body .plot canvas"));
  seen.append(`explained: ${page.getElementById("explanation").textContent}\\n`);
  page.getElementById("explanation-close").click();
  button("P9", "shelve").click();
  page.getElementById("reason").value = "the valve is being replaced";
  page.getElementById("why-send").click();
  await until(() => page.getElementById("aside-alarms").textContent.includes("P9"));
  seen.append(`aside: ${page.getElementById("aside-alarms").textContent}\\n`);
} catch (error) {
  seen.append(`failed: ${error}\\n`);
}
"""


class Plant:
    """A plant with tags, of which each test has its own, its pipeline of alarms, and its page."""

    def __init__(self, log: SqliteLog, port: int) -> None:
        self.log, self.port = log, port

    def reading(self, tag: str, value: float) -> None:
        self.log.append("readings", [json.dumps({"tag": tag, "time": now_ms(), "value": value, "quality": 0}).encode()], [tag.encode()])

    def ask(self, path: str) -> tuple[int, Any]:
        return self._answer("GET", path, None, {})

    def post(self, command: Any, path: str = "/api/command", **headers: str) -> tuple[int, Any]:
        sent = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
        return self._answer("POST", path, command if isinstance(command, bytes) else json.dumps(command).encode(), sent)

    def _answer(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, Any]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)) as one:
            one.request(method, path, body, headers)
            answer = one.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if answer.headers["Content-Type"] == "application/json" else text.decode()

    def alarm(self, name: str) -> Any:
        return next((one for one in self.ask("/api/alarms")[1]["alarms"] if one["alarm_id"] == name), None)

    def wait_for(self, name: str, state: str | None) -> Any:
        def look() -> Any:
            found = self.alarm(name)
            return (found is None) if state is None else found is not None and found["state"] == state and found

        return wait_for(look, f"{name} {state}", seconds=LIMIT)

    def commands(self) -> int:
        return self.log.topic("alarm-commands").partitions[0].end


class Page:
    name, kind, health = "page", "page", Health("running", 0, "")


def paths_of(plan: Plan, *, commands: bool = True) -> PlantPages:
    tags = Tags([Tag("a/P8", unit="BAR", h=80.0), Tag("a/P9", unit="BAR", h=90.0)])
    return PlantPages(
        "works", "Europe/Berlin", tags, ("readings", "alarm-commands", *plan.topics), lambda: [Page()], [plan], commands=commands, picture=PICTURE
    )


@pytest.fixture(scope="module")
def patience() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_ANSWER_SECONDS", "_LONGEST_SECONDS"):
            patch.setattr(alarming, name, LIMIT)
        yield


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory, patience: None) -> Iterator[Plant]:  # noqa: ARG001
    folder = tmp_path_factory.mktemp("alarmed")
    (folder / "plant.py").write_text(PLANT)
    plan = plan_of(str(folder / "plant.py"), [])
    ended = threading.Event()

    def open_log() -> SqliteLog:
        return SqliteLog(folder / "log.db")

    def work() -> None:
        with closing(open_log()) as log:
            run_live(Live(plan, log, Patience()), stop=ended.is_set, poll_seconds=0.02)

    with closing(open_log()) as log:
        for topic in ("readings", "alarm-definitions", "alarm-commands"):
            log.create(topic)
        lines = [
            *(definition(0, definition="H", tag=f"a/P{n}", kind="H", limit=80.0, priority=3) for n in (2, 8)),
            *(definition(0, definition="H", tag=f"a/P{n}", kind="H", limit=90.0, priority=2, action="open the valve") for n in (1, 3, 9)),
        ]
        log.append("alarm-definitions", lines, [json.loads(line)["tag"].encode() for line in lines])
        thread = threading.Thread(target=work)
        thread.start()
        try:
            with paths_of(plan).reading(open_log) as (shown, asked, posted):
                shown["/frame"] = lambda: (http.HTTPStatus.OK, "text/html; charset=utf-8", FRAME.encode())
                shown["/frame.js"] = lambda: (http.HTTPStatus.OK, "text/javascript; charset=utf-8", SCRIPT.encode())
                with closing(Pages(0, shown, asked, posted)) as server:
                    yield Plant(log, server.port)
        finally:
            ended.set()
            thread.join(LIMIT)
    assert not thread.is_alive()


def test_an_alarm_is_listed_acknowledged_by_one_of_two_operators_and_explained(plant: Plant) -> None:
    plant.reading("a/P1", 85.0)
    plant.reading("a/P1", 95.5)
    row = plant.wait_for("a/P1/H", "unacknowledged")
    assert (row["priority"], row["value"], row["limit"], row["active"], row["action"]) == (2, 95.5, 90.0, True, "open the valve")
    listed = plant.ask("/api/alarms")[1]
    assert (listed["boards"], listed["commands"], listed["total"]) == (1, True, len(listed["alarms"]))
    assert plant.ask(f"/api/alarms?since={listed['number']}")[1]["alarms"] is None, "nothing has changed"

    wanted = {"alarm": "a/P1/H", "topic": "alarms", "command": "acknowledge", "sequence": row["sequence"]}
    status, first = plant.post({**wanted, "by": " ada "})
    assert (status, first["outcome"], first["state"]) == (200, "done", "acknowledged")
    assert (first["alarm"]["state"], first["alarm"]["by"], first["alarm"]["raised"]) == ("acknowledged", "ada", row["raised"])
    status, second = plant.post({**wanted, "by": "bob"})
    assert (status, second["outcome"], second["reason"]) == (200, "refused", "the alarm is acknowledged")
    assert second["alarm"]["by"] == "ada", "the second operator sees who was first"
    record = json.loads(plant.log.entries("alarm-commands", 0, plant.commands() - 1, 1)[0].value)
    assert (record.pop("time") > 0, record) == (
        True,
        {"tag": "a/P1", "definition": "H", "command": "acknowledge", "by": "bob", "sequence": row["sequence"]},
    )

    with closing(http.client.HTTPConnection("127.0.0.1", plant.port, timeout=LIMIT)) as one:
        one.request("GET", "/")
        answer = one.getresponse()
        assert (answer.read()[:15], "frame-ancestors 'self'" in answer.headers["Content-Security-Policy"]) == (b"<!doctype html>", True)
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'; "), "no script in a page or a drawing runs"

    status, found = plant.ask("/api/explanation?alarm=a/P1/H&topic=alarms&sequence=1")
    assert (status, found["state_before"], found["state_after"], found["definition"]["limit"]) == (200, "normal", "acknowledged", 90.0)
    assert [(one["value"], one["event"]) for one in found["readings"]][:2] == [(85.0, None), (95.5, "raise")]
    raised = found["readings"][1]
    assert json.loads(plant.log.entries("readings", 0, raised["offset"], 1)[0].value)["value"] == 95.5
    assert [(one["by"], one["command"]) for one in found["commands"]] == [("ada", "acknowledge"), ("bob", "acknowledge")]

    plant.reading("a/P1", 70.0)
    plant.wait_for("a/P1/H", None)
    status, late = plant.post({**wanted, "by": "eve"})
    assert (status, late["outcome"], late["reason"], late["alarm"]["state"]) == (200, "refused", "occurrence 1 is over", "normal")


def test_alarms_are_shelved_for_a_time_and_records_of_alarms_are_no_readings(plant: Plant) -> None:
    plant.reading("a/P2", 82.0)
    plant.wait_for("a/P2/H", "unacknowledged")
    before = now_ms()
    status, done = plant.post({"alarm": "a/P2/H", "command": "shelve", "by": "ada", "reason": "being repaired", "seconds": 3600})
    assert (status, done["outcome"], done["state"]) == (200, "done", "shelved")
    assert before + 3_600_000 <= plant.wait_for("a/P2/H", "shelved")["until"] <= now_ms() + 3_600_000
    assert plant.post({"alarm": "a/P2/H", "command": "comment", "by": "ada", "reason": "on my way"})[1]["outcome"] == "done"
    assert plant.post({"alarm": "a/P2/H", "command": "unshelve", "by": "bob"})[1]["state"] == "unacknowledged"
    assert plant.wait_for("a/P2/H", "unacknowledged")["sequence"] == 2, "a new occurrence"
    values = {row[0]: row[2] for row in plant.ask("/api/values?since=0")[1]["values"]}
    assert values["a/P2"] == 82.0, "a command, which has a tag and a time, is no value of the tag"
    assert plant.post({"alarm": "a/P2/H", "command": "acknowledge", "by": "ada"})[1]["outcome"] == "done"
    plant.reading("a/P2", 50.0)
    plant.wait_for("a/P2/H", None)


def test_consequences_come_below_their_cause(plant: Plant) -> None:
    for tag in ("a/P2", "a/P1"):
        plant.reading(tag, 95.0)
    sequence = [plant.wait_for(f"{tag}/H", "unacknowledged")["sequence"] for tag in ("a/P2", "a/P1")]
    row = {
        "event": "grouped",
        "alarm_id": "a/P1/H",
        "time": 0,
        "sequence": sequence[1],
        "cause": "a/P2/H",
        "cause_sequence": sequence[0],
        "after_ms": 0,
    }
    plant.log.create("alarms.causes")
    plant.log.append("alarms.causes", [b"no row", json.dumps(row).encode()])
    found = wait_for(lambda: (one := plant.alarm("a/P1/H"))["cause"] and one, "the cause of a/P1/H", seconds=LIMIT)
    assert (found["cause"], found["level"]) == ("a/P2/H", 1)
    names = [one["alarm_id"] for one in plant.ask("/api/alarms")[1]["alarms"]]
    assert names.index("a/P1/H") == names.index("a/P2/H") + 1
    assert plant.alarm("a/P2/H")["consequences"] == 1
    for tag in ("a/P2", "a/P1"):
        plant.reading(tag, 0.0)
        plant.post({"alarm": f"{tag}/H", "command": "acknowledge", "by": "ada"})
        plant.wait_for(f"{tag}/H", None)


def test_what_cannot_be_commanded_is_answered_and_writes_nothing(plant: Plant) -> None:
    good = {"alarm": "a/P3/H", "command": "acknowledge", "by": "ada"}
    plant.reading("a/P3", 96.0)
    plant.wait_for("a/P3/H", "unacknowledged")
    before = plant.commands()
    own, foreign = f"http://127.0.0.1:{plant.port}", "http://plant.example"
    for headers in ({"Origin": foreign}, {"Origin": "null"}, {"Origin": own, "Sec_Fetch_Site": "cross-site"}, {"Origin": f"{own}0"}):
        assert plant.post(good, **headers)[0] == 403, headers
    assert plant.post(good, Host="plant.example", Origin="http://plant.example")[0] == 421
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert plant.post(good, Content_Type=kind)[0] == 415, "what a form can send without asking"
    assert plant.post(b"x" * 70_000)[0] == 413
    for length in ("-1", "1_0", "9" * 30, "x", ""):
        assert plant.post(b"", Content_Length=length)[0] == 413
    assert plant.post(good, path="/api/alarms")[0] == 404
    for body, status, why in [
        (b"{", 400, "cannot be read"),
        (b"[]", 400, "cannot be read"),
        (b'{"x":' + b"[" * 50_000, 400, "cannot be read"),
        ({**good, "more": 1}, 400, "more"),
        ({**good, "by": "  "}, 409, "a name is missing"),
        ({**good, "by": "n" * 201}, 409, "the name has more than 200 characters"),
        ({**good, "command": "comment", "reason": "r" * 10_000}, 409, "the reason has more than 2,000 characters"),
        ({**good, "command": "acknowledged"}, 409, "did you mean 'acknowledge'"),
        ({**good, "alarm": "a/P3/HH"}, 404, "did you mean 'a/P3/H'"),
        ({**good, "alarm": "P3"}, 404, "no alarm 'P3'"),
        ({**good, "topic": "others"}, 404, "no alarm"),
        ({**good, "command": "shelve", "seconds": 60}, 409, "a reason is missing"),
        ({**good, "command": "shelve", "reason": "x"}, 409, "for a time or until the alarm clears"),
        ({**good, "command": "shelve", "reason": "x", "seconds": 1e300}, 409, "give 1 s to a year"),
        ({**good, "command": "comment", "reason": " "}, 409, "a reason is missing"),
    ]:
        found = plant.post(body)
        assert (found[0], why in found[1]["error"]) == (status, True), (body, found)
    assert plant.ask("/api/explanation?alarm=a/P7/H") == (404, {"error": "no alarm 'a/P7/H' has had a transition"})
    assert plant.ask("/api/explanation?alarm=a/P3/H&topic=others")[0] == 404
    assert plant.commands() == before
    assert plant.post(good, Origin=own, Sec_Fetch_Site="same-origin")[1]["outcome"] == "done"
    plant.reading("a/P3", 50.0)
    plant.wait_for("a/P3/H", None)


def test_a_page_beyond_the_loopback_interface_takes_no_commands(tmp_path: Path) -> None:
    (tmp_path / "plant.py").write_text(PLANT)
    with paths_of(plan_of(str(tmp_path / "plant.py"), []), commands=False).reading(lambda: SqliteLog(tmp_path / "log.db")) as (_, asked, posted):
        status, _, body = posted["/api/command"](b'{"alarm": "a/P9/H", "command": "acknowledge", "by": "ada"}')
        assert (status, "accepts no commands" in json.loads(body)["error"]) == (403, True)
        assert json.loads(asked["/api/alarms"]("")[2])["commands"] is False


def test_a_command_that_no_pipeline_carries_out_is_pending_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarming, "_ANSWER_SECONDS", 0.1)
    (tmp_path / "plant.py").write_text(PLANT)
    row = {"alarm_id": "a/P9/H", "priority": 1, "state": "unacknowledged", "sequence": 1, "time": 5, "value": 1.5, "limit": 1.0, "by": "system"}
    with closing(SqliteLog(tmp_path / "log.db")) as log:
        for topic in ("alarms", "alarms.current", "alarm-commands"):
            log.create(topic)
        wrong: list[Any] = [
            {"alarm_id": []},
            {"priority": "high"},
            {"state": 5},
            {"time": 10**17},
            {"value": "9"},
            {"attack": "T0855"},
            {"until": -1},
        ]
        log.append("alarms.current", [b"no json", b"[1]", b"{}", b"[" * 50_000, *(json.dumps(row | one).encode() for one in wrong)])
        log.append("alarms.current", [json.dumps(row).encode()])
        with paths_of(plan_of(str(tmp_path / "plant.py"), [])).reading(lambda: SqliteLog(tmp_path / "log.db")) as (_, asked, posted):
            found = json.loads(posted["/api/command"](b'{"alarm": "a/P9/H", "command": "acknowledge", "by": "ada"}')[2])
            assert (found["outcome"], found["alarm"]["state"]) == ("pending", "unacknowledged")
            assert [one["alarm_id"] for one in json.loads(asked["/api/alarms"]("")[2])["alarms"]] == ["a/P9/H"]
            log.delete("alarms.current")
            log.create("alarms.current")
            wait_for(lambda: json.loads(asked["/api/alarms"]("")[2])["alarms"] == [], "the topic that was made anew", seconds=LIMIT)
        assert log.topic("alarm-commands").partitions[0].end == 1


def test_a_command_for_a_log_that_stays_locked_is_answered_with_what_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plant.py").write_text(PLANT)
    row = {"alarm_id": "a/P9/H", "priority": 1, "state": "unacknowledged", "sequence": 1, "time": 5, "value": 1.5, "limit": 1.0, "by": "system"}
    with closing(SqliteLog(tmp_path / "log.db")) as log:
        for topic in ("alarms", "alarms.current", "alarm-commands"):
            log.create(topic)
        log.append("alarms.current", [json.dumps(row).encode()])
        alarms = alarming.Alarming(lambda: SqliteLog(tmp_path / "log.db"), [plan_of(str(tmp_path / "plant.py"), [])], commands=True)
        monkeypatch.setattr(sqlite_file, "_BUSY_SECONDS", 0.1)
        with closing(sqlite3.connect(tmp_path / "log.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            status, _, body = alarms.command(b'{"alarm": "a/P9/H", "command": "acknowledge", "by": "ada"}')
            assert (status, json.loads(body)["error"].startswith(f"{tmp_path}/log.db: has been locked for more than")) == (503, True), body
            other.execute("ROLLBACK")
        assert log.topic("alarm-commands").partitions[0].end == 0


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium")
def test_an_operator_works_through_alarms_in_a_browser(plant: Plant, tmp_path: Path) -> None:
    plant.reading("a/P8", 88.0)
    plant.reading("a/P9", 99.5)
    plant.wait_for("a/P8/H", "unacknowledged")
    plant.wait_for("a/P9/H", "unacknowledged")
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/browser", "--virtual-time-budget=30000"]
    done = subprocess.run([*browser, "--dump-dom", f"http://127.0.0.1:{plant.port}/frame"], capture_output=True, text=True, timeout=LIMIT, check=True)
    seen = done.stdout.partition('<pre id="seen">')[2].partition("</pre>")[0]
    for part in (
        "unnamed: Write your name first. focus operator",
        "drawn: a/P9 good abnormal p2 ",
        "99.5 bar H▲ P2; a/P7 unknown ",
        "level 39.8",
        "scripts: 0",
        "titles: works – headrace, works; tags: 1",
        "Done: acknowledge a/P8/H: now acknowledged.",
        "focus on: Acknowledge a/P9/H",
        "State before: normal, after: unacknowledged.",
        "readings/0 offset",
        "open the valve",
        "the valve is being replaced",
    ):
        assert part in seen, seen
    assert plant.alarm("a/P8/H")["by"] == "ada"
    assert plant.alarm("a/P9/H")["state"] == "shelved"
