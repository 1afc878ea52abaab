"""OPC UA into a topic: values and qualities, outages, history, positions, secure channels, errors."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from asyncua import ua
from hypothesis import given
from hypothesis import strategies as st
from plant_servers import TOPIC, Bridged, PlantServer, Relay, by_tag, readings

from forking import started
from headrace.cli import main
from headrace.connectors.inflow import Inflow, Position, shown
from headrace.connectors.opc import source
from headrace.connectors.opc.positions import Positions
from headrace.connectors.opc.values import OVERFLOW, microseconds, plain
from headrace.connectors.protocol import Event
from headrace.errors import HeadraceError
from headrace.plant.quality import Quality
from headrace.topics.sqlite import SqliteLog
from serving import LIMIT
from waiting import wait_for

GOOD, NO_COMMUNICATION = Quality.GOOD, Quality.BAD_NO_COMMUNICATION


def served(**definition: Any) -> PlantServer:
    return PlantServer("opc_server", json.dumps(definition))


def address(port: int, **parameters: Any) -> str:
    return f"opc.tcp://127.0.0.1:{port}/plant/?" + "&".join(
        f"{name}={one}" for name, one in ({"interval": "50ms", "timeout": "60s"} | parameters).items()
    )


def counts(found: list[dict[str, Any]]) -> list[int]:
    return [one["value"] for one in by_tag(found).get("Line1/Count", []) if one["value"] is not None]


# values and positions


@given(st.datetimes(timezones=st.just(UTC)).filter(lambda stamp: stamp.year >= 1900))
def test_times_are_exact(stamp: datetime) -> None:
    found = microseconds(stamp)
    assert found is not None and datetime.fromtimestamp(0, UTC) + timedelta(microseconds=found) == stamp
    assert microseconds(stamp.replace(tzinfo=None)) == found


def test_a_time_that_is_none_is_none() -> None:
    assert microseconds(None) is None
    assert microseconds(datetime(1601, 1, 1, tzinfo=UTC)) is None


@pytest.mark.parametrize("value", [[1], [[1.0]], ua.EUInformation(), object(), {}])
def test_arrays_and_structures_are_no_scalars(value: object) -> None:
    with pytest.raises(TypeError):
        plain(value)


nodes_and_times = st.tuples(st.sampled_from("abcd"), st.integers(1, 50))
steps = st.lists(st.lists(nodes_and_times, min_size=1, max_size=5) | st.none(), max_size=8)


@given(steps, st.integers(0, 40))
def test_a_position_says_how_far_each_node_was_read_at_its_event(history: list[list[tuple[str, int]] | None], stop: int) -> None:
    positions, events, expected = Positions(), [], []
    simple: dict[str, int] = {}
    for number, changes in enumerate(history):
        if changes is None:
            events.append(positions.lose())
            simple = {node: -abs(at) for node, at in simple.items()}
            expected.append(dict(simple))
        else:
            events += positions.advance(changes, number)
            for node, at in changes:
                simple[node] = at
                expected.append(dict(simple))
    assert positions.known == simple
    for position, known in list(zip(events, expected, strict=True))[:stop]:
        saved = msgspec.json.decode(msgspec.json.encode(position))
        assert Positions(saved).known == known


def test_a_long_position_is_cut_where_it_is_shown() -> None:
    assert shown("x") == "x"
    assert len(shown([1] * 10_000)) == 100


def test_the_position_of_a_commit_is_that_of_its_last_event() -> None:
    inflow, positions = Inflow("t", Position("s")), Positions()
    made = positions.advance([("a", 1), ("b", 2), ("a", 3)], 0)
    for position in made:
        inflow.offer(Event(b"{}", position), 0.0)
    saved = msgspec.json.decode(inflow.commit(2).manifest)["last"]
    assert Positions(saved).known == {"a": 1, "b": 2}


# a real server


VALUES = {
    "Temp": 21.5,
    "On": True,
    "Text": "Ofen",
    "Bad": "Bad Input",
    "Null": {"null": 1},
    "NaN": {"nan": 1},
    "Array": [1, 2],
    "Structure": {"structure": 1},
    "Localized": {"localized": 1},
    "Bytes": {"bytes": 1},
    "Time": {"time": 1},
}


def test_values_of_all_kinds_come_with_quality_unit_and_source_time(log: SqliteLog) -> None:
    with served(values=VALUES, units={"Temp": "CEL"}) as server:
        one = source(address(server.port))

        async def run() -> None:
            async with Bridged(log, one) as bridge:
                await bridge.until(lambda found: len(by_tag(found)) == len(VALUES) + 1, "all nodes")
                server.tell(node="Temp", write=22.5, quality=int(Quality.UNCERTAIN_LAST_USABLE_VALUE))
                server.tell(node="Temp", write=23.5, quality=int(Quality.BAD_SENSOR_FAILURE))
                server.tell(node="Temp", write="text")
                server.tell(node="Temp", write=[1.5])
                server.tell(node="Temp", write={"null": 1})
                server.tell(node="Temp", write=24.5, unstamped=True)
                await bridge.until(lambda found: by_tag(found)["Line1/Temp"][-1]["value"] == 24.5, "the last write")
                assert sorted(bridge.told) == [
                    f"{one.name}: Line1/Array is an array and is left out; arrays=expand reads its elements",
                    f"{one.name}: Line1/Structure is a structure and is left out",
                    f"{one.name}: Line1/Temp is an array and is left out; arrays=expand reads its elements",
                ]

        asyncio.run(run())
    tags = by_tag(readings(log))
    assert {tag: (found[0]["value"], found[0]["quality"], found[0]["unit"]) for tag, found in tags.items()} == {
        "Line1/Temp": (21.5, GOOD, "CEL"),
        "Line1/On": (True, GOOD, None),
        "Line1/Text": ("Ofen", GOOD, None),
        "Line1/Bad": (None, Quality.BAD_NO_DATA, None),
        "Line1/Null": (None, Quality.BAD_NO_DATA, None),
        "Line1/NaN": (None, Quality.BAD_NO_DATA, None),
        "Line1/Array": (None, Quality.BAD_TYPE_MISMATCH, None),
        "Line1/Structure": (None, Quality.BAD_TYPE_MISMATCH, None),
        "Line1/Localized": ("Ofen", GOOD, None),
        "Line1/Bytes": ("AP8=", GOOD, None),
        "Line1/Time": ("2026-01-02T03:04:05Z", GOOD, None),
        "Line1/Count": (0, GOOD, None),
    }
    assert [(one["value"], one["quality"]) for one in tags["Line1/Temp"]] == [
        (21.5, GOOD),
        (22.5, Quality.UNCERTAIN_LAST_USABLE_VALUE),
        (None, Quality.BAD_SENSOR_FAILURE),
        ("text", GOOD),
        (None, Quality.BAD_TYPE_MISMATCH),
        (None, Quality.BAD_NO_DATA),
        (24.5, GOOD),
    ]
    assert all(one["time"] == one["source_time"] <= one["arrival_time"] for found in tags.values() for one in found)


def test_arrays_are_expanded_if_asked_for_and_a_node_limits_the_browse(log: SqliteLog) -> None:
    with served(values={"Array": [1, 2], "Other": 5}) as server:
        one = source(address(server.port, node="ns=2;s=Array", arrays="expand"))

        async def run() -> None:
            async with Bridged(log, one) as bridge:
                await bridge.until(lambda found: len(found) == 2)

        asyncio.run(run())
    assert {one["tag"]: one["value"] for one in readings(log)} == {"Array[0]": 1, "Array[1]": 2}


def test_a_tag_list_names_nodes_paths_and_ranges(log: SqliteLog, tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_text("path,unit,low,high,source\np/l/t,CEL,0,20,ns=2;s=Temp\np/l/none,,,,ns=2;s=None\np/l/m,,,,plc/data#$.x\n")
    with served(values={"Temp": 21.5, "Other": 5}, units={"Temp": "CEL"}) as server:
        one = source(address(server.port, tags="tags.csv"))

        async def run() -> list[str]:
            async with Bridged(log, one) as bridge:
                await bridge.until(lambda found: len(found) == 2)
                return bridge.told

        told = asyncio.run(run())
    assert {one["tag"]: (one["value"], one["quality"]) for one in readings(log)} == {
        "p/l/t": (21.5, Quality.UNCERTAIN_ENGINEERING_UNITS_EXCEEDED),
        "p/l/none": (None, 0x80340000),
    }
    assert told == [f"{one.name}: does not monitor p/l/none: BadNodeIdUnknown"]


def test_a_burst_comes_whole_and_a_queue_that_overflows_is_reported(log: SqliteLog) -> None:
    with served(values={"Burst": 0}) as server:
        one = source(address(server.port, queue=5000))

        async def run() -> list[str]:
            async with Bridged(log, one) as bridge:
                await bridge.until(lambda found: "Line1/Burst" in by_tag(found))
                server.tell(node="Burst", burst=3000)
                await bridge.until(lambda found: by_tag(found)["Line1/Burst"][-1]["value"] == 2999)
                assert not bridge.told
                server.tell(node="Burst", write=5, quality=OVERFLOW)
                await bridge.until(lambda _: bridge.told)
                return bridge.told

        told = asyncio.run(run())
    found = by_tag(readings(log))["Line1/Burst"]
    assert [one["value"] for one in found] == [*range(3000), 5] and found[-1]["quality"] == OVERFLOW
    assert one.overflows == 1 and "changes were lost in the server's queues, 1 times so far" in told[0]


def test_a_server_that_is_killed_and_paused_gives_bad_quality_once_and_comes_back(log: SqliteLog) -> None:
    server = served(values={"Still": 7}, count=20)
    one = source(address(server.port, timeout="1s"))

    def bad(found: list[dict[str, Any]]) -> int:
        return [one["quality"] for one in by_tag(found).get("Line1/Still", [])].count(NO_COMMUNICATION)

    def good(found: list[dict[str, Any]]) -> bool:
        return len(by_tag(found)) == 2 and all(tag[-1]["quality"] == GOOD for tag in by_tag(found).values())

    async def run() -> None:
        async with Bridged(log, one) as bridge:
            server.start()
            for number, back in [(signal.SIGKILL, None), (signal.SIGSTOP, signal.SIGCONT)]:
                await bridge.until(good, "good")
                before = len(readings(log))
                await bridge.until(lambda found, before=before: len(found) > before + 10, "load")
                times = bad(readings(log))
                server.signal(number)
                await bridge.until(lambda found, times=times: bad(found) > times, "bad")
                if back is None:
                    server.end()
                    server.start()
                else:
                    server.signal(back)
            await bridge.until(good, "good")

    with closing(server):
        asyncio.run(run())
    tags = by_tag(readings(log))
    still = tags["Line1/Still"]
    # A busy machine may lose the connection more often than the test wants.
    assert [one["value"] for one in still] == [7, *[None, 7] * bad(still)]
    # After the pause the value is the same with the same source time, and it is reported to hold again.
    assert still[-3]["source_time"] == still[-1]["source_time"] and still[-1]["time"] == still[-1]["arrival_time"] >= still[-2]["time"]
    seen = [(one["source_time"], one["value"]) for one in tags["Line1/Count"] if one["quality"] == GOOD]
    assert len(set(seen)) == len(seen)
    position = json.loads(log.manifest(f"bridge:{TOPIC}") or b"")
    assert position["ledger"][one.name]["accepted"] == len(readings(log))


def test_after_a_cut_the_history_has_what_was_missed(log: SqliteLog, tmp_path: Path) -> None:
    with served(values={"Still": 7}, count=10, history=str(tmp_path / "history.db")) as server:
        relay = Relay(server.port)
        one = source(address(relay.port))

        async def run() -> list[str]:
            async with relay, Bridged(log, one) as bridge:
                for _ in range(3):
                    at = len(counts(readings(log)))
                    await bridge.until(lambda found, at=at: len(counts(found)) > at + 20, "load")
                    bad = sum(one["quality"] == NO_COMMUNICATION for one in readings(log))
                    relay.cut()
                    await bridge.until(lambda found, bad=bad: sum(one["quality"] == NO_COMMUNICATION for one in found) >= bad + 2, "bad")
                await bridge.until(lambda found: by_tag(found)["Line1/Still"][-1]["quality"] == GOOD, "good")
                last = counts(readings(log))[-1]
                await bridge.until(lambda found: counts(found)[-1] > last + 20, "the end")
                return bridge.told

        told = asyncio.run(run())
    found = counts(readings(log))
    assert found == list(range(found[0], found[0] + len(found))), "nothing lost and nothing twice"
    assert not any("gap" in line for line in told)


def test_without_history_a_gap_is_reported(log: SqliteLog) -> None:
    with served(values={"Still": 7}, count=10) as server:
        relay = Relay(server.port)
        one = source(address(relay.port))

        async def run() -> list[str]:
            async with relay, Bridged(log, one) as bridge:
                await bridge.until(lambda found: len(counts(found)) > 20, "load")
                relay.cut()
                await bridge.until(lambda _: any("gap" in line for line in bridge.told), "gap")
                return bridge.told

        told = asyncio.run(run())
    (gap,) = [line for line in told if "gap" in line]
    assert gap.startswith(f"{one.name}: gap from 20")
    assert gap.endswith(" to now: the server has no history of Line1/Count, changes in between were not seen")


def test_kill_9_of_the_bridge_loses_and_repeats_nothing_where_there_is_history(log: SqliteLog, tmp_path: Path) -> None:
    with served(values={"Still": 7}, count=10, history=str(tmp_path / "history.db")) as server:
        for _ in range(3):
            at = len(readings(log))
            with started("bridge", address(server.port), f"topic:{TOPIC}", stdout=subprocess.PIPE, text=True) as process:
                wait_for(lambda at=at: len(readings(log)) > at + 20, "readings", seconds=LIMIT)
                process.kill()
                assert process.stdout is not None and len(process.stdout.read()) < 400
    found = by_tag(readings(log))
    values = [one["value"] for one in found["Line1/Count"]]
    assert values == list(range(values[0], values[0] + len(values)))
    assert len(found["Line1/Still"]) == 1


def test_a_clock_that_is_set_back_loses_nothing(log: SqliteLog) -> None:
    with served(values={"Temp": 1.0}) as server:
        one = source(address(server.port))

        async def run() -> None:
            async with Bridged(log, one) as bridge:
                await bridge.until(lambda found: "Line1/Temp" in by_tag(found))
                for value, ahead in [(2.0, 7200), (3.0, 0), (4.0, -7200), (5.0, 0)]:
                    server.tell(node="Temp", write=value, ahead=ahead)
                await bridge.until(lambda found: by_tag(found)["Line1/Temp"][-1]["value"] == 5.0)

        asyncio.run(run())
    found = by_tag(readings(log))["Line1/Temp"]
    assert [one["value"] for one in found] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert all(later["source_time"] != earlier["source_time"] for earlier, later in pairwise(found))


def test_a_node_that_vanishes_is_bad_until_it_is_there_again_and_the_others_go_on(log: SqliteLog) -> None:
    with served(values={"Temp": 1.0, "Other": 1}) as server:
        one = source(address(server.port))
        one.look_seconds = 0.2

        async def run() -> list[str]:
            async with Bridged(log, one) as bridge:
                await bridge.until(lambda found: "Line1/Temp" in by_tag(found))
                server.tell(node="Temp", delete=True)
                await bridge.until(lambda found: by_tag(found)["Line1/Temp"][-1]["quality"] == ua.StatusCodes.BadNodeIdUnknown)
                server.tell(node="Other", write=2)
                await bridge.until(lambda found: by_tag(found)["Line1/Other"][-1]["value"] == 2)
                server.tell(node="Temp", add=3.0)
                await bridge.until(lambda found: by_tag(found)["Line1/Temp"][-1]["value"] == 3.0)
                server.tell(node="Temp", write=4.0)
                await bridge.until(lambda found: by_tag(found)["Line1/Temp"][-1]["value"] == 4.0)
                return bridge.told

        told = asyncio.run(run())
    assert [(one["value"], one["quality"]) for one in by_tag(readings(log))["Line1/Temp"]] == [
        (1.0, GOOD), (None, ua.StatusCodes.BadNodeIdUnknown), (3.0, GOOD), (4.0, GOOD),
    ]  # fmt: skip
    assert told == [f"{one.name}: does not have Line1/Temp any more: BadNodeIdUnknown", f"{one.name}: has Line1/Temp again"]


def test_a_unit_that_changes_is_bad_until_it_is_that_of_the_list_again(log: SqliteLog, tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_text("path,unit,source\np/temp,CEL,ns=2;s=Temp\np/free,,ns=2;s=Free\n")
    with served(values={"Temp": 20.0, "Free": 1.0}, units={"Temp": "°C", "Free": "BAR"}) as server:
        one = source(address(server.port, tags="tags.csv"))

        async def run() -> list[str]:
            async with Bridged(log, one) as bridge:
                await bridge.until(lambda found: len(found) == 2)
                server.tell(node="Temp", unit="FAH")
                server.tell(node="Free", unit="PS")
                server.tell(node="Temp", write=68.0, quality=0x4000)
                server.tell(node="Free", write=14.5)
                await bridge.until(lambda found: len(found) == 4)
                server.tell(node="Temp", unit="CEL")
                server.tell(node="Temp", write=21.0)
                await bridge.until(lambda found: len(found) == 5)
                server.tell(node="Temp", write=22.0, quality=0x4000)
                await bridge.until(lambda found: len(found) == 6)
                return bridge.told

        told = asyncio.run(run())
    found = by_tag(readings(log))
    assert [(one["value"], one["quality"], one["unit"]) for one in found["p/temp"]] == [
        (20.0, GOOD, "CEL"), (None, Quality.BAD_CONFIGURATION_ERROR, "FAH"), (None, Quality.BAD_CONFIGURATION_ERROR, "FAH"), (22.0, 0x4000, "CEL"),
    ]  # fmt: skip
    assert [(one["value"], one["unit"]) for one in found["p/free"]] == [(1.0, "BAR"), (14.5, "PS")]
    assert [line.removeprefix(f"{one.name}: ") for line in told] == [
        "p/temp comes in FAH (°F), and the list of tags says CEL (°C); its readings are bad and have no value until both agree",
        "p/free comes in PS (psi), before in BAR (bar); give its unit in a list of tags to refuse another one",
        "p/temp comes in CEL (°C) again, as the list of tags says",
    ]


def test_a_tag_that_is_renamed_has_the_value_that_its_node_has(log: SqliteLog, tmp_path: Path) -> None:
    list_ = tmp_path / "tags.csv"
    with served(values={"Temp": 20.0, "Other": 1.0}) as server:

        async def run(names: tuple[str, str], count: int) -> None:
            list_.write_text(f"path,source\n{names[0]},ns=2;s=Temp\n{names[1]},ns=2;s=Other\n")
            async with Bridged(log, source(address(server.port, tags="tags.csv"))) as bridge:
                await bridge.until(lambda found: len(found) == count)
                server.tell(node="Other", write=float(count))
                await bridge.until(lambda found: len(found) == count + 1)

        for number, names in enumerate([("p/temp", "p/other"), ("p/temp", "p/other"), ("p/kiln/temp", "p/other")]):
            asyncio.run(run(names, [2, 3, 5][number]))
    found = by_tag(readings(log))
    assert {tag: [one["value"] for one in of_tag] for tag, of_tag in found.items()} == {
        "p/temp": [20.0], "p/other": [1.0, 2.0, 3.0, 5.0], "p/kiln/temp": [20.0],
    }  # fmt: skip


# errors


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("opc.tcp:", "FROM: is not an address; give an address such as opc.tcp://"),
        ("opc.https://h", "FROM: names no server; give an address such as opc.tcp://"),
        ("opc.tcp://h?nodes=x", "FROM: has no parameter 'nodes'; did you mean 'node'?"),
        ("opc.tcp://h?interval=fast", "FROM: parameter interval is 'fast'; give a duration"),
        ("opc.tcp://h?password_file=x", "FROM: has a password and no user"),
        ("opc.tcp://u:${NO_SUCH_VARIABLE}@h", "FROM: the variable NO_SUCH_VARIABLE is not set; export NO_SUCH_VARIABLE=…"),
        ("opc.tcp://u@h?password_file=none", "none: cannot be read: No such file or directory; give a text file"),
        ("opc.tcp://h?security=Sign", "FROM: security=Sign needs the parameter certificate; give it: certificate=FILE.pem"),
        ("opc.tcp://h?key=k", "FROM: parameter key is only for a secure channel; add security=SignAndEncrypt"),
        ("opc.tcp://h?security=Sing", "FROM: parameter security is 'Sing'; did you mean 'Sign'?"),
    ],
)
@pytest.mark.usefixtures("home")
def test_a_wrong_address_is_one_line(given: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bridge", given, "topic:t"]) in {1, 2}
    err = capsys.readouterr().err
    assert err.startswith(f"headrace: {says}") and err.count("\n") == 1 and "secret" not in err


@pytest.mark.usefixtures("home")
def test_what_a_server_refuses_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with served(values={"Temp": 1.0}) as server:
        name = f"opc.tcp://127.0.0.1:{server.port}/plant/"
        for parameters, says in [
            ({"node": "ns=2;s=Line9"}, f"{name}: has no node ns=2;s=Line9; see its nodes: headrace browse, without node="),
            ({"node": "Line1"}, f"{name}: 'Line1' is not a NodeId; write ns=2;s=Line1, or ns=2;i=1001"),
            ({"node": "ns=0;i=2294"}, None),
        ]:
            status = main(["bridge", address(server.port, **parameters), "topic:t", "--records", "1"])
            err = capsys.readouterr().err
            if says is not None:
                assert status == 2 and err == f"headrace: {says}\n"


@pytest.mark.usefixtures("home")
def test_a_server_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    port = served().port
    assert main(["bridge", address(port), "topic:t", "--give-up-after", "100ms"]) == 1
    err = capsys.readouterr().err.splitlines()
    assert err[-1].startswith(f"headrace: opc.tcp://127.0.0.1:{port}/plant/: connection refused, for 0.1 s; is its server running")


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_address_is_read_or_refused(head: str, query: str) -> None:
    for text in (f"opc.tcp:{head}?{query}", f"opc.tcp://{head}?node=x&{query}"):
        with suppress(HeadraceError):
            source(text)
