"""The fingerprint app at the command line: requirements F2 to F5, on input written by hand."""

from __future__ import annotations

import base64
import json
import statistics
import subprocess
import sys
import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from headrace.cli import main

START = 1_705_314_600_000  # 2024-01-15 10:30:00 UTC
MINUTE = 60_000
FATES = ("received", "accepted", "malformed", "future", "duplicate", "late", "filtered", "shed")


@dataclass
class Done:
    """What a run left behind."""

    folder: Path

    @property
    def written(self) -> bytes:
        return (self.folder / "fingerprint-output.ndjson").read_bytes()

    @property
    def fingerprints(self) -> list[dict[str, Any]]:
        return [json.loads(line)["fingerprint"] for line in self.written.splitlines()]

    @property
    def dead(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "sensor-data.dead-letter.ndjson").read_bytes().splitlines()]

    @property
    def ledger(self) -> dict[str, int]:
        """What became of the records, zeros left out."""
        counts = json.loads((self.folder / "ledger.json").read_bytes())["sources"]["sensor-data"]
        return {fate: count for fate, count in counts.items() if count}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Run the app over partitions, each the bytes of a file."""
    monkeypatch.chdir(tmp_path)
    for name in ("HEADRACE_HOME", "WINDOW_SIZE_MINUTES", "WATERMARK_SECONDS"):
        monkeypatch.delenv(name, raising=False)
    runs = iter(range(100))

    def call(*partitions: bytes, options: tuple[str, ...] = ()) -> Done:
        folder, inputs = Path(f"out{next(runs)}"), []
        for number, data in enumerate(partitions):
            path = Path(f"{folder}-{number}.ndjson")
            path.write_bytes(data)
            inputs += ["--input", str(path)]
        assert main(["run", "fingerprint", *inputs, "--output", str(folder), *options]) == 0
        return Done(folder)

    return call


def message(time: int, data: Any, equip_id: Any = 110) -> bytes:
    return json.dumps({"equip_id": equip_id, "timestamp": time, "data": data}, ensure_ascii=False).encode()


def lines(*records: bytes, end: bytes = b"\n") -> bytes:
    return b"".join(record + end for record in records)


def statistics_of(values: list[float]) -> dict[str, Any]:
    """F3, in plain Python."""
    return {
        "min": min(values), "max": max(values), "median": statistics.median(values), "mean": pytest.approx(statistics.fmean(values), rel=1e-12),
        "std_dev": pytest.approx(statistics.pstdev(values), rel=1e-12, abs=1e-12),
    }  # fmt: skip


def uuid_of(equip_id: str, start_ms: int) -> str:
    """F4: the name is the pipeline and its version, the equipment and the window, joined by U+001F."""
    return str(uuid.uuid5(uuid.UUID(bytes=b"headrace.uuid.v5"), f"fingerprint/1\x1f{equip_id}\x1f{start_ms}"))


# F2 to F4


def test_the_whole_contract_on_three_messages(run: Callable[..., Done]) -> None:
    done = run(
        lines(
            message(START, {"0002": "20", "0001": "10.5", "0003": "null", "0004": None, "0005": "n/a"}),
            message(START + 59_999, {"0001": 11.5, "0002": 21, "0003": "5"}),
            message(START + 60_000, {"0001": "-1e1"}),
        )
    )
    first, second = uuid_of("110", START), uuid_of("110", START + MINUTE)
    assert done.written.decode() == (
        f'{{"fingerprint":{{"uuid":"{first}","equip_id":"110","type":"kiln","start_ms":1705314600000,"end_ms":1705314660000,"data":{{'
        '"0001":{"min":10.5,"max":11.5,"median":11.0,"mean":11.0,"std_dev":0.5},'
        '"0002":{"min":20.0,"max":21.0,"median":20.5,"mean":20.5,"std_dev":0.5},'
        '"0003":{"min":5.0,"max":5.0,"median":5.0,"mean":5.0,"std_dev":0.0}}}}\n'
        f'{{"fingerprint":{{"uuid":"{second}","equip_id":"110","type":"kiln","start_ms":1705314660000,"end_ms":1705314720000,"data":{{'
        '"0001":{"min":-10.0,"max":-10.0,"median":-10.0,"mean":-10.0,"std_dev":0.0}}}}\n'
    )
    assert done.dead == []
    assert (done.folder / "ledger.json").read_text() == json.dumps(
        {"pipeline": "fingerprint", "sources": {"sensor-data": dict.fromkeys(FATES, 0) | {"received": 3, "accepted": 3}}}, indent=2
    ) + "\n"


@pytest.mark.parametrize(
    ("equip_id", "text"),
    [
        (110, "110"),
        ("110", "110"),
        ("kiln 7/é", "kiln 7/é"),
        ("", ""),
        (-5, "-5"),
        (2**70, str(2**70)),
        (110.0, "110.0"),
        (2.50, "2.5"),
        (True, "true"),
    ],
)
def test_an_equip_id_is_kept_as_text_whatever_it_is(run: Callable[..., Done], equip_id: Any, text: str) -> None:
    (found,) = run(lines(message(START, {"a": 1}, equip_id))).fingerprints
    assert (found["equip_id"], found["uuid"]) == (text, uuid_of(text, START))


def test_an_equip_id_is_the_same_as_a_number_and_as_text(run: Callable[..., Done]) -> None:
    (found,) = run(lines(message(START, {"a": 1}, 110), message(START, {"a": 3}, "110"))).fingerprints
    assert found["data"]["a"]["mean"] == 2.0


@pytest.mark.parametrize(
    "value",
    ["null", "", " ", "NaN", "inf", "-Infinity", "7d", "0x10", "1_000", "1,5", "1e400", "\u0665", None, True, [], [1], {"v": 1}],
    ids=repr,
)
def test_what_is_no_number_is_no_value_and_its_sensor_is_absent(run: Callable[..., Done], value: Any) -> None:
    done = run(lines(message(START, {"bad": value, "good": "1"}), message(START, {"bad": value})))
    assert list(done.fingerprints[0]["data"]) == ["good"]
    assert done.ledger == {"received": 2, "accepted": 1, "filtered": 1}
    assert done.dead == []


@pytest.mark.parametrize(
    ("value", "number"),
    [("45.234", 45.234), (" 7 ", 7.0), ("+5", 5.0), (".5", 0.5), ("5.", 5.0), ("1e3", 1000.0), ("-0.0", -0.0), (7, 7.0), (2**63, 2.0**63), (1e308, 1e308), ("007", 7.0)],
)  # fmt: skip
def test_a_number_is_a_value_as_text_and_as_itself(run: Callable[..., Done], value: Any, number: float) -> None:
    assert run(lines(message(START, {"a": value}))).fingerprints[0]["data"]["a"]["min"] == number


def test_a_number_too_large_for_a_double_is_no_value(run: Callable[..., Done]) -> None:
    done = run(lines(b'{"equip_id":1,"timestamp":%d,"data":{"a":1e400,"b":%s,"c":1}}' % (START, b"9" * 400)))
    assert list(done.fingerprints[0]["data"]) == ["c"]


@pytest.mark.parametrize(
    ("values", "median", "deviation"),
    [
        ([3, 1, 2], 2.0, (2 / 3) ** 0.5),
        ([4, 1, 2, 9], 3.0, statistics.pstdev([4, 1, 2, 9])),
        ([5], 5.0, 0.0),
        ([5, 5, 5, 5], 5.0, 0.0),
        ([1, 2], 1.5, 0.5),
        ([2, 4, 4, 4, 5, 5, 7, 9], 4.5, 2.0),
        ([1e9 + 4, 1e9 + 7, 1e9 + 13, 1e9 + 16], 1e9 + 10, 22.5**0.5),
    ],
)
def test_the_median_interpolates_and_the_deviation_is_the_populations(
    run: Callable[..., Done], values: list[float], median: float, deviation: float
) -> None:
    found = run(lines(*(message(START + n, {"a": value}) for n, value in enumerate(values)))).fingerprints[0]["data"]["a"]
    assert (found["min"], found["max"], found["median"]) == (min(values), max(values), median)
    assert found["mean"] == pytest.approx(statistics.fmean(values), rel=1e-12)
    assert found["std_dev"] == pytest.approx(deviation, rel=1e-9)


def test_sensors_are_sorted_and_opaque(run: Callable[..., Done]) -> None:
    names = ["0010", "0002", "b", "A", "é", "a b", '"quoted"', "", "ü/ä", "😀"]
    found = run(lines(message(START, dict.fromkeys(names[:5], 1)), message(START, dict.fromkeys(reversed(names), 2)))).fingerprints[0]["data"]
    assert list(found) == sorted(names)


def test_of_a_repeated_key_the_last_counts(run: Callable[..., Done]) -> None:
    done = run(lines(b'{"equip_id":1,"timestamp":5,"data":{"a":"1","a":"2"},"equip_id":"x","timestamp":%d}' % START))
    (found,) = done.fingerprints
    assert (found["equip_id"], found["start_ms"], found["data"]["a"]["mean"]) == ("x", START, 2.0)


def test_undeclared_fields_are_passed_over(run: Callable[..., Done]) -> None:
    line = b'{"site":{"a":[1,{"b":null}]},"equip_id":110,"note":"\\u00e9\\n","timestamp":%d,"data":{"a":"1"},"x":1e9}' % START
    assert run(lines(line)).written == run(lines(message(START, {"a": "1"}))).written


@pytest.mark.parametrize("data", [{}, None, {"a": None}, {"a": "null", "b": "null"}])
def test_a_message_without_a_value_is_filtered_and_makes_no_fingerprint(run: Callable[..., Done], data: Any) -> None:
    done = run(lines(message(START, data)), lines(b'{"equip_id":110,"timestamp":%d}' % START))
    assert (done.written, done.dead, done.ledger) == (b"", [], {"received": 2, "filtered": 2})


def test_windows_are_aligned_to_the_minute_and_exclude_their_end(run: Callable[..., Done]) -> None:
    times = [START + 25_000, START + 59_999, START + 60_000, START + 60_001, START + 119_999, START + 300_000]
    done = run(lines(*(message(time, {"a": 1 + n}) for n, time in enumerate(times))))
    found = [(one["start_ms"], one["end_ms"], one["data"]["a"]["min"], one["data"]["a"]["max"]) for one in done.fingerprints]
    assert found == [
        (START, START + 60_000, 1.0, 2.0), (START + 60_000, START + 120_000, 3.0, 5.0), (START + 300_000, START + 360_000, 6.0, 6.0),
    ]  # fmt: skip


def test_fingerprints_come_by_window_and_then_by_equipment(run: Callable[..., Done]) -> None:
    done = run(lines(*(message(START + time, {"a": 1}, equip) for time in (0, 60_000) for equip in (9, 110, "b", 11, "B"))))
    order = [(one["start_ms"], one["equip_id"]) for one in done.fingerprints]
    assert order == [(start, equip) for start in (START, START + 60_000) for equip in ("11", "110", "9", "B", "b")]


def test_a_late_message_counts_in_the_ledger_and_nowhere_else(run: Callable[..., Done]) -> None:
    """The table of docs/time.md."""
    times = [START + 30_000, START + 69_998, START + 59_000, START + 70_000, START + 59_000]
    done = run(lines(*(message(time, {"a": 1 + n}) for n, time in enumerate(times))))
    assert [(one["start_ms"], one["data"]["a"]["min"], one["data"]["a"]["max"]) for one in done.fingerprints] == [
        (START, 1.0, 3.0),
        (START + 60_000, 2.0, 4.0),
    ]
    assert done.ledger == {"received": 5, "accepted": 4, "late": 1}


def test_partitions_are_late_each_by_itself_and_their_windows_are_common(run: Callable[..., Done]) -> None:
    ahead = lines(*(message(START + second * 1000, {"a": 1}) for second in range(0, 300, 10)))
    behind = lines(message(START + 1, {"a": 3}), message(START + 130_000, {"a": 5}), message(START + 2, {"a": 7}))
    done = run(ahead, behind)
    assert done.ledger == {"received": 33, "accepted": 32, "late": 1}
    assert done.fingerprints[0]["data"]["a"]["max"] == 3.0
    assert done.written == run(behind, ahead).written


def test_a_replay_gives_the_same_bytes(run: Callable[..., Done]) -> None:
    data = lines(*(message(START + 700 * n, {"a": n / 7, "b": str(n * 1.1)}, n % 5) for n in range(2000)))
    first, second = run(data), run(data)
    assert first.written == second.written
    assert len(first.fingerprints) == 24 * 5


# bad input: nothing is lost, and no neighbour is touched

GOOD = message(START, {"0001": "1"})
BAD: dict[str, tuple[bytes, str]] = {
    "truncated JSON": (b'{"equip_id":110,"timestamp":1705314600000,"data":{"0001":"1"', "not JSON"),
    "a line that ends inside a string": (b'{"equip_id":"11', "not JSON"),
    "a line that ends inside a key": (b'{"equip_id":110,"times', "not JSON"),
    "an array": (b"[" + GOOD + b"]", "not a JSON object but an array"),
    "an empty array": (b"[]", "not a JSON object but an array"),
    "a number": (b"5", "not a JSON object but a number"),
    "a text": (b'"{}"', "not a JSON object but a text"),
    "null": (b"null", "not a JSON object but null"),
    "a boolean": (b"true", "not a JSON object but a boolean"),
    "two objects on a line": (GOOD + GOOD, "not JSON: trailing characters"),
    "two objects with a comma between": (GOOD + b"," + GOOD, "not JSON: trailing characters"),
    "an object and more": (GOOD + b" x", "not JSON: trailing characters"),
    "a trailing comma": (b'{"equip_id":110,"timestamp":1705314600000,"data":{},}', "not JSON"),
    "Python's quotes": (b"{'equip_id': 110}", "not JSON"),
    "a tab inside a string": (b'{"equip_id":"a\tb","timestamp":1705314600000,"data":{}}', "not JSON"),
    "a NUL": (b"\x00", "not JSON"),
    "no fields": (b"{}", "NULL in NOT NULL column 'equip_id'"),
    "no equip_id": (b'{"timestamp":1705314600000,"data":{"0001":"1"}}', "NULL in NOT NULL column 'equip_id'"),
    "a null equip_id": (message(START, {"0001": "1"}, None), "NULL in NOT NULL column 'equip_id'"),
    "data that is an array": (message(START, ["1"]), "field 'data' is not a MAP: "),
    "data that is a text": (message(START, "1"), "field 'data' is not a MAP: "),
    "data that is a number": (message(START, 1), "field 'data' is not a MAP: "),
    "no time": (b'{"equip_id":110,"data":{"0001":"1"}}', "no event time: timestamp is None"),
    "a null time": (b'{"equip_id":110,"timestamp":null,"data":{"0001":"1"}}', "no event time: timestamp is None"),
    "a time in words": (b'{"equip_id":110,"timestamp":"soon","data":{"0001":"1"}}', "field 'timestamp' is not a BIGINT: 'soon'"),
    "a time in ISO 8601": (b'{"equip_id":110,"timestamp":"2024-01-15T10:30:00Z","data":{}}', "field 'timestamp' is not a BIGINT"),
    "a time with a fraction": (b'{"equip_id":110,"timestamp":1705314600000.5,"data":{}}', "field 'timestamp' is not a BIGINT: 1705314600000.5"),
    "a time that is an object": (b'{"equip_id":110,"timestamp":{},"data":{}}', "field 'timestamp' is not a BIGINT"),
    "a time that is a boolean": (b'{"equip_id":110,"timestamp":true,"data":{}}', "field 'timestamp' is not a BIGINT"),
    "the time 0": (message(0, {"0001": "1"}), "event time 1970-01-01T00:00:00Z is outside 2000-01-01T00:00:00Z to 2100-01-01T00:00:00Z"),
    "a negative time": (message(-1, {"0001": "1"}), "event time 1969-12-31T23:59:59Z is outside"),
    "seconds where ms are meant": (message(START // 1000, {"0001": "1"}), "event time 1970-01-20T17:41:54Z is outside"),
    "nanoseconds where ms are meant": (message(START * 10**6, {"0001": "1"}), "no event time: timestamp is 1705314600000000000"),
    "a time in 2262": (message(9_223_372_036_854, {"0001": "1"}), "event time 2262-04-11T23:47:16Z is outside"),
    "a time just too early": (message(946_684_799_999, {"0001": "1"}), "event time 1999-12-31T23:59:59Z is outside"),
    "a time just too late": (message(4_102_444_800_000, {"0001": "1"}), "event time 2100-01-01T00:00:00Z is outside"),
    "a time beyond 64 bits": (message(2**63, {"0001": "1"}), "field 'timestamp' is not a BIGINT: 9223372036854775808"),
    "a time beyond a double": (b'{"equip_id":110,"timestamp":1e400,"data":{}}', "field 'timestamp' is not a BIGINT: 1e400"),
    "a huge number for a text": (b'{"equip_id":1e400,"timestamp":1705314600000,"data":{}}', "field 'equip_id' is not a STRING: 1e400"),
    "a bare NaN": (b'{"equip_id":110,"timestamp":1705314600000,"data":{"0001":NaN}}', "not JSON"),
    "a bare infinity": (b'{"equip_id":110,"timestamp":1705314600000,"data":{"0001":-Infinity}}', "not JSON"),
    "a bare .5": (b'{"equip_id":110,"timestamp":1705314600000,"data":{"0001":.5}}', "not JSON"),
    "a bare +1": (b'{"equip_id":110,"timestamp":1705314600000,"data":{"0001":+1}}', "not JSON"),
    "a leading zero": (b'{"equip_id":0110,"timestamp":1705314600000,"data":{}}', "not JSON"),
    "a lone surrogate": (b'{"equip_id":"\\ud800","timestamp":1705314600000,"data":{}}', "not JSON"),
    "a lone low surrogate in a key": (b'{"equip_id":110,"timestamp":1705314600000,"data":{"\\udc00":"1"}}', "not JSON"),
    "a lone surrogate at the end": (b'{"equip_id":110,"timestamp":1705314600000,"data":{"0001":"\\udbff"}}', "not JSON"),
    "nesting without end": (b'{"equip_id":110,"timestamp":1705314600000,"data":{"0001":' + b"[" * 50_000 + b"]" * 50_000 + b"}}", "nested too deeply"),
    "invalid UTF-8": (b'{"equip_id":"\xff","timestamp":1705314600000,"data":{}}', "not UTF-8: byte 0xff at 13"),
    "UTF-8 cut short": (b'{"equip_id":"\xc3","timestamp":1705314600000,"data":{}}', "not UTF-8: byte 0xc3 at 13"),
    "an encoded surrogate": (b'{"equip_id":"\xed\xa0\x80","timestamp":1705314600000,"data":{}}', "not UTF-8: byte 0xed at 13"),
    "Latin-1": ("Außentemperatur".encode("latin-1"), "not UTF-8: byte 0xdf at 2"),
}  # fmt: skip


def dead_letter(offset: int, raw: bytes, partition: int = 0) -> dict[str, Any]:
    """The dead letter without its detail, in the order of its fields."""
    letter = {
        "pipeline": "fingerprint",
        "topic": "sensor-data",
        "partition": partition,
        "offset": offset,
        "reason": "malformed",
        "detail": ...,
        "arrived_ms": None,
    }
    try:
        return letter | {"raw": raw.decode()}
    except UnicodeDecodeError:
        return letter | {"raw_base64": base64.b64encode(raw).decode()}


@pytest.mark.parametrize(("record", "why"), BAD.values(), ids=BAD)
def test_a_bad_record_becomes_a_dead_letter_as_it_came_and_its_neighbours_go_on(run: Callable[..., Done], record: bytes, why: str) -> None:
    before, after = message(START, {"0001": "2", "0002": "3"}), message(START + 1, {"0001": "8"}, 111)
    done = run(lines(before, record, after, record))
    assert [letter | {"detail": ...} for letter in done.dead] == [dead_letter(1, record), dead_letter(3, record)]
    assert [list(letter) for letter in done.dead] == [list(dead_letter(1, record))] * 2
    assert all(why in letter["detail"] for letter in done.dead), done.dead[0]["detail"]
    assert [{sensor: found["mean"] for sensor, found in one["data"].items()} for one in done.fingerprints] == [
        {"0001": 2.0, "0002": 3.0},
        {"0001": 8.0},
    ]
    assert done.ledger == {"received": 4, "accepted": 2, "malformed": 2}


def test_all_kinds_of_bad_records_among_many_good_ones_cost_no_neighbour(run: Callable[..., Done]) -> None:
    good = [message(START + 100 * n, {"0001": str(n), "0002": n}, 110 + n % 3) for n in range(3000)]
    records, spoilt = [], []
    for n, one in enumerate(good):
        if n % 40 == 7:
            record = list(BAD.values())[n // 40 % len(BAD)][0]
            spoilt.append((len(records), record))
            records.append(record)
        records.append(one)
    done = run(lines(*records))
    assert [letter | {"detail": ...} for letter in done.dead] == [dead_letter(offset, record) for offset, record in spoilt]
    assert done.written == run(lines(*good)).written
    assert done.ledger == {"received": len(records), "accepted": len(good), "malformed": len(spoilt)}


def test_dead_letters_of_several_files_come_in_the_order_of_partition_and_offset(run: Callable[..., Done]) -> None:
    done = run(lines(b"x", GOOD, b"\xff"), lines(GOOD, b"y"), lines(b"z"))
    assert [letter | {"detail": ...} for letter in done.dead] == [
        dead_letter(0, b"x"), dead_letter(2, b"\xff"), dead_letter(1, b"y", partition=1), dead_letter(0, b"z", partition=2),
    ]  # fmt: skip


def test_blank_lines_are_no_records(run: Callable[..., Done]) -> None:
    done = run(b"\n\n" + GOOD + b"\n \t\n\r\n" + b"oops\n\n" + GOOD + b"\n\n\n")
    assert done.ledger == {"received": 3, "accepted": 2, "malformed": 1}
    assert done.dead[0]["offset"] == 1, "the offset counts records, not lines"


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
def test_a_byte_order_mark_crlf_and_a_missing_last_line_end_are_accepted(run: Callable[..., Done], end: bytes) -> None:
    done = run(b"\xef\xbb\xbf" + GOOD + b"\r\noops\r\n" + GOOD + end)
    assert done.ledger == {"received": 3, "accepted": 2, "malformed": 1}
    assert done.dead[0]["raw"] == "oops"
    assert done.written == run(lines(GOOD, GOOD)).written


def test_a_byte_order_mark_anywhere_else_is_not_json(run: Callable[..., Done]) -> None:
    record = b"\xef\xbb\xbf" + GOOD
    done = run(lines(GOOD, record))
    assert [letter | {"detail": ...} for letter in done.dead] == [dead_letter(1, record)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_line_of_10_mb_is_a_record_as_any_other(run: Callable[..., Done], end: bytes) -> None:
    good = message(START, {"0001": "1", "long": "x" * 10_000_000})
    bad = good[:-2]
    done = run(lines(GOOD, good, bad, GOOD, end=end))
    assert done.ledger == {"received": 4, "accepted": 3, "malformed": 1}
    assert done.dead[0]["raw"].encode() == bad
    assert done.fingerprints[0]["data"]["0001"]["mean"] == 1.0


def test_an_empty_file_gives_empty_outputs(run: Callable[..., Done]) -> None:
    done = run(b"")
    assert (done.written, done.dead, done.ledger) == (b"", [], {})


def test_every_fate_of_the_contract_stands_in_the_ledger_and_it_balances(run: Callable[..., Done]) -> None:
    done = run(
        lines(
            message(START, {"a": 1}),
            b"oops",
            message(START + 100_000, {"a": 1}),
            message(START + 5, {"a": 1}),
            message(START + 100_000, {"a": "null"}),
        ),
        lines(message(START, {"a": 1}), b"{}"),
    )
    counts = json.loads((done.folder / "ledger.json").read_text())
    assert counts == {
        "pipeline": "fingerprint",
        "sources": {
            "sensor-data": {"received": 7, "accepted": 3, "malformed": 2, "future": 0, "duplicate": 0, "late": 1, "filtered": 1, "shed": 0},
        },
    }  # fmt: skip
    received, *fates = counts["sources"]["sensor-data"].values()
    assert received == sum(fates)
    assert tuple(counts["sources"]["sensor-data"]) == FATES


# F5


def test_the_window_is_as_long_as_the_environment_says(run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    data = lines(message(START, {"a": 1}), message(START + 4 * MINUTE, {"a": 3}), message(START + 5 * MINUTE, {"a": 5}))
    monkeypatch.setenv("WINDOW_SIZE_MINUTES", "5")
    found = [(one["start_ms"], one["end_ms"], one["data"]["a"]["mean"]) for one in run(data).fingerprints]
    assert found == [(START, START + 5 * MINUTE, 2.0), (START + 5 * MINUTE, START + 10 * MINUTE, 5.0)]
    assert len(run(data, options=("--set", "window_size_minutes=1")).fingerprints) == 3, "the command line comes before the environment"


@pytest.mark.parametrize(("seconds", "late"), [("0", 2), ("1", 1), ("10", 0)])
def test_the_watermark_stays_behind_by_what_the_environment_says(
    run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, seconds: str, late: int
) -> None:
    monkeypatch.setenv("WATERMARK_SECONDS", seconds)
    times = [START + 60_500, START + 1, START + 61_500, START + 2]
    ledger = run(lines(*(message(time, {"a": 1}) for time in times))).ledger
    assert ledger.get("late", 0) == late


# the simulator and the pipeline


def test_a_simulated_kiln_through_a_pipe_gives_what_plain_python_gives(run: Callable[..., Done]) -> None:
    command = Path(sys.executable).with_name("headrace")
    options = "--seed 7 --records 3000 --start 2024-01-15T10:30:20Z --numbers 0.3 --to kiln.ndjson"
    subprocess.run([command, "simulate", "kiln", *options.split()], check=True, stdout=subprocess.DEVNULL)
    printed = subprocess.run([command, "run", "fingerprint", "--input", "-"], input=Path("kiln.ndjson").read_bytes(), capture_output=True, check=True)
    values: dict[tuple[int, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    messages = [json.loads(line) for line in Path("kiln.ndjson").read_text().splitlines()]
    empty = sum(set(one["data"].values()) == {"null"} for one in messages)
    assert printed.stderr.decode() == f"sensor-data: 3,000 received = {3000 - empty:,} accepted + {empty} filtered\n"
    for one in messages:
        for sensor, value in one["data"].items():
            if value != "null":
                values[one["timestamp"] // MINUTE * MINUTE, str(one["equip_id"])][sensor].append(float(value))
    expected = [
        {
            "uuid": uuid_of(equip_id, start), "equip_id": equip_id, "type": "kiln", "start_ms": start, "end_ms": start + MINUTE,
            "data": {sensor: statistics_of(found) for sensor, found in sorted(sensors.items())},
        }
        for (start, equip_id), sensors in sorted(values.items())
    ]  # fmt: skip
    assert [json.loads(line)["fingerprint"] for line in printed.stdout.splitlines()] == expected
    assert printed.stdout == run(Path("kiln.ndjson").read_bytes()).written


def test_the_faults_of_the_simulated_kiln_are_all_accounted_for(run: Callable[..., Done]) -> None:
    options = "--seed 3 --records 5000 --start 2024-01-15T10:30:20Z --numbers 0.3 --bad 0.05 --disorder 15s --to kiln.ndjson"
    assert main(["simulate", "kiln", *options.split()]) == 0
    data = Path("kiln.ndjson").read_bytes()
    done = run(data)
    assert sum(done.ledger.values()) == 2 * done.ledger["received"] == 10_000
    assert set(done.ledger) == {"received", "accepted", "malformed", "late"}
    assert [letter["raw"].encode() for letter in done.dead] == [data.splitlines()[letter["offset"]] for letter in done.dead]
    assert len(done.dead) == done.ledger["malformed"]
    assert all(one["offset"] < other["offset"] for one, other in pairwise(done.dead))
