"""Savepoints: a pipeline begins where it was, as often as it is put back there; and files that are none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from engines.embedded.test_changing import FAR, feed, limited, plan, run
from engines.embedded.test_live import Wall, event, live_on, raw
from headrace.engines.embedded.savepoint import behind, put_back, read, take
from headrace.errors import DataError, EnvironmentFault, PlanError
from headrace.topics.sqlite import SqliteLog


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def log(tmp_path: Path, wall: Wall) -> Iterator[SqliteLog]:
    with closing(SqliteLog(tmp_path / "log.db", clock=wall)) as made:
        made.create("events")
        yield made


def test_a_run_from_a_savepoint_gives_what_the_one_before_gave(log: SqliteLog, wall: Wall, tmp_path: Path) -> None:
    feed(log, *(event(second, "ab"[second % 2]) for second in range(8)))
    run(log, wall, plan(limited))
    before = {topic: len(raw(log, topic)) for topic in ("means", "totals")}
    take(log, "changing", tmp_path / "here")
    feed(log, *(event(second, "ab"[second % 2]) for second in range(8, 40)))
    run(log, wall, plan(limited))
    given = {topic: raw(log, topic)[count:] for topic, count in before.items()}
    assert all(given.values())
    for _ in range(2):
        saved = read(tmp_path / "here", "changing")
        assert behind(log, saved) == {"events": 32}
        put_back(log, saved)
        assert behind(log, saved) == {}
        ends = {topic: len(raw(log, topic)) for topic in before}
        run(log, wall, plan(limited))
        assert given == {topic: raw(log, topic)[end:] for topic, end in ends.items()}


def test_a_savepoint_of_a_pipeline_that_runs_or_has_done_nothing(log: SqliteLog, wall: Wall, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="pipeline changing: has committed nothing yet; run it first"):
        take(log, "changing", tmp_path / "here")
    run(log, wall, plan(limited))
    live = live_on(log, wall, plan(limited), FAR)
    with pytest.raises(EnvironmentFault, match="is run by process"):
        take(log, "changing", tmp_path / "here")
    live.close()
    take(log, "changing", tmp_path / "here")
    with pytest.raises(PlanError, match="here: is there already; name another file, or remove it"):
        take(log, "changing", tmp_path / "here")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        take(log, "changing", tmp_path / "no" / "folder")


def test_files_that_are_no_savepoint_of_the_pipeline(log: SqliteLog, wall: Wall, tmp_path: Path) -> None:
    feed(log, event(1))
    run(log, wall, plan(limited))
    take(log, "changing", tmp_path / "here")
    with pytest.raises(PlanError, match=r"is a savepoint of pipeline changing, not of other; name one of other"):
        read(tmp_path / "here", "other")
    data = bytearray((tmp_path / "here").read_bytes())
    for place in (0, len(data) // 2, len(data) - 1):
        flipped = bytearray(data)
        flipped[place] ^= 4
        (tmp_path / "flipped").write_bytes(flipped)
        with pytest.raises(DataError, match=r"is no savepoint|is damaged: its checksum is another"):
            read(tmp_path / "flipped", "changing")
    (tmp_path / "short").write_bytes(data[:-9])
    with pytest.raises(DataError, match="is damaged"):
        read(tmp_path / "short", "changing")
    with pytest.raises(EnvironmentFault, match="absent: cannot be read"):
        read(tmp_path / "absent", "changing")
