"""The state of a bounded run, kept in `DIR/.run` so that a killed run goes on where it was.

A commit writes what is new, makes it durable, and then replaces `manifest.json`: a run is what its manifest says, and
whatever else lies in the folder is left over from an epoch that never was. Buffered rows are written once, as Arrow
files, and dropped when their slices are folded; of keys only those touched are written. Each file carries a checksum: the
manifest's beside it, a part's in its name.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import IO, Any
from zlib import crc32

import msgspec

from headrace._durable import durable_folder, sync, write_durably, write_fault
from headrace._lock import TakenError, take
from headrace.engines.embedded.graph import Graph
from headrace.engines.embedded.state import Parts, is_whole
from headrace.errors import EnvironmentFault

__all__ = ["Checkpoint"]


class Checkpoint:
    """The folder of one run's state. While it is open, no other process can have it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: IO[bytes] | None = None
        self._parts = Parts()

    def open(self) -> dict[str, Any] | None:
        """Take the folder, and return the manifest of the run that was begun in it, if there is one.

        Raises
        ------
        EnvironmentFault
            If the folder cannot be made, another process has it, or the manifest is damaged.
        """
        try:
            durable_folder(self.folder)
            self._lock = take(self.folder / "lock")
        except TakenError as error:
            raise EnvironmentFault(
                f"is in use by process {error.owner}", where=str(self.folder.parent), fix="wait for it, or name another --output"
            ) from None
        except OSError as error:
            raise write_fault(self.folder, error) from None
        manifest = self.folder / "manifest.json"
        if not manifest.exists():
            return None
        try:
            sealed = msgspec.json.decode(manifest.read_bytes(), type=_Sealed)
        except msgspec.DecodeError as error:
            raise self._damaged(manifest, str(error)) from None
        if crc32(sealed.run) != sealed.checksum:
            raise self._damaged(manifest, "its checksum is another")
        found: dict[str, Any] = msgspec.json.decode(sealed.run)
        return found

    def _damaged(self, path: Path, why: str) -> EnvironmentFault:
        return EnvironmentFault(f"is damaged: {why}", where=str(path), fix=f"remove {self.folder} to start anew")

    def commit(self, manifest: dict[str, Any], graph: Graph) -> None:
        """Make the state durable, and `manifest` what the run is.

        Raises
        ------
        EnvironmentFault
            If the disk does not take it. The last commit stands.
        """
        try:
            saved, new = self._parts.save(graph.stages)
            for name, data in new.items():
                write_durably(self._file(name), data)
            run = msgspec.json.encode({**manifest, **saved})
            write_durably(self.folder / "manifest.new", msgspec.json.encode(_Sealed(crc32(run), msgspec.Raw(run))))
            sync(self.folder)
            (self.folder / "manifest.new").replace(self.folder / "manifest.json")
            sync(self.folder)
            kept = {self._file(name).name for name in self._parts.keep(saved)}
            for file in self.folder.glob("*.part"):
                if file.name not in kept:
                    file.unlink()
        except OSError as error:
            raise write_fault(self.folder, error) from None

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.part"

    def restore(self, manifest: dict[str, Any], graph: Graph) -> None:
        """Give the plan's stages the state that the manifest names."""
        self._parts.restore(manifest, graph.plan, graph.stages, self._load)

    def _load(self, name: str) -> bytes:
        path = self._file(name)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise self._damaged(path, str(error.strerror)) from None
        if not is_whole(name, data):
            raise self._damaged(path, "its checksum is another")
        return data

    def discard(self) -> None:
        """Remove the folder: the run is done. The lock goes last, so that no other process comes in before."""
        sync(self.folder.parent)
        for path in self.folder.iterdir():
            if path.name != "lock":
                path.unlink()
        shutil.rmtree(self.folder)
        self.close()

    def close(self) -> None:
        """Let go of the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


class _Sealed(msgspec.Struct):
    """A manifest as it lies on the disk."""

    checksum: int
    run: msgspec.Raw
