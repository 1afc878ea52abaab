"""Files that grow: each whole line once, whatever becomes of the files and of the bridge."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from outside import values_of

from forking import started
from headrace.cli import main
from headrace.cli.bridge import source_of
from headrace.connectors.following import followed, source
from headrace.connectors.following.source import Following
from headrace.connectors.protocol import Event
from headrace.topics.sqlite import SqliteLog
from waiting import wait_for

LIMIT = 400.0

Step = Callable[[], object]


class _DoneError(Exception):
    pass


def follow(address: str, *steps: Step, position: Any = None, told: list[str] | None = None) -> list[Event]:
    """Return the events of an address. A step is taken each time when nothing more came; after the last one, it ends."""
    one = source_of(address)
    assert isinstance(one, Following)
    left = list(steps)
    if told is not None:
        one.tell = told.append

    async def pause() -> None:
        if not left:
            raise _DoneError
        left.pop(0)()

    one._pause = pause

    async def collect() -> list[Event]:
        found = []
        try:
            events = await one.open(position)
            assert events is not None
            async for event in events:
                found.append(event)  # noqa: PERF401  (it ends with an exception)
        except _DoneError:
            return found
        finally:
            await one.close()
        raise AssertionError

    return asyncio.run(asyncio.wait_for(collect(), LIMIT))


def stored(position: Any) -> Any:
    """Return a position as it comes back from a commit."""
    return msgspec.json.decode(msgspec.json.encode(position))


def numbers(events: Sequence[Event]) -> list[int]:
    assert [event.malformed for event in events] == [None] * len(events)
    return [json.loads(event.value)["n"] for event in events]


def lines(*given: int) -> str:
    return "".join(f'{{"n":{number}}}\n' for number in given)


def add(path: str, text: str) -> Step:
    def step() -> None:
        with Path(path).open("a") as file:
            file.write(text)

    return step


@pytest.fixture(autouse=True)
def folder(home: Path) -> Path:
    return home.parent


def test_whole_lines_come_as_they_are_written_and_a_partial_one_waits() -> None:
    add("a.ndjson", lines(1, 2) + '{"n"')()
    events = follow("file:a.ndjson", lambda: None, add("a.ndjson", ":3}"), add("a.ndjson", "\n\r\n \n" + lines(4).replace("\n", "\r\n")))
    assert [event.value for event in events] == [b'{"n":1}', b'{"n":2}', b'{"n":3}', b'{"n":4}']
    assert [event.position["at"] for event in events] == [8, 16, 24, 37]


def test_each_position_resumes_after_its_event() -> None:
    add("a.ndjson", "".join(lines(number) for number in range(10)))()
    events = follow("file:a.ndjson")
    for number, event in enumerate(events):
        assert numbers(follow("file:a.ndjson", add("a.ndjson", ""), position=stored(event.position))) == list(range(number + 1, 10))


def test_a_renamed_file_is_read_to_its_end_before_the_next_one() -> None:
    def rotate() -> None:
        add("a.ndjson", lines(2, 3))()
        Path("a.ndjson").rename("a.ndjson.1")
        add("a.ndjson", lines(5))()
        add("a.ndjson.1", lines(4))()

    add("a.ndjson", lines(1))()
    late = [add("a.ndjson.1", lines(6)), add("a.ndjson", lines(7))]
    assert numbers(follow("file:a.ndjson", rotate, *late)) == [1, 2, 3, 4, 5, 6, 7]


def test_a_file_that_was_renamed_while_nobody_looked_is_found_by_its_inode() -> None:
    add("a.ndjson", lines(1, 2))()
    events = follow("file:a.ndjson")
    add("a.ndjson", lines(3))()
    Path("a.ndjson").rename("b.old")
    add("a.ndjson", lines(4))()
    for event, rest in zip(events, ([2, 3, 4], [3, 4]), strict=True):
        assert numbers(follow("file:a.ndjson", position=stored(event.position))) == rest


def test_a_file_that_is_removed_or_moved_away_while_it_is_read_is_read_to_its_end() -> None:
    def remove() -> None:
        add("a.ndjson", lines(2))()
        Path("a.ndjson").unlink()
        add("a.ndjson", lines(3))()

    def move() -> None:
        add("a.ndjson", lines(4))()
        Path("archive").mkdir()
        Path("a.ndjson").rename("archive/a.ndjson")
        add("a.ndjson", lines(5))()

    add("a.ndjson", lines(1))()
    assert numbers(follow("file:a.ndjson", remove, move)) == [1, 2, 3, 4, 5]


def test_a_file_that_is_replaced_is_read_from_its_beginning() -> None:
    def replace() -> None:
        add("new", lines(3, 4, 5))()
        Path("new").replace("a.ndjson")

    def rewrite() -> None:
        Path("a.ndjson").write_text(lines(6, 7, 8, 9))

    add("a.ndjson", lines(1, 2))()
    assert numbers(follow("file:a.ndjson", replace, rewrite)) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    last = follow("file:a.ndjson")[-1]
    rewrite()
    assert numbers(follow("file:a.ndjson", position=stored(last.position))) == []
    Path("a.ndjson").write_text(lines(10, 11, 12, 13, 14))
    assert numbers(follow("file:a.ndjson", position=stored(last.position))) == [10, 11, 12, 13, 14]


def test_a_file_that_was_written_anew_with_the_same_beginning_goes_on() -> None:
    def rewrite() -> None:
        add("new", lines(1, 2, 3))()
        Path("new").replace("a.ndjson")

    add("a.ndjson", lines(1, 2))()
    last = follow("file:a.ndjson")[-1]
    rewrite()
    assert numbers(follow("file:a.ndjson", position=stored(last.position))) == [3]


@pytest.mark.parametrize("pattern", ["a.ndjson", "a.ndjson*"])
def test_a_truncation_is_recognised_and_the_copy_made_before_it_is_read_to_its_end(pattern: str) -> None:
    def copy() -> None:
        add("a.ndjson", lines(2))()
        shutil.copy("a.ndjson", "a.ndjson.1")

    def truncate() -> None:
        os.truncate("a.ndjson", 0)
        add("a.ndjson", lines(3))()

    def both() -> None:
        copy()
        os.truncate("a.ndjson", 0)
        add("a.ndjson", lines(4))()

    add("a.ndjson", lines(1))()
    told: list[str] = []
    assert numbers(follow(f"file:{pattern}", copy, truncate, told=told)) == [1, 2, 3]
    assert told == []
    Path("a.ndjson.1").unlink()
    add("a.ndjson", lines(31))()
    first = follow(f"file:{pattern}")[0]
    both()  # the new content may be longer than what was read of the old one
    assert numbers(follow(f"file:{pattern}", position=stored(first.position))) == [31, 2, 4]


def test_a_copy_that_stays_beside_its_file_is_a_file_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "COPYING_NS", 0)
    add("a.ndjson", lines(1))()
    assert numbers(follow("file:*.ndjson", lambda: shutil.copy("a.ndjson", "b.ndjson"))) == [1, 1]


def test_what_is_lost_is_said() -> None:
    add("a.ndjson", lines(1, 2))()
    first = follow("file:a.ndjson")[0]
    os.truncate("a.ndjson", 0)
    told: list[str] = []
    assert numbers(follow("file:a.ndjson", position=stored(first.position), told=told)) == []
    assert told == ["a.ndjson was removed or truncated before it was read to its end; what it had after byte 8 is lost"]


def test_files_of_a_pattern_and_of_a_folder_come_by_their_age() -> None:
    Path("logs/deep").mkdir(parents=True)
    for number, name in enumerate(["b.ndjson", "a.ndjson", "deep/c.jsonl", "x.txt", "z.ndjson.gz", ".hidden.ndjson"]):
        add(f"logs/{name}", lines(number))()
        os.utime(f"logs/{name}", (1e9 + number, 1e9 + number))
    assert numbers(follow("file:logs", add("logs/d.json", lines(7)))) == [0, 1, 7]
    assert numbers(follow("file:logs/")) == [0, 1, 7]
    assert numbers(follow("file:logs/**/*.*")) == [0, 1, 2, 7]
    assert numbers(follow("file:logs/?.ndjson".replace("?", "%3F"))) == [0, 1]
    assert numbers(follow("file:logs/x.txt?format=ndjson")) == [3]
    Path("logs/current.ndjson").symlink_to("b.ndjson")
    assert numbers(follow("file:logs/*.ndjson")) == [0, 1]


def test_many_files_are_followed_with_few_open_and_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MOST_OPEN", 3)
    for number in range(20):
        add(f"{number}.ndjson", lines(number))()
        os.utime(f"{number}.ndjson", (1e9 + number, 1e9 + number))
    events = follow("file:*.ndjson", add("3.ndjson", lines(20)), lambda: Path("5.ndjson").rename("5.old"), add("5.old", lines(21)))
    assert numbers(events) == list(range(22))
    Path("5.old").rename("5.ndjson")
    for number in (0, 7, 19, 20):
        rest = follow("file:*.ndjson", position=stored(events[number].position))
        assert sorted(numbers(rest)) == list(range(number + 1, 22))


def test_what_a_file_ends_in_comes_when_nobody_can_write_it_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "QUIET_NS", -(10**18))
    add("a.ndjson", lines(1) + '{"n":2}')()
    add("b.ndjson", lines(3) + '{"n":4')()
    events = follow("file:?.ndjson".replace("?", "%3F"), lambda: Path("a.ndjson").rename("a.old"), lambda: Path("b.ndjson").unlink())
    assert [event.value for event in events] == [b'{"n":1}', b'{"n":3}', b'{"n":2}', b'{"n":4']
    assert [event.malformed is None for event in events] == [True, True, True, False]
    assert follow("file:%3F.ndjson", position=stored(events[-1].position)) == []


# what is in the lines


def test_csv_becomes_objects_by_the_header_and_a_bad_line_costs_only_itself() -> None:
    Path("a.csv").write_bytes(b'\xef\xbb\xbfn;text;more\r\n1;"a ""b"";c";\r\n\r\n2;x\r\n3;\xff;z\r\n4;"open;z\r\n5;y;z\r\n')
    events = follow("file:a.csv")
    assert [json.loads(event.value) for event in events if event.malformed is None] == [
        {"n": "1", "text": 'a "b";c'},
        {"n": "5", "text": "y", "more": "z"},
    ]
    assert [(event.value, event.malformed) for event in events if event.malformed] == [
        (b"2;x", "a.csv: 2 cells where the header names 3"),
        (b"3;\xff;z", "a.csv: not UTF-8"),
        (b'4;"open;z', "a.csv: not CSV: unexpected end of data"),
    ]
    add("a.csv", "6;y;z\n")()
    (last,) = follow("file:a.csv", position=stored(events[-1].position))
    assert json.loads(last.value) == {"n": "6", "text": "y", "more": "z"}


def test_a_new_file_has_a_header_of_its_own_and_a_truncated_one_may_have_none() -> None:
    def rotate() -> None:
        Path("a.csv").rename("a.csv.1")
        add("a.csv", "m,n\n5,2\n")()

    def truncate(text: str) -> Step:
        def step() -> None:
            os.truncate("a.csv", 0)
            add("a.csv", text)()

        return step

    add("a.csv", "n\n1\n")()
    events = follow("file:a.csv", rotate, truncate("6,3\n"), truncate("m,n\n7,4\n"), truncate("n,k\n5,0\n"))
    assert [json.loads(event.value) for event in events] == [
        {"n": "1"},
        {"m": "5", "n": "2"},
        {"m": "6", "n": "3"},
        {"m": "7", "n": "4"},
        {"n": "5", "k": "0"},
    ]
    truncate("6,0\n")()
    (last,) = follow("file:a.csv", add("a.csv", ""), position=stored(events[-1].position))
    assert json.loads(last.value) == {"n": "6", "k": "0"}
    add("a.csv", "7,0\n")()
    (last,) = follow("file:a.csv", position=stored(last.position))
    assert json.loads(last.value) == {"n": "7", "k": "0"}


def test_below_a_header_that_is_wrong_no_line_is_a_record_and_other_files_go_on() -> None:
    add("a.csv", "n,n\n1,2\n")()
    add("b.csv", "n\n1\n")()
    os.utime("a.csv", (1e9, 1e9))
    events = follow("file:*.csv")
    what = "a.csv: has column 'n' twice"
    assert [(event.value, event.malformed) for event in events] == [(b"n,n", what), (b"1,2", what), (b'{"n":"1"}', None)]


def test_a_line_that_is_too_long_is_cut_and_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed, "CHUNK_BYTES", 64)
    long, fits = '{"n":' + " " * 400 + "0}", '{"n":' + " " * 150 + "2}"
    address = "file:a.ndjson?max_bytes=200"
    add("a.ndjson", lines(1) + long[:300])()
    events = follow(address, add("a.ndjson", long[300:] + "\n" + fits), add("a.ndjson", "\n" + lines(3)))
    assert [event.malformed for event in events] == [
        None,
        "a.ndjson: a line has 408 bytes, more than 200; the first of them are here",
        None,
        None,
    ]
    assert events[1].value == long[:200].encode()
    assert numbers([events[0], *events[2:]]) == [1, 2, 3]
    for number, event in enumerate(events):
        assert [one.value for one in follow(address, position=stored(event.position))] == [one.value for one in events[number + 1 :]]


def test_readings_of_a_long_and_a_wide_file() -> None:
    add("long.csv", "time,tag,value,q\n2026-01-05T08:00:00Z,0001,71.50,192\n1767600001000,B,Bad Input,\n,C,,true\n")()
    events = follow("file:long.csv?as=reading&tag={$.tag}&value=$.value&time=$.time&quality=$.q")
    found = [{key: value for key, value in json.loads(event.value).items() if key != "arrival_time"} for event in events]
    assert [(one["tag"], one["value"], one["quality"], one["source_time"]) for one in found] == [
        ("0001", 71.5, 192, 1767600000000),
        ("B", None, 0x809B0000, 1767600001000),
        ("C", None, 0x809B0000, None),
    ]
    add("wide.csv", "time,A,B\n0,1,x\n1,-2.5e0,\n")()
    events = follow("file:wide.csv?as=reading&tag={*}&value=$.*&time=$.time&time_unit=s")
    assert [(event.key, json.loads(event.value)["value"], json.loads(event.value)["time"]) for event in events] == [
        ("A", 1, 0),
        ("B", "x", 0),
        ("A", -2.5, 1000),
    ]
    for number, event in enumerate(events):
        rest = follow("file:wide.csv?as=reading&tag={*}&value=$.*&time=$.time&time_unit=s", position=stored(event.position))
        assert [one.key for one in rest] == ["A", "B", "A"][number + 1 :]


# any sequence of what may happen


class Writer:
    """A program that writes numbered lines into a log, which is rotated; and a bridge that is killed."""

    def __init__(self, dice: random.Random, format: str, pattern: str) -> None:
        self.dice, self.name, self.address = dice, f"a.{format}", f"file:{pattern}"
        self.csv, self.count, self.rotated, self.rest = format == "csv", 0, 0, ""
        self.kept: list[int] = []
        self.position: Any = None
        self._begin()

    def _begin(self) -> None:
        add(self.name, "n,text\n" if self.csv else "")()

    def write(self) -> None:
        text = self.rest
        for _ in range(self.dice.randrange(1, 6)):
            text += f"{self.count},{'x' * self.dice.randrange(9)}\n" if self.csv else f'{{"n":{self.count}}}\n'
            self.count += 1
        cut = self.dice.randrange(len(text) + 1) if self.dice.random() < 0.5 else len(text)
        self.rest = text[cut:]
        add(self.name, text[:cut])()

    def _end_line(self) -> None:
        add(self.name, self.rest)()
        self.rest = ""

    def _before_rotation(self) -> None:
        """End the line. Of a file under one name something must have been committed: one that was never seen cannot be found."""
        if not self.address.endswith("*"):
            self.write()
            self._end_line()
            self.take(follow(self.address, position=self.position))
            self.write()
        self._end_line()

    def rename(self) -> None:
        self._before_rotation()
        self.rotated += 1
        Path(self.name).rename(f"{self.name}.{self.rotated}")
        self._begin()

    def copy(self) -> None:
        """Copy, truncate, and look at times between the two; the log goes on without a header."""
        self._before_rotation()
        self.rotated += 1
        shutil.copy(self.name, f"{self.name}.{self.rotated}")
        if self.dice.random() < 0.5:
            self.look(writing=False)  # what is written between the two is lost by whoever rotates
        os.truncate(self.name, 0)

    def look(self, *, writing: bool = True) -> None:
        """Follow the files for a while; of what came, some was committed before the bridge was killed."""
        steps = [self.write] * (self.dice.randrange(3) if writing else 0)
        told: list[str] = []
        events = follow(self.address, *steps, position=self.position, told=told)
        assert told == []
        committed = self.dice.randrange(len(events) + 1)
        self.take(events[:committed])

    def take(self, events: Sequence[Event]) -> None:
        assert [event.malformed for event in events] == [None] * len(events)
        self.kept += [int(json.loads(event.value)["n"]) for event in events]
        if events:
            self.position = stored(events[-1].position)


@pytest.mark.parametrize("pattern", ["a.{}", "a.{}*"])
@pytest.mark.parametrize("format", ["ndjson", "csv"])
@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(6, 200))])
def test_any_sequence_of_rotations_and_kills_gives_each_line_once(seed: int, format: str, pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(f"{seed}-{format}-{pattern}")
    monkeypatch.setattr(followed, "CHUNK_BYTES", dice.choice([16, 64, 1 << 20]))
    writer = Writer(dice, format, pattern.format(format))
    writer.write()
    writer.look()
    while writer.position is None:
        writer.write()
        writer.look()
    for _ in range(12):
        dice.choice([writer.write, writer.write, writer.rename, writer.copy, writer.look])()
        if not pattern.endswith("*"):
            # Under one name, only the file before the present one can be found.
            writer.take(follow(writer.address, position=writer.position))
    writer._end_line()
    writer.take(follow(writer.address, position=writer.position))
    assert sorted(writer.kept) == list(range(writer.count))


# through the command line


def test_the_bridge_fills_a_topic_resumes_and_sets_bad_lines_aside(capsys: pytest.CaptureFixture[str]) -> None:
    add("a.ndjson", lines(1) + "[]\n" + lines(2))()
    assert main(["bridge", "file:a.ndjson", "topic:t", "--records", "2"]) == 0
    add("a.ndjson", lines(3))()
    assert main(["bridge", "file:a.ndjson", "topic:t", "--records", "1"]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines() == [
        "headrace bridge: file:a.ndjson → topic:t, from the first event",
        "headrace bridge: file:a.ndjson → topic:t, after event at byte 19 of a.ndjson",
    ]
    assert told.err.splitlines() == [
        "headrace: file:a.ndjson: a.ndjson: is not a JSON object; it is in t.dead-letter",
        "headrace: 2 records brought over; the last is event at byte 19 of a.ndjson",
        "headrace: 1 records brought over; the last is event at byte 27 of a.ndjson",
    ]
    assert main(["ledger", "bridge:t"]) == 0
    assert capsys.readouterr().out.split() == ["file:a.ndjson", "received", "4", "accepted", "3", "malformed", "1", "duplicate", "0"]


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("file:", "FROM: names no file; give an address such as file:logs/machine.csv?interval=1s"),
        ("file:a", "FROM: the format of 'a' is not known; add format=csv or format=ndjson"),
        ("file:a.csv?formt=csv", "FROM: has no parameter 'formt'; did you mean 'format'?"),
        ("file:a.csv?format=xml", "FROM: parameter format is 'xml'; there is: by name, csv, ndjson"),
        ("file:a.csv?interval=no", "FROM: parameter interval is 'no'; give a duration such as 500ms, 1s or 5m"),
        ("file:a.csv?value=$.v", "FROM: parameter value is only for as=reading; leave it out, or give as=reading"),
        ("file:none.csv", "headrace: file:none.csv: there is no such file, for 0.01 s; is the path right?"),
        ("file:none/*.csv", "headrace: file:none/*.csv: there is no folder none, for 0.01 s; is the path right?"),
    ],
)
def test_wrong_use_is_said(address: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bridge", address, "topic:t", "--give-up-after", "10ms"]) == (1 if "none" in address else 2)
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 30))])
def test_killed_bridges_lose_and_repeat_nothing_while_a_log_is_written_and_rotated(seed: int, home: Path) -> None:
    dice, count, turns = random.Random(seed), 0, 3
    log = home / "log.db"
    for turn in range(turns):
        command = ["bridge", "file:a.csv*?interval=20ms", "topic:t", "--duration", "600s"]
        with started(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline().startswith("headrace bridge: "), process.stderr and process.stderr.read()
                for _ in range(dice.randrange(3, 8)):
                    if not Path("a.csv").exists():
                        add("a.csv", "n,text\n")()
                    for _ in range(dice.randrange(1, 400)):
                        add("a.csv", f"{count},{'x' * dice.randrange(50)}\n")()
                        count += 1
                    if dice.random() < 0.5:
                        Path("a.csv").rename(f"a.csv.{count}")
                if turn == turns - 1:
                    wait_for(lambda: log.exists() and _passed(log) >= count, seconds=LIMIT)  # noqa: B023
                else:
                    wait_for(log.exists, seconds=LIMIT)
            finally:
                process.kill()
                process.communicate(timeout=LIMIT)
    with closing(SqliteLog(log)) as one:
        assert sorted(int(json.loads(value)["n"]) for value in values_of(one, "t")) == list(range(count))


def _passed(log: Path) -> int:
    with closing(SqliteLog(log)) as one:
        return sum(info.end - info.first for info in one.topic("t").partitions) if "t" in {info.name for info in one.topics()} else 0
