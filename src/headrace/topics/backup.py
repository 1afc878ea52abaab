"""A backup of a home, taken while runs are live, and its restoration.

The log is copied by SQLite in one read transaction. Files of state on Kafka's side never change once they are in place, so
links to all of them at one moment are a copy of that moment; the folder is read again until it was the same before and after.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec

from headrace._clock import now_ms
from headrace._durable import private, private_folder, sync
from headrace._lock import lock
from headrace.errors import DataError, EnvironmentFault, PlanError
from headrace.topics.look import Look

__all__ = ["Summary", "backup", "restore"]

_FORMAT = 1
_INDEX = "backup.json"
_LOG = "log.db"
_FOLDERS = ("state", "ledgers", "jobs")
_TRIES = 100
_PIECE = 1 << 20


class Summary(msgspec.Struct, frozen=True):
    """The content of a backup: when it was taken, and size and SHA-256 of each file by its path in the home."""

    format: int
    taken_ms: int
    files: dict[str, tuple[int, str]]

    @property
    def size(self) -> int:
        """How many bytes its files have."""
        return sum(size for size, _ in self.files.values())


def backup(home: Path, file: Path) -> Summary:
    """Write a backup of a home to a tar file, and read it once more to see that it is whole.

    Raises
    ------
    PlanError
        If there is nothing to back up, or the file is there already.
    EnvironmentFault
        If the home is damaged, or something cannot be read or written.
    """
    if not home.is_dir():
        raise PlanError("there is no home", where=str(home), fix="set HEADRACE_HOME to the one to back up")
    if file.exists():
        raise PlanError("is there already", where=str(file), fix="name another file, or remove it")
    with _blaming(file), tempfile.TemporaryDirectory(prefix=".backup-", dir=home) as named:
        staged = Path(named)
        if (home / _LOG).is_file():
            _copy_log(home / _LOG, staged / _LOG)
        for folder in _FOLDERS:
            _snapshot(home / folder, staged / folder)
        aside = file.with_name(f".{file.name}.new")
        try:
            summary = _write(staged, aside)
            with aside.open("rb") as opened, tarfile.open(fileobj=opened, mode="r:") as archive:
                for _ in _members(archive, aside):
                    pass
            os.link(aside, file)
        finally:
            aside.unlink(missing_ok=True)
        sync(file.parent)
    return summary


def _copy_log(log: Path, copy: Path) -> None:
    try:
        with closing(sqlite3.connect(log, timeout=30)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target, pages=-1)
            target.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise EnvironmentFault(f"cannot be copied: {error}", where=str(log), fix="see headrace doctor") from None
    _check_log(copy, log)


def _check_log(log: Path, named: Path) -> None:
    try:
        faults = Look(log).faults(float("inf"))
    except sqlite3.Error as error:
        faults = [str(error)]
    if faults:
        raise EnvironmentFault(f"is damaged: {faults[0]}", where=str(named), fix="restore an earlier backup; see headrace doctor")


def _snapshot(folder: Path, to: Path) -> None:
    """Copy the files of a folder as they were at one moment."""
    for _ in range(_TRIES):
        shutil.rmtree(to, ignore_errors=True)
        before = _files(folder)
        with suppress(FileNotFoundError):
            for name in before:
                (to / name).parent.mkdir(parents=True, exist_ok=True)
                if folder.name == "state":
                    os.link(folder / name, to / name)
                else:
                    shutil.copyfile(folder / name, to / name)
            if _files(folder) == before:
                return
        time.sleep(0.02)
    raise EnvironmentFault("does not stand still for long enough to be copied", where=str(folder), fix="end a run, and try again")


def _files(folder: Path) -> list[str]:
    """Return the files of a folder by their paths in it; locks, and what is still being written, left out."""
    found = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [str(path) for path in found if path.suffix != ".lock" and path.name != "lock" and not any(part.startswith(".") for part in path.parts)]


def _write(staged: Path, to: Path) -> Summary:
    names = _files(staged)
    summary = Summary(_FORMAT, now_ms(), {name: ((staged / name).stat().st_size, _hash(staged / name)) for name in names})
    index = msgspec.json.encode(summary)
    with open(to, "xb", opener=private) as opened:
        with tarfile.open(fileobj=opened, mode="w:") as archive:
            _add(archive, _INDEX, len(index), BytesIO(index))
            for name in names:
                with (staged / name).open("rb") as data:
                    _add(archive, PurePosixPath(Path(name)).as_posix(), summary.files[name][0], data)
        opened.flush()
        os.fsync(opened.fileno())
    return summary


def _add(archive: tarfile.TarFile, name: str, size: int, data: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o600, int(time.time())
    archive.addfile(member, data)


def _hash(path: Path) -> str:
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _members(archive: tarfile.TarFile, file: Path) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Go through a backup: the path of each file and its bytes in pieces. Raises DataError if it is not as its index says."""
    try:
        left = dict(_index(archive, file).files)
        while (member := archive.next()) is not None:
            path = PurePosixPath(member.name)
            size, expected = left.pop(member.name, (-1, ""))
            data = archive.extractfile(member) if member.isreg() else None
            if data is None or member.size != size or path.is_absolute() or ".." in path.parts:
                raise _damaged(file)
            digest = hashlib.sha256()
            pieces = _pieces(data, digest.update)
            yield member.name, pieces
            for _ in pieces:
                pass
            if digest.hexdigest() != expected:
                raise _damaged(file)
    except (tarfile.TarError, msgspec.MsgspecError, EOFError):
        raise _damaged(file) from None
    if left:
        raise _damaged(file)


def _index(archive: tarfile.TarFile, file: Path) -> Summary:
    first = archive.next()
    index = archive.extractfile(first) if first is not None and first.name == _INDEX else None
    if index is None:
        raise _damaged(file)
    summary = msgspec.json.decode(index.read(), type=Summary)
    if summary.format != _FORMAT:
        raise DataError(f"is a backup of format {summary.format}, not {_FORMAT}", where=str(file), fix="use the headrace that made it")
    return summary


def _pieces(data: IO[bytes], note: Callable[[bytes], object]) -> Iterator[bytes]:
    while piece := data.read(_PIECE):
        note(piece)
        yield piece


def _damaged(file: Path) -> DataError:
    return DataError("is no backup of headrace, or is damaged", where=str(file), fix="use another backup")


def restore(file: Path, home: Path, *, replace: bool = False) -> tuple[int, Path | None]:
    """Put a backup in place as a home, and return how many files that were, and where what it replaced was moved to.

    Raises
    ------
    PlanError
        If the home is used and `replace` is not set.
    DataError
        If the file is no whole backup.
    EnvironmentFault
        If a process uses the home, or it cannot be written.
    """
    with _blaming(file), file.open("rb") as opened:
        there = [home / name for name in (_LOG, *_FOLDERS) if (home / name).exists()]
        if there and not replace:
            raise PlanError(
                "is used: a restore would replace what is in it", where=str(home), fix="add --replace, or set HEADRACE_HOME to another folder"
            )
        if not home.exists():
            private_folder(home)
        with _unused(home), tempfile.TemporaryDirectory(prefix=".restore-", dir=home) as named:
            staged, count = Path(named), 0
            with _tar(opened, file) as archive:
                for name, pieces in _members(archive, file):
                    _extract(staged / name, pieces)
                    count += 1
            if (staged / _LOG).exists():
                _check_log(staged / _LOG, file)
            aside = home / time.strftime("replaced-%Y%m%d-%H%M%S") if there else None
            if aside is not None:
                aside.mkdir(mode=0o700)
                for path in there:
                    path.rename(aside / path.name)
            for path in sorted(staged.iterdir(), key=lambda path: path.name == _LOG):
                path.rename(home / path.name)
            sync(home)
    return count, aside


@contextmanager
def _tar(opened: IO[bytes], file: Path) -> Iterator[tarfile.TarFile]:
    try:
        archive = tarfile.open(fileobj=opened, mode="r:")  # noqa: SIM115  (closed below)
    except tarfile.TarError:
        raise _damaged(file) from None
    with archive:
        yield archive


def _extract(path: Path, pieces: Iterator[bytes]) -> None:
    private_folder(path.parent)
    with open(path, "xb", opener=private) as to:
        to.writelines(pieces)
        to.flush()
        os.fsync(to.fileno())


@contextmanager
def _unused(home: Path) -> Iterator[None]:
    """Have nobody use a home meanwhile. Raises EnvironmentFault if somebody does."""
    locks = []
    try:
        for path in [*(home / "pipelines").glob("*.lock"), *(home / "jobs").glob("*/lock")]:
            locks.append(path.open("rb+"))
            try:
                lock(locks[-1].fileno())
            except BlockingIOError:
                raise EnvironmentFault(f"is used by a process that has {path}", where=str(home), fix="end it first") from None
        if (home / _LOG).exists():
            try:
                with closing(sqlite3.connect(home / _LOG, timeout=0)) as db:
                    db.execute("PRAGMA journal_mode = DELETE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                    raise EnvironmentFault("is open in another process", where=str(home / _LOG), fix="end it first") from None
            except sqlite3.DatabaseError:
                pass  # damaged, which may be why it is replaced
        yield
    finally:
        for one in locks:
            one.close()


@contextmanager
def _blaming(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        fix = "name a file that exists" if isinstance(error, FileNotFoundError) else "make room, and let this user read and write there"
        raise EnvironmentFault(f"cannot be read or written: {error.strerror or error}", where=str(error.filename or file), fix=fix) from None
