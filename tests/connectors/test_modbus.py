"""Modbus TCP into a topic: values, blocks, refused registers, faults of devices and connections."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plant_servers import TOPIC, Bridged, PlantServer, by_tag, readings

from forking import started
from headrace.cli import main
from headrace.connectors.ending import ended
from headrace.connectors.modbus import source
from headrace.connectors.modbus.blocks import Block, blocks_of, halves
from headrace.connectors.modbus.polling import REFUSED_SECONDS, Found, Poll, Reports
from headrace.connectors.modbus.registers import COLUMNS, TABLES, TYPES, Register, load, parse
from headrace.connectors.modbus.source import Polled
from headrace.connectors.modbus.values import bytes_of, reader
from headrace.errors import HeadraceError, PlanError
from headrace.plant.quality import Quality
from headrace.plant.tags import load as load_tags
from headrace.topics.sqlite import SqliteLog
from serving import LIMIT
from waiting import wait_for

GOOD, NO_COMMUNICATION, CONFIGURATION = Quality.GOOD, Quality.BAD_NO_COMMUNICATION, Quality.BAD_CONFIGURATION_ERROR


def register(address: int, kind: str = "uint16", table: str = "holding", **options: Any) -> Register:
    size = TYPES[kind] or options.pop("length", 4)
    return Register(f"{table}{address}", "h", 502, options.pop("unit_id", 1), table, address, kind, size, **options)


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n")
    return str(path)


# values


FORMATS = {"int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "int64": "q", "uint64": "Q", "float32": "f", "float64": "d"}


def sent(big_endian: bytes, low_word_first: bool, low_byte_first: bool) -> list[int]:
    """The registers in which a device of some order keeps a value."""
    words = [big_endian[place : place + 2] for place in range(0, len(big_endian), 2)]
    if low_word_first:
        words.reverse()
    return [int.from_bytes(word[::-1] if low_byte_first else word, "big") for word in words]


@given(st.sampled_from(sorted(FORMATS)), st.booleans(), st.booleans(), st.binary(min_size=8, max_size=8), st.integers(0, 5))
def test_numbers_are_those_of_struct_in_each_order(kind: str, words: bool, octets: bool, raw: bytes, before: int) -> None:
    raw = raw[: 2 * TYPES[kind]]
    (expected,) = struct.unpack(f">{FORMATS[kind]}", raw)
    data = bytes_of([7] * before + sent(raw, words, octets) + [9])
    value, quality = reader(register(0, kind, low_word_first=words, low_byte_first=octets))(data, 2 * before)
    assert quality == GOOD and (value == expected or (math.isnan(expected) and math.isnan(value)))


@given(st.integers(0, 65_535), st.integers(0, 15), st.booleans())
def test_a_bit_is_counted_from_the_lowest(word: int, bit: int, octets: bool) -> None:
    data = bytes_of(sent(word.to_bytes(2, "big"), False, octets))
    assert reader(register(0, "bool", bit=bit, low_byte_first=octets))(data, 0) == (bool(word >> bit & 1), GOOD)


@given(st.text(st.characters(codec="ascii", exclude_categories=["C", "Z"]), max_size=8), st.booleans())
def test_a_text_ends_with_the_first_zero(text: str, octets: bool) -> None:
    data = bytes_of(sent(text.encode().ljust(8, b"\0"), False, octets))
    assert reader(register(0, "string", length=4, low_byte_first=octets))(data, 0) == (text, GOOD)


def test_a_text_that_is_none_is_bad_quality() -> None:
    assert reader(register(0, "string", length=1))(b"\xff\xfe", 0) == (None, Quality.BAD_TYPE_MISMATCH)


def test_a_scale_and_an_offset_make_the_unit() -> None:
    read = reader(register(0, "int16", scale=0.1, offset=-40))
    assert read(bytes_of([650]), 0) == (25.0, GOOD)
    assert reader(register(0, "int16"))(bytes_of([65_535]), 0) == (-1, GOOD)


# blocks


registers_drawn = st.lists(
    st.builds(
        register,
        st.integers(0, 3000),
        st.sampled_from(["uint16", "float32", "int64"]),
        st.sampled_from(TABLES),
        unit_id=st.integers(0, 2),
    ),
    max_size=40,
)


@given(registers_drawn, st.integers(0, 20), st.integers(4, 125))
def test_each_register_is_in_one_block_and_no_block_is_too_large(registers: list[Register], gap: int, words: int) -> None:
    blocks = blocks_of(registers, gap=gap, words=words)
    assert sorted(one for block in blocks for one in block.registers) == sorted(registers)
    for block in blocks:
        assert block.size <= (2000 if block.table in {"coil", "discrete"} else words)
        covered = {address for one in block.registers for address in range(one.address, one.address + one.size)}
        assert (min(covered), max(covered)) == (block.address, block.address + block.size - 1)
        assert {(one.unit_id, one.table) for one in block.registers} == {(block.unit_id, block.table)}
    if words == 125 and gap == 0:
        assert len(blocks) <= len(registers)


@given(registers_drawn.filter(bool))
def test_halving_ends_with_single_registers(registers: list[Register]) -> None:
    left, single = blocks_of(registers, gap=100), []
    while left:
        block = left.pop()
        parts = halves(block)
        assert sorted(one for part in parts for one in part.registers) == sorted(block.registers) or not parts
        left += parts
        single += [] if parts else block.registers
    assert sorted(single) == sorted(registers)


# polls, without a network


def polled(poll: Poll, device: Callable[[Block], list[int] | int | None], now: float) -> tuple[list[Found], int]:
    """One poll: what was found, and how many requests it took. The device answers with registers, an exception or not at all."""
    found, requests = [], 0
    poll.begin(now)
    while (block := poll.next(now)) is not None:
        requests += 1
        answer = device(block)
        if isinstance(answer, list):
            found += poll.answered(block, answer)
        else:
            found += poll.silent(block, now) if answer is None else poll.excepted(block, answer, now)
    return found, requests


@given(st.sets(st.integers(0, 300), min_size=1, max_size=60), st.sets(st.integers(0, 300), max_size=40))
def test_registers_that_do_not_exist_are_found_and_their_neighbours_are_read(mapped: set[int], missing: set[int]) -> None:
    def device(block: Block) -> list[int] | int:
        asked = range(block.address, block.address + block.size)
        return 2 if missing & set(asked) else list(asked)

    poll = Poll([register(one) for one in mapped], gap=8, words=125)
    expected = {f"holding{one}": (None, CONFIGURATION) if one in missing else (one, GOOD) for one in mapped}
    found, _ = polled(poll, device, 0.0)
    assert {one.register.tag: (one.value, one.quality) for one in found} == expected and len(found) == len(mapped)
    found, _ = polled(poll, device, 1.0)
    assert {one.register.tag: one.value for one in found} == {f"holding{one}": one for one in mapped - missing}
    missing.clear()
    found, requests = polled(poll, device, REFUSED_SECONDS)
    assert {one.register.tag: one.quality for one in found} == {f"holding{one}": GOOD for one in mapped}
    again, less = polled(poll, device, REFUSED_SECONDS + 1)
    assert len(again) == len(mapped) and less == requests


def test_a_busy_device_is_asked_again_a_few_times() -> None:
    answers: list[Any] = [6, 5, [1]]
    poll = Poll([register(0)], gap=8, words=125)
    assert polled(poll, lambda _: answers.pop(0), 0.0) == ([Found(register(0), 1, GOOD, True)], 3)
    assert polled(poll, lambda _: 6, 1.0) == ([Found(register(0), None, NO_COMMUNICATION, False)], 3)


def test_a_silent_unit_is_asked_ever_more_rarely_and_once_a_poll() -> None:
    registers = [register(address, unit_id=unit) for unit in (1, 2) for address in (0, 1000)]
    poll, asked = Poll(registers, gap=8, words=125), []

    def device(block: Block) -> list[int] | None:
        asked.append(block.unit_id)
        return None if block.unit_id == 1 else [5] * block.size

    now = 0.0
    for _ in range(40):
        found, _ = polled(poll, device, now)
        assert sum(one.value == 5 for one in found) == 2
        now += 1.0
    assert asked.count(2) == 80
    assert 5 < asked.count(1) < 20


def test_a_table_that_a_device_does_not_have_is_not_halved() -> None:
    poll = Poll([register(one) for one in range(10)], gap=8, words=125)
    found, requests = polled(poll, lambda _: 1, 0.0)
    assert (len(found), requests, {one.quality for one in found}) == (10, 1, {CONFIGURATION})


# reports


def values_of(events: list[Any]) -> list[Any]:
    return [(json.loads(one.value)["value"], json.loads(one.value)["quality"]) for one in events]


def test_all_values_are_reported_and_each_failure_once() -> None:
    reports, one = Reports(changes=False, deadband=0.0), register(0)
    good, bad = Found(one, 1, GOOD, True), Found(one, None, NO_COMMUNICATION, False)
    found = [good, good, bad, bad, good, bad, Found(one, None, CONFIGURATION, False), Found(one, math.nan, GOOD, True)]
    expected = [(1, 0), (1, 0), (None, NO_COMMUNICATION), (1, 0), (None, NO_COMMUNICATION), (None, CONFIGURATION), (None, Quality.BAD_NO_DATA)]
    assert values_of(reports.events(found, 5)) == expected
    assert values_of(reports.events([Found(one, None, CONFIGURATION, False)], 5)) == [(None, CONFIGURATION)]
    assert values_of(reports.events([Found(one, None, CONFIGURATION, False)], 5)) == []


def test_changes_are_reported_beyond_the_deadband() -> None:
    reports, one, own = Reports(changes=True, deadband=0.5), register(0), register(1, deadband=0.0)
    found = [Found(one, value, GOOD, True) for value in (1.0, 1.4, 1.5, 1.6, 1.2, math.nan, math.nan, 1.6, "a", "a")]
    assert values_of(reports.events(found, 5)) == [(1.0, 0), (1.6, 0), (None, Quality.BAD_NO_DATA), (1.6, 0), ("a", 0)]
    assert len(reports.events([Found(own, value, GOOD, True) for value in (1.0, 1.0, 1.01)], 5)) == 2
    reports.forget()
    assert len(reports.events(found[:1], 5)) == 1


def test_a_tag_list_gives_path_unit_range_and_deadband(tmp_path: Path) -> None:
    path = write(tmp_path / "tags.csv", "path,unit,low,high,deadband,source,spellings", "p/l/t,CEL,0,100,1,holding0,", "p/l/u,,,,,,holding1")
    reports = Reports(changes=True, deadband=0.0, tags=load_tags(path))
    found = [Found(register(0), value, GOOD, True) for value in (5, 5.5, 200)] + [
        Found(register(1), 1, GOOD, True),
        Found(register(2), 1, GOOD, True),
    ]
    assert [(one["tag"], one["value"], one["quality"], one["unit"]) for one in map(json.loads, (one.value for one in reports.events(found, 5)))] == [
        ("p/l/t", 5, GOOD, "CEL"),
        ("p/l/t", 200, Quality.UNCERTAIN_ENGINEERING_UNITS_EXCEEDED, "CEL"),
        ("p/l/u", 1, GOOD, None),
        ("holding2", 1, GOOD, None),
    ]


# maps and addresses


def test_a_map_names_registers_of_several_hosts(tmp_path: Path) -> None:
    path = write(
        tmp_path / "map.csv",
        "tag,host,unit_id,table,address,type,word_order,byte_order,bit,length,scale,offset,deadband,unit",
        "site/a,,,holding,0,float32,little,big,,,0.1,-4,0.5,CEL",
        "site/b,10.0.0.2:1502,7,coil,9,bool,,,,,,,,",
        "site/c,[::1],,input,65535,bool,,,15,,,,,",
        "site/d,plc,,holding,4,string,,little,,10,,,,",
    )
    assert load(Path(path), ("h", 502), 3) == [
        Register("site/a", "h", 502, 3, "holding", 0, "float32", 2, True, False, None, 0.1, -4, 0.5, "CEL"),
        Register("site/b", "10.0.0.2", 1502, 7, "coil", 9, "bool"),
        Register("site/c", "::1", 502, 3, "input", 65_535, "bool", bit=15),
        Register("site/d", "plc", 502, 3, "holding", 4, "string", 10, low_byte_first=True),
    ]


def test_all_mistakes_of_a_map_are_told_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path / "map.csv",
        "tag,host,table,address,type,bit,length,scale",
        "a,,holding,0,int15,,,",
        "b,,holdings,70000,int16,,,x",
        ",,holding,1,int16,,,",
        "",
        "c,,coil,1,int16,,,",
        "c,h:0,holding,1,bool,,,",
        "d,,holding,65535,int32,3,,",
        "e,,holding,3,string,,,",
        "f,,holding,3,bool,4,2,9,extra",
    )
    with pytest.raises(PlanError) as caught:
        load(Path(path), ("h", 502))
    says = str(caught.value)
    for part in (
        "line 2, column type: 'int15' is not known; did you mean 'int16'?",
        "line 3, column table: 'holdings' is not known; did you mean 'holding'?",
        "line 3, column address: '70000' is not a whole number from 0 to 65535; addresses count from 0, without the digit of the table",
        "line 3, column scale: 'x' is not a number",
        "line 4, column tag: is empty",
        "line 6, column type: is int16, and a coil is a bool",
        "line 7, column tag: 'c' is on line 6 already",
        "line 7, column host: 'h:0' is not HOST or HOST:PORT",
        "line 8, column bit: is only for the type bool, and this is int32",
        "line 8, column address: 65535 and 2 registers go beyond 65535",
        "line 9, column length: is needed for the type string",
        "line 10, column scale: 9 values, and the first line has 8",
    ):
        assert f"{path} {part}" in says.splitlines(), says
    assert len(says.splitlines()) == 12


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "map.csv line 1: no column 'tag'"),
        ("tag,table,address\n", "map.csv line 1: no column 'type'"),
        ("tag,table,address,type,adress\n", "map.csv line 1: unknown column 'adress'; did you mean 'address'?"),
        ("tag,table,address,type,tag\n", "map.csv line 1: two columns 'tag'"),
        ("tag,table,address,type\n", "has no register"),
        ('tag,table,address,type\n"a\n', "line 2: "),
    ],
)
def test_a_map_without_its_columns_is_refused(text: str, says: str) -> None:
    registers, mistakes = parse(text, "map.csv")
    assert not registers and any(says in str(one) for one in mistakes), mistakes


@given(
    st.text(max_size=300)
    | st.lists(st.sampled_from([*COLUMNS, *TYPES, *TABLES, "0", "-1", "1e9", '"', ",", "\n", "é", "\0"]), max_size=60).map(",".join)
)
def test_a_map_of_any_text_is_read_or_refused(text: str) -> None:
    for start in ("", "tag,table,address,type,bit,length,host,scale\n"):
        registers, mistakes = parse(start + text, "map.csv")
        assert registers or mistakes


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("modbus://h", "FROM: names no register map; give an address such as modbus://192.168.0.10:502?map=registers.csv&interval=1s"),
        ("modbus://h?map=none.csv", "none.csv: cannot be read: No such file or directory; does the file exist, and may this user read it?"),
        ("modbus:map.csv", "FROM: is not an address"),
        ("modbus://h:0?map=map.csv", "FROM: is not an address"),
        ("modbus://u:secret@h?map=map.csv", "FROM: has a path or a user, and Modbus has none"),
        ("modbus://h/x?map=map.csv", "FROM: has a path or a user"),
        ("modbus://h?map=map.csv&intervall=1s", "FROM: has no parameter 'intervall'; did you mean 'interval'?"),
        ("modbus://h?map=map.csv&interval=soon", "FROM: parameter interval is 'soon'; give a duration such as"),
        ("modbus://h?map=map.csv&unit=300", "FROM: parameter unit is '300'; give a number from 0 to 255"),
        ("modbus://h?map=map.csv&report=some", "FROM: parameter report is 'some'; "),
        ("modbus://h?map=map.csv&map=b", "FROM: parameter map is given twice"),
        ("modbus://?map=map.csv", "map.csv line 2, column host: is empty, and the address names no host"),
    ],
)
@pytest.mark.usefixtures("home")
def test_wrong_use_is_one_line(address: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("map.csv"), "tag,table,address,type", "a,holding,0,int16")
    assert main(["bridge", address, "topic:t"]) in {1, 2}
    err = capsys.readouterr().err
    assert err.startswith(f"headrace: {says}") and err.count("\n") == 1 and "secret" not in err


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_address_is_read_or_refused(head: str, query: str) -> None:
    for text in (f"modbus:{head}?{query}", f"modbus://{head}?map=/nowhere&{query}"):
        with suppress(HeadraceError):
            source(text)


# against real servers


def definition(**units: Any) -> str:
    return json.dumps({name.removeprefix("u"): one for name, one in units.items()})


def address(server: PlantServer, path: str, **options: Any) -> str:
    return f"modbus://127.0.0.1:{server.port}?map={path}&interval=50ms&timeout=500ms" + "".join(f"&{name}={one}" for name, one in options.items())


DEVICE = {
    "holding": {"0": [*sent(struct.pack(">f", 21.5), True, False), 0xFFFE, 0b100, 0x4865, 0x6C6C, 0x6F00]},
    "input": {"100": [0] * 125 + [0x7FC0, 0]},
    "coil": {"0": [True, False, True, False] * 4},
    "discrete": {"3": [True]},
}
MAP = [
    "tag,table,address,type,word_order,bit,length,scale,unit",
    "t/float,holding,0,float32,little,,,,CEL",
    "t/scaled,holding,2,int16,,,,0.5,",
    "t/bit,holding,3,bool,,2,,,",
    "t/text,holding,4,string,,,3,,",
    "t/nan,input,225,float32,,,,,",
    "t/coil,coil,2,bool,,,,,",
    "t/discrete,discrete,3,bool,,,,,",
    "t/missing,holding,9,int16,,,,,",
    "t/far,input,5000,int16,,,,,",
]


def test_values_of_all_kinds_come_into_the_topic(log: SqliteLog, tmp_path: Path) -> None:
    path = write(tmp_path / "map.csv", *MAP)
    with PlantServer("modbus_server", definition(u1=DEVICE)) as server:
        one = source(address(server, path))

        async def run() -> dict[str, list[dict[str, Any]]]:
            async with Bridged(log, one) as bridge:
                return await bridge.until(
                    lambda found: (tags := by_tag(found)) and min(map(len, tags.values())) >= 1 and len(tags["t/bit"]) > 4 and tags
                )

        tags = asyncio.run(run())
    first = {tag: (found[0]["value"], found[0]["quality"], found[0]["unit"]) for tag, found in tags.items()}
    assert first == {
        "t/float": (21.5, GOOD, "CEL"),
        "t/scaled": (-1.0, GOOD, None),
        "t/bit": (True, GOOD, None),
        "t/text": ("Hello", GOOD, None),
        "t/nan": (None, Quality.BAD_NO_DATA, None),
        "t/coil": (True, GOOD, None),
        "t/discrete": (True, GOOD, None),
        "t/missing": (None, CONFIGURATION, None),
        "t/far": (None, CONFIGURATION, None),
    }
    assert all(len(tags[tag]) == 1 for tag in ("t/missing", "t/far"))
    assert all(one["time"] == one["arrival_time"] and one["source_time"] is None for found in tags.values() for one in found)


COUNTING = {"holding": {"0": [0] * 4}, "counting": {"0": 1}}


def test_a_server_that_is_killed_and_paused_gives_bad_quality_once_and_comes_back(log: SqliteLog, tmp_path: Path) -> None:
    path = write(tmp_path / "map.csv", "tag,table,address,type", "count,holding,0,uint16", "still,holding,1,uint16")
    server = PlantServer("modbus_server", definition(u1=COUNTING))
    one = source(address(server, path))

    def bad(times: int) -> Callable[[list[dict[str, Any]]], bool]:
        return lambda found: [one["quality"] for one in by_tag(found).get("still", [])].count(NO_COMMUNICATION) == times

    def good_again(times: int) -> Callable[[list[dict[str, Any]]], bool]:
        return lambda found: bad(times)(found) and all(tag[-1]["quality"] == GOOD for tag in by_tag(found).values())

    async def run() -> None:
        async with Bridged(log, one) as bridge:
            await bridge.until(bad(1), "bad before the server is there")
            server.start()
            for times, (number, back) in enumerate([(signal.SIGKILL, None), (signal.SIGSTOP, signal.SIGCONT)] * 2, 1):
                await bridge.until(good_again(times), "good")
                before = len(readings(log))
                await bridge.until(lambda found, before=before: len(found) > before + 10, "load")
                server.signal(number)
                await bridge.until(bad(times + 1), "bad")
                if back is None:
                    server.end()
                    server.start()
                else:
                    server.signal(back)
            await bridge.until(good_again(5), "good")

    with closing(server):
        asyncio.run(run())
    tags = by_tag(readings(log))
    qualities = [one["quality"] for one in tags["still"]]
    assert all(not (qualities[place] == qualities[place + 1] == NO_COMMUNICATION) for place in range(len(qualities) - 1))
    counts = [one["value"] for one in tags["count"]]
    assert all(later == earlier + 1 for earlier, later in pairwise(counts) if earlier is not None and later is not None)
    position = json.loads(log.manifest(f"bridge:{TOPIC}") or b"")
    assert position["ledger"][one.name] == {"received": len(readings(log)), "accepted": len(readings(log)), "malformed": 0, "duplicate": 0}


def test_a_silent_unit_and_a_missing_host_do_not_hold_the_others_up(log: SqliteLog, tmp_path: Path) -> None:
    with PlantServer("modbus_server", definition(u1=COUNTING, u2=COUNTING | {"silent": True}), ports=2) as server:
        gone = PlantServer("modbus_server")
        rows = [f"{name},127.0.0.1:{port},{unit},holding,0,uint16" for name, port, unit in [("a", server.ports[0], 1), ("b", server.ports[1], 1)]]
        rows += [f"silent,127.0.0.1:{server.ports[0]},2,holding,0,uint16", f"gone,127.0.0.1:{gone.port},1,holding,0,uint16"]
        path = write(tmp_path / "map.csv", "tag,host,unit_id,table,address,type", *rows)
        one = source(f"modbus://?map={path}&interval=50ms&timeout=100ms")

        async def run() -> dict[str, list[dict[str, Any]]]:
            async with Bridged(log, one) as bridge:
                found = await bridge.until(
                    lambda found: (tags := by_tag(found)) and len(tags) == 4 and len(tags["a"]) > 20 and len(tags["b"]) > 20 and tags
                )
                assert sum("asked again until it answers" in line for line in bridge.told) == 1
                return found

        tags = asyncio.run(run())
    assert [[one["quality"] for one in tags[tag]] for tag in ("silent", "gone")] == [[NO_COMMUNICATION]] * 2
    assert one.name == f"modbus:{path}"


def test_a_slow_device_skips_polls_and_says_so(log: SqliteLog, tmp_path: Path) -> None:
    path = write(tmp_path / "map.csv", "tag,table,address,type", "count,holding,0,uint16")
    with PlantServer("modbus_server", definition(u1=COUNTING)) as server:
        one = source(address(server, path, timeout="20s").replace("&timeout=500ms", ""))

        async def run() -> list[str]:
            async with Bridged(log, one) as bridge:
                await bridge.until(lambda found: len(found) > 3)
                for _ in range(1000):
                    if one.skipped:
                        break
                    server.signal(signal.SIGSTOP)
                    await asyncio.sleep(0.2)
                    server.signal(signal.SIGCONT)
                    await asyncio.sleep(0.05)
                assert one.skipped
                count = len(readings(log))
                await bridge.until(lambda found: len(found) > count + 5)
                return bridge.told

        told = asyncio.run(run())
    assert len(told) == 1 and "polls were skipped so far, because a poll takes longer than 0.05 s" in told[0]
    values = [one["value"] for one in readings(log)]
    assert values == list(range(1, len(values) + 1))


def test_kill_9_of_the_bridge_repeats_nothing(log: SqliteLog, tmp_path: Path) -> None:
    path = write(tmp_path / "map.csv", "tag,table,address,type", "count,holding,0,uint16")
    with PlantServer("modbus_server", definition(u1=COUNTING)) as server:
        for _ in range(3):
            before = len(readings(log))
            with started("bridge", address(server, path), f"topic:{TOPIC}") as process:
                wait_for(lambda before=before: len(readings(log)) > before + 5, "readings", seconds=LIMIT)
                process.kill()
    values = [one["value"] for one in readings(log)]
    assert values == sorted(set(values))


ANSWERS = [
    b"\0\1\0\0\0\5\1\3\2\0\1",
    b"\0\1\0\0\0\3\1\3\xff",
    b"\0\1\0\1\0\5\1\3\2\0\1",
    b"\xff" * 300,
    b"\0\1\0\0\0\3\1\x83\x63",
    b"\0\1\0\0\0\2\1\x63",
    b"",
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_that_are_no_modbus_are_bad_quality(
    log: SqliteLog, tmp_path: Path, answer: bytes, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "map.csv", "tag,table,address,type", "a,holding,0,uint32")
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection:
                    while connection.recv(100):
                        connection.sendall(answer)
                        if not answer:
                            break

    threading.Thread(target=serve, daemon=True).start()
    one = source(f"modbus://127.0.0.1:{listening.getsockname()[1]}?map={path}&interval=20ms&timeout=50ms")

    async def run() -> None:
        async with Bridged(log, one) as bridge:
            await bridge.until(lambda found: found)

    with closing(listening):
        asyncio.run(run())
    assert {one["value"] for one in readings(log)} == {None} and all(one["quality"] >= Quality.BAD for one in readings(log))
    assert "Traceback" not in capsys.readouterr().err + caplog.text


def test_a_log_that_is_away_has_all_reported_again(tmp_path: Path) -> None:
    path = write(tmp_path / "map.csv", "tag,table,address,type", "still,holding,1,uint16")
    with PlantServer("modbus_server", definition(u1=COUNTING)) as server:
        one = source(address(server, path, report="changes"))
        assert isinstance(one, Polled)

        async def run() -> list[bytes]:
            found = []
            for _ in range(2):
                events = await one.open(None)
                assert events is not None
                found.append((await anext(events)).value)
                await events.aclose()
            return found

        assert [json.loads(value)["value"] for value in asyncio.run(run())] == [0, 0]


def test_a_task_that_swallows_a_cancellation_is_ended() -> None:
    async def stubborn() -> None:
        for _ in range(2):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(LIMIT)
        await asyncio.sleep(LIMIT)

    async def run() -> None:
        tasks = [asyncio.create_task(stubborn()) for _ in range(2)]
        await asyncio.sleep(0)
        await asyncio.wait_for(ended(tasks), LIMIT / 2)
        assert all(task.cancelled() for task in tasks)

    asyncio.run(run())
