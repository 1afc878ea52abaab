"""The state of a pipeline whose topics are elsewhere: files in the home's folder, each commit's written before it is known to stand.

Every file carries the hash of its content in its name. So a process that has lost the pipeline and does not know it yet cannot
overwrite what its successor has written, and it removes no file but those that it knows to be superseded by a commit of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import msgspec

from headrace._durable import private_folder, put, sync, sync_name
from headrace.errors import EnvironmentFault
from headrace.topics.failpoints import passing

__all__ = ["Store"]

_STATE_FORMAT = 2


class Kept(msgspec.Struct, frozen=True):
    """A manifest as it lies on the disk, with the hashes of the parts it needs.

    Format 1 named its files without a hash, and had a CRC-32 of each part; parts that it wrote are still read.
    """

    format: int
    epoch: int
    parts: dict[str, str | int]
    manifest: bytes


@dataclass
class Store:
    """The state of a pipeline in a folder: the last manifests, and the parts they need."""

    home: Path
    pipeline: str
    _kept: dict[int, Kept] = field(default_factory=dict)
    _files: dict[int, set[Path]] = field(default_factory=dict)
    _superseded: set[Path] = field(default_factory=set)
    _placed: bool = False

    @property
    def folder(self) -> Path:
        """The folder of the files."""
        return self.home / "state" / self.pipeline

    @property
    def begun(self) -> bool:
        """Whether a commit is known to have been made."""
        with self._blaming("read"):
            return self._begun.exists()

    @property
    def _begun(self) -> Path:
        return self.folder / "begun"

    def _manifest(self, epoch: int, checksum: str) -> Path:
        return self.folder / f"{epoch}-{checksum}.manifest"

    def _part(self, name: str, checksum: str | int) -> Path:
        return self.folder / (f"{name}.part" if isinstance(checksum, int) else f"{name}-{checksum}.part")

    @contextmanager
    def _blaming(self, done: str = "written") -> Iterator[None]:
        fix = "make room and let this user write there" if done == "written" else "see that the disk works, and let this user read there"
        try:
            yield
        except OSError as error:
            raise EnvironmentFault(f"cannot be {done}: {error.strerror}", where=str(error.filename or self.folder), fix=fix) from None

    def write(self, epoch: int, manifest: bytes, state: Mapping[str, bytes], kept: Collection[str]) -> str:
        """Write the new parts and the manifest of a commit, durably, and return the manifest's checksum."""
        known = self._kept[epoch - 1].parts if epoch - 1 in self._kept else {}
        sums = {**known, **{name: _hash_of(data) for name, data in state.items()}}
        whole = Kept(_STATE_FORMAT, epoch, {name: sums[name] for name in kept}, manifest)
        encoded = msgspec.msgpack.encode(whole)
        checksum = hashlib.sha256(encoded).hexdigest()
        with self._blaming():
            private_folder(self.folder)
            if not self._placed:
                # A process that made them may have died before their names were durable.
                for folder in (self.folder, self.folder.parent, self.home):
                    sync_name(folder)
                self._placed = True
            for name, data in state.items():
                put(self._part(name, sums[name]), data, secret=True)
            passing("commit.state")
            put(self._manifest(epoch, checksum), encoded, secret=True)
            sync(self.folder)
        passing("commit.manifest")
        self._note(whole, self._manifest(epoch, checksum))
        return checksum

    def _note(self, kept: Kept, manifest: Path) -> None:
        self._kept[kept.epoch] = kept
        self._files[kept.epoch] = {manifest, *(self._part(*part) for part in kept.parts.items())}

    def settle(self, epoch: int) -> None:
        """Note that a commit stands: the files of it and of the one before it are retained, those that they supersede go."""
        for older in [one for one in self._kept if one not in {epoch - 1, epoch}]:
            del self._kept[older]
            self._superseded |= self._files.pop(older)
        needed = {self._begun}.union(*self._files.values())
        with self._blaming():
            if not self.begun:
                put(self._begun, b"", secret=True)
                sync(self.folder)
            for path in self._superseded - needed:
                path.unlink(missing_ok=True)
        self._superseded.clear()

    def look(self, epoch: int, checksum: str) -> Kept:
        """Return a manifest. Raises EnvironmentFault unless this home has it, undamaged."""
        return self._look(epoch, checksum)[0]

    def _look(self, epoch: int, checksum: str) -> tuple[Kept, Path]:
        path, anew = self._manifest(epoch, checksum), "or forget the state: headrace run --anew"
        with self._blaming("read"):
            found = next((one for one in (path, self.folder / f"{epoch}.manifest") if one.exists()), path)
        try:
            encoded = found.read_bytes()
        except OSError as error:
            raise EnvironmentFault(
                f"cannot be read: {error.strerror}; Kafka's offsets of pipeline {self.pipeline} name it as the state of its last commit",
                where=str(path),
                fix=f"set HEADRACE_HOME to the home of the process that made that commit, {anew}",
            ) from None
        if hashlib.sha256(encoded).hexdigest() != checksum:
            raise EnvironmentFault(
                f"is not the state that Kafka's offsets of pipeline {self.pipeline} name: it is damaged, or of another run",
                where=str(found),
                fix=f"bring back the file, {anew}",
            )
        try:
            return msgspec.msgpack.decode(encoded, type=Kept), found
        except msgspec.ValidationError:
            raise EnvironmentFault("was written by a newer headrace", where=str(found), fix=f"use that one, {anew}") from None

    def resume(self, mark: tuple[int, str] | None) -> bytes | None:
        """Return the manifest that the last commit names, if there was one.

        All other files are removed with the next commit that stands, which proves that the pipeline still belongs to this process.
        """
        self._kept, self._files = {}, {}
        if mark is not None:
            self._note(*self._look(*mark))
        needed = {self._begun}.union(*self._files.values())
        with self._blaming("read"):
            self._superseded = set(self.folder.iterdir()) - needed if self.folder.exists() else set()
        return None if mark is None else self._kept[mark[0]].manifest

    def load(self, name: str) -> bytes:
        """Return a part that the last commit stored."""
        checksum = self._kept[max(self._kept)].parts.get(name, "") if self._kept else ""
        path = self._part(name, checksum)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise self._damaged(path, error.strerror or "it cannot be read") from None
        if checksum != (crc32(data) if isinstance(checksum, int) else _hash_of(data)):
            raise self._damaged(path, "its checksum is another")
        return data

    def _damaged(self, path: Path, why: str) -> EnvironmentFault:
        return EnvironmentFault(
            f"part of the state of pipeline {self.pipeline} is damaged: {why}",
            where=str(path),
            fix="bring back the file, or forget the state: headrace run --anew",
        )

    def forget(self) -> None:
        """Remove all files, `begun` last."""
        self._kept, self._files, self._superseded = {}, {}, set()
        with self._blaming():
            if self.folder.exists():
                for path in sorted(self.folder.iterdir(), key=lambda one: one == self._begun):
                    path.unlink(missing_ok=True)


def _hash_of(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
