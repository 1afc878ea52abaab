"""A pipeline's claim on the SQLite log: one transaction makes a step of its work durable, with its output, state and cursors."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from headrace.errors import EnvironmentFault
from headrace.topics.failpoints import passing
from headrace.topics.owner import locked
from headrace.topics.protocol import Commit, Outgoing
from headrace.topics.sqlite_appending import BLOCK_BYTES
from headrace.topics.sums import UNSOUND, body_sum, row_sum, sound

if TYPE_CHECKING:
    from headrace.topics.sqlite import SqliteLog

__all__ = ["SqliteClaim"]


class SqliteClaim:
    """A pipeline that this process owns, in the file of its topics.

    A lock that dies with the process keeps a second one out; the epoch in the file keeps out a process that lost the lock
    without noticing, whose commits then fail.
    """

    def __init__(self, log: SqliteLog, pipeline: str) -> None:
        self._log, self._db, self.pipeline = log, log.file.db, pipeline
        self._lock = locked(log.path.parent / "pipelines", pipeline)
        try:
            with log.catalog.writing():
                self._take_over(f"process {os.getpid()} on {socket.gethostname()}")
        except BaseException:
            self._lock.close()
            raise

    def _take_over(self, owner: str) -> None:
        """Raise the pipeline's epoch. A damaged row stays so: its checksum is not made good."""
        rows = self._db.execute("SELECT name, epoch, owner, manifest, checksum FROM pipelines WHERE name = ?", (self.pipeline,)).fetchall()
        # A damaged name would make a pipeline that has committed look new.
        for row in rows or self._db.execute("SELECT name, epoch, owner, manifest, checksum FROM pipelines NOT INDEXED"):
            if not rows and (row[0] == self.pipeline or not sound(row[-1], *row[:-1])):
                raise self._damaged(f"the row of pipeline {row[0]!r}, or")
        row = rows[0] if rows else (self.pipeline, 0, "", None, row_sum(self.pipeline, 0, "", None))
        self._whole = sound(row[-1], *row[:-1])
        self._epoch, self._manifest = row[1] + 1, row[3]
        self._write(owner, self._manifest)

    def _write(self, owner: str, manifest: bytes | None) -> None:
        row = self.pipeline, self._epoch, owner, manifest
        checksum = row_sum(*row) if self._whole else UNSOUND
        self._log.head.retie(checksum, *self._log.head.sums("checksum FROM pipelines WHERE name = ?", self.pipeline))
        self._db.execute(
            "INSERT INTO pipelines (name, epoch, owner, manifest, checksum) VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET"
            " epoch = excluded.epoch, owner = excluded.owner, manifest = excluded.manifest, checksum = excluded.checksum",
            (*row, checksum),
        )

    @property
    def manifest(self) -> bytes | None:
        """The last commit's, or None before the first. Raises EnvironmentFault if it is damaged."""
        if not self._whole:
            raise self._damaged("the last commit")
        return None if self._manifest is None else bytes(self._manifest)

    def _damaged(self, what: str) -> EnvironmentFault:
        return EnvironmentFault(
            f"{what} of pipeline {self.pipeline} is damaged",
            where=str(self._log.path),
            fix="bring back a copy of the file, or forget the pipeline's state: headrace run --anew",
        )

    def load(self, name: str) -> bytes:
        """Return a part of the state that the last commit stored."""
        with self._log.file.blaming():
            row = self._db.execute("SELECT data, checksum FROM state WHERE pipeline = ? AND name = ?", (self.pipeline, name)).fetchone()
        if row is None or not sound(row[1], self.pipeline, name, body_sum(row[0])):
            raise self._damaged(f"part {name} of the state")
        return bytes(row[0])

    def commit(self, commit: Commit) -> None:
        """Make a step of work durable in one transaction."""
        with self._log.catalog.writing():
            owner = self._db.execute("SELECT epoch, owner FROM pipelines WHERE name = ?", (self.pipeline,)).fetchone()
            if owner is None or owner[0] != self._epoch:
                who = owner[1] if owner else "nobody"
                raise EnvironmentFault(f"belongs to {who} now", where=f"pipeline {self.pipeline}", fix="let that one run, or end it first")
            passing("commit.begun")
            self._whole = True
            self._write(owner[1], commit.manifest)
            passing("commit.manifest")
            known = {row[0] for row in self._db.execute("SELECT name FROM state WHERE pipeline = ?", (self.pipeline,))}
            self._db.executemany(
                "DELETE FROM state WHERE pipeline = ? AND name = ?", [(self.pipeline, name) for name in known.difference(commit.kept)]
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO state VALUES (?, ?, ?, ?)",
                [(self.pipeline, name, row_sum(self.pipeline, name, body_sum(data)), data) for name, data in commit.state.items()],
            )
            passing("commit.state")
            for one in commit.outgoing:
                self._put(one)
            passing("commit.output")
            self._log.places.move(self.pipeline, commit.cursors)
            self._log.retention.expire()
            passing("commit.cursors")
        passing("commit.done")

    def _put(self, one: Outgoing) -> None:
        ids = self._log.catalog.partitions_of(one.topic)
        chosen = 0 if len(ids) == 1 else one.partition
        if chosen is None or len(one.lines) >= BLOCK_BYTES:
            self._log.appending.append(one.topic, one.lines.split(b"\n"), one.key_bytes, chosen)
        else:
            self._log.appending.insert(ids[chosen % len(ids)], one.count, one.lines, one.key_bytes, self._log.appending.arrival())

    def forget(self) -> None:
        """Forget what the pipeline has committed: it starts anew."""
        with self._log.catalog.writing():
            self._whole = True
            self._write(f"process {os.getpid()} on {socket.gethostname()}", None)
            self._db.execute("DELETE FROM state WHERE pipeline = ?", (self.pipeline,))
            self._log.head.retie(*self._log.head.sums("sum FROM cursors WHERE reader = ?", self.pipeline))
            self._db.execute("DELETE FROM cursors WHERE reader = ?", (self.pipeline,))
        self._manifest = None

    def release(self) -> None:
        """Give the pipeline up."""
        self._lock.close()
