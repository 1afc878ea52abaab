"""The state of a pipeline whose topics are elsewhere: files in the home's folder, each commit's written before it is known to stand."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import msgspec

from headrace._durable import put, sync
from headrace.errors import EnvironmentFault
from headrace.topics.failpoints import passing

__all__ = ["Store"]

_STATE_FORMAT = 1


class Kept(msgspec.Struct, frozen=True):
    """A manifest as it lies on the disk, with the checksums of the parts it needs."""

    format: int
    epoch: int
    parts: dict[str, int]
    manifest: bytes


@dataclass
class Store:
    """The state of a pipeline in a folder: the last manifests, and the parts they need."""

    home: Path
    pipeline: str
    _kept: dict[int, Kept] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.home / "state" / self.pipeline

    @property
    def begun(self) -> bool:
        """Whether a commit is known to have been made."""
        return (self.folder / "begun").exists()

    def _manifest(self, epoch: int) -> Path:
        return self.folder / f"{epoch}.manifest"

    def _part(self, name: str) -> Path:
        return self.folder / f"{name}.part"

    @contextmanager
    def _blaming(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise EnvironmentFault(
                f"cannot be written: {error.strerror}", where=str(error.filename or self.folder), fix="make room and let this user write there"
            ) from None

    def write(self, epoch: int, manifest: bytes, state: Mapping[str, bytes], kept: Collection[str]) -> str:
        """Write the new parts and the manifest of a commit, durably, and return the manifest's checksum."""
        known = self._kept[epoch - 1].parts if epoch - 1 in self._kept else {}
        sums = known | {name: crc32(data) for name, data in state.items()}
        self._kept[epoch] = Kept(_STATE_FORMAT, epoch, {name: sums[name] for name in kept}, manifest)
        encoded = msgspec.msgpack.encode(self._kept[epoch])
        with self._blaming():
            if not self.folder.exists():
                self.folder.mkdir(parents=True)
                for folder in (self.folder.parent, self.home):
                    sync(folder)
            for name, data in state.items():
                put(self._part(name), data)
            passing("commit.state")
            put(self._manifest(epoch), encoded)
            sync(self.folder)
        passing("commit.manifest")
        return hashlib.sha256(encoded).hexdigest()

    def settle(self, epoch: int) -> None:
        """Take note that a commit stands: of those before it the last is kept, and no other."""
        self._kept = {number: kept for number, kept in self._kept.items() if number in {epoch - 1, epoch}}
        with self._blaming():
            if not self.begun:
                put(self.folder / "begun", b"")
                sync(self.folder)
            self._clear()

    def _clear(self) -> None:
        """Remove what no manifest needs that is kept."""
        needed = {self._part(name) for kept in self._kept.values() for name in kept.parts}
        needed |= {self._manifest(epoch) for epoch in self._kept} | {self.folder / "begun"}
        if self.folder.exists():
            for path in self.folder.iterdir():
                if path not in needed:
                    path.unlink()

    def look(self, epoch: int, checksum: str) -> Kept:
        """Return a manifest. Raises EnvironmentFault unless it is the one of the checksum."""
        path, anew = self._manifest(epoch), "or forget the state: headrace run --anew"
        try:
            encoded = path.read_bytes()
        except OSError as error:
            raise EnvironmentFault(
                f"cannot be read, and Kafka's offsets of pipeline {self.pipeline} name it: {error.strerror}",
                where=str(path),
                fix=f"run it with the HEADRACE_HOME it was run with, {anew}",
            ) from None
        if hashlib.sha256(encoded).hexdigest() != checksum:
            raise EnvironmentFault(
                f"is not the state that Kafka's offsets of pipeline {self.pipeline} name: it is damaged, or of another run",
                where=str(path),
                fix=f"bring back the file, {anew}",
            )
        return msgspec.msgpack.decode(encoded, type=Kept)

    def go_on(self, mark: tuple[int, str] | None) -> bytes | None:
        """Return the manifest that the last commit named, if there was one, and remove all others."""
        self._kept = {} if mark is None else {mark[0]: self.look(*mark)}
        if mark is None:
            with self._blaming():
                self._clear()
            return None
        self.settle(mark[0])
        return self._kept[mark[0]].manifest

    def load(self, name: str) -> bytes:
        """Return a part that the last commit stored."""
        path = self._part(name)
        checksum = self._kept[max(self._kept)].parts.get(name) if self._kept else None
        try:
            data = path.read_bytes()
        except OSError as error:
            raise self._damaged(path, error.strerror or "it cannot be read") from None
        if crc32(data) != checksum:
            raise self._damaged(path, "its checksum is another")
        return data

    def _damaged(self, path: Path, why: str) -> EnvironmentFault:
        return EnvironmentFault(
            f"part of the state of pipeline {self.pipeline} is damaged: {why}",
            where=str(path),
            fix="bring back the file, or forget the state: headrace run --anew",
        )

    def forget(self) -> None:
        """Remove all."""
        self._kept = {}
        with self._blaming():
            self._clear()
            (self.folder / "begun").unlink(missing_ok=True)
