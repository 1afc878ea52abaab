"""The file of the SQLite log: how it is opened, kept for its owner and closed, its transactions, and what is said when it fails."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from headrace._durable import private, private_folder
from headrace.errors import EnvironmentFault

__all__ = ["SqliteFile"]

_BUSY_SECONDS = 30.0
_COMPACT_PAGES = 500
_LOOK_SECONDS = 2.0
_RESTORE = "restore a backup, or name another HEADRACE_HOME"

_making = threading.Lock()


class SqliteFile:
    """The connection to a log's file.

    Raises
    ------
    EnvironmentFault
        If the file cannot be opened or made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            private_folder(path.parent)
        except OSError as error:
            raise EnvironmentFault(
                f"cannot be made: {error.strerror}", where=str(path.parent), fix="let this user write there, or set HEADRACE_HOME"
            ) from None
        self._files: dict[Path, tuple[int, int]] = {}
        self._looked = 0.0
        with self.blaming():
            _make_private(path)
            self.db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
            except BaseException:
                self.db.close()
                raise

    def _prepare(self) -> None:
        # A damaged row may hold bytes that are no text, which its checksum then shows.
        self.db.text_factory = lambda data: data.decode(errors="surrogateescape")
        self.db.execute("PRAGMA page_size = 8192")
        self.db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = FULL")

    def keep_in_sight(self) -> None:
        """Note which files those of the log are; from now on each transaction sees that they are still there."""
        self._files = {file: _identity(file) for file in (self.path.with_name(self.path.name + end) for end in ("", "-wal", "-shm"))}

    def format(self) -> int:
        """Return the format of the log in the file; 0 if there is none."""
        return int(self.db.execute("PRAGMA user_version").fetchone()[0])

    # faults

    @contextmanager
    def blaming(self) -> Iterator[None]:
        """Make of an error of SQLite's one that names the file and the fix; see now and then that the file is still there."""
        try:
            if self._files and time.monotonic() - self._looked >= _LOOK_SECONDS:
                self._check_files()
            yield
        except sqlite3.Error as error:
            raise self.fault(error) from None
        except (UnicodeDecodeError, UnicodeEncodeError) as error:
            # SQLite quotes a damaged schema in its message, which Python then cannot read; or a damaged text is asked for again.
            raise self.damaged(str(self.path), f"is damaged: {error.reason}") from None

    def fault(self, error: sqlite3.Error) -> EnvironmentFault:
        """Return what to raise for an error of SQLite's."""
        code = getattr(error, "sqlite_errorname", "")
        if code.startswith("SQLITE_FULL"):
            what, fix = "cannot be written: the disk is full", "make room, then start again: it goes on from the last commit"
        elif code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            what, fix = f"has been locked for more than {_BUSY_SECONDS:.0f} s", "end the process that holds it"
        elif code.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_CONSTRAINT")):
            what, fix = f"is damaged or no log: {error}", _RESTORE
        elif code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            what, fix = f"cannot be opened for writing: {error}", "let this user write it and its folder, or set HEADRACE_HOME"
        else:
            what, fix = f"cannot be used: {error}", "see that the disk works and has room"
        return EnvironmentFault(what, where=str(self.path), fix=fix)

    def _check_files(self) -> None:
        """Raise EnvironmentFault if a file of the log is no longer the one that was opened: what is written would vanish with it."""
        self._looked = time.monotonic()
        for file, identity in self._files.items():
            if _identity(file) != identity:
                raise EnvironmentFault(
                    "was removed or replaced while it was open; what this process writes would be lost",
                    where=str(file),
                    fix="end all that uses this HEADRACE_HOME, put a whole log in place (headrace restore), and start again",
                )

    def damaged(self, where: str, what: str) -> EnvironmentFault:
        """Return what to raise for rows that are not as they were written."""
        return EnvironmentFault(f"{what} in {self.path}", where=where, fix=_RESTORE)

    # transactions

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Make what is done within one transaction, undone if it fails."""
        with self.blaming():
            self._check_files()
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.db.execute("COMMIT")
                self._check_files()
            except BaseException:
                with suppress(sqlite3.Error):
                    self.db.execute("ROLLBACK")
                raise

    @contextmanager
    def viewing(self) -> Iterator[None]:
        """See the file as it is at one moment."""
        with self.blaming():
            if self.db.in_transaction:
                yield
                return
            self.db.execute("BEGIN")
            try:
                yield
            finally:
                self.db.execute("COMMIT")

    # size and end

    def compact(self) -> int:
        """Give unused pages back to the disk, a few MB at a time so that writers need not wait; return how many bytes that were.

        A log of format 1 must be rewritten as a whole for that, once, and nobody else may have it open.
        """
        with self.blaming():
            before = self._pages()
            if not self.db.execute("PRAGMA auto_vacuum").fetchone()[0]:
                self._rewrite()
            while self.db.execute("PRAGMA freelist_count").fetchone()[0]:
                with self.writing():
                    self.db.execute(f"PRAGMA incremental_vacuum({_COMPACT_PAGES})").fetchall()
            self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return (before - self._pages()) * int(self.db.execute("PRAGMA page_size").fetchone()[0])

    def _pages(self) -> int:
        return int(self.db.execute("PRAGMA page_count").fetchone()[0])

    def _rewrite(self) -> None:
        self.db.execute("PRAGMA busy_timeout = 0")
        try:
            self.db.execute("PRAGMA journal_mode = DELETE")
            self.db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            self.db.execute("VACUUM")
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                raise
            raise EnvironmentFault(
                "was made by an earlier headrace and must be rewritten to get smaller, and another process has it open",
                where=str(self.path),
                fix="end all that uses this HEADRACE_HOME, then compact again",
            ) from None
        finally:
            self.db.execute(f"PRAGMA busy_timeout = {int(_BUSY_SECONDS * 1000)}")
            self.db.execute("PRAGMA journal_mode = WAL")
            # Reading makes the files beside it anew.
            self.db.execute("SELECT * FROM log").fetchone()
            self.keep_in_sight()

    def close(self) -> None:
        """Close the file.

        The last to close it takes the log out of WAL mode. So a file in WAL mode that has no -wal beside it is an incomplete copy.
        """
        if all(_identity(file) == identity for file, identity in self._files.items()):
            with suppress(sqlite3.Error):
                self.db.execute("PRAGMA busy_timeout = 0")
                self.db.execute("PRAGMA journal_mode = DELETE")
        self.db.close()


def _make_private(path: Path) -> None:
    """Make the file of a log for its owner alone, if it is not there; the files beside it get its rights. SQLite names what goes wrong.

    A file that is there is not opened: closing it would take from other logs of this process, which have it open, their locks
    (POSIX), and another process could then end WAL mode under them.
    """
    with _making, suppress(OSError):
        os.close(private(str(path), os.O_RDWR | os.O_CREAT | os.O_EXCL))


def _identity(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_dev, found.st_ino
