"""A part of a log under names of its own."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from headrace.errors import EnvironmentFault, PlanError
from headrace.topics.prefixed import PrefixedLog
from headrace.topics.protocol import Commit, Outgoing
from headrace.topics.sqlite import SqliteLog


def test_a_part_of_a_log_is_a_log_and_meets_nothing_else(tmp_path: Path) -> None:
    with closing(SqliteLog(tmp_path / "log.db")) as whole:
        part = PrefixedLog(whole, "try.")
        whole.create("events")
        whole.append("events", [b"not mine"])
        part.create("events", 2)
        part.create("out")
        part.append("events", [b"a", b"b", b"c"], [b"1", b"2", b"3"])
        assert [info.name for info in part.topics()] == ["events", "out"]
        assert [info.name for info in whole.topics()] == ["events", "try.events", "try.out"]
        assert part.topic("events").name == "events"
        found = [entry for number in (0, 1) for entry in part.entries("events", number, 0, 9)]
        assert sorted(entry.value for entry in found) == [b"a", b"b", b"c"]
        assert {entry.topic for entry in found} == {"events"}

        feed = part.feed(["events"])
        assert feed.readers.keys() == {"events"}
        assert feed.fetch()
        assert sum(len(reader.read()) for reader in feed.readers["events"]) == 3
        assert feed.lag() == {("events", 0): 0, ("events", 1): 0}
        feed.close()

        claim = part.claim("pipe")
        assert claim.manifest is None
        claim.commit(Commit(b"{}", {"p": b"state"}, ["p"], [Outgoing("out", b'{"n":1}', 1)], {("events", 0): 1}))
        assert claim.load("p") == b"state"
        with pytest.raises(EnvironmentFault, match="is run by process"):
            part.claim("pipe")
        claim.release()
        assert (part.manifest("pipe"), whole.manifest("pipe"), whole.manifest("try.pipe")) == (b"{}", None, b"{}")
        assert [entry.value for entry in part.entries("out", 0, 0, 9)] == [b'{"n":1}']

        part.move("other", {("events", 1): 2})
        assert [(one.group, one.topic, one.partition, one.offset) for one in part.cursors()] == [("other", "events", 1, 2), ("pipe", "events", 0, 1)]
        again = part.claim("pipe")
        again.forget()
        again.release()
        assert part.manifest("pipe") is None
        part.delete("events")
        with pytest.raises(PlanError):
            part.topic("events")
        assert whole.topic("events").partitions[0].end == 1
