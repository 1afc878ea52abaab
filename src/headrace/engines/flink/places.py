"""Where topics are: the connector that reads or writes each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Files", "Places"]


class Places(Protocol):
    """Says of each topic what stands behind WITH, and what must be SET for it."""

    @property
    def hint(self) -> str:
        """What who runs the script must know of it."""

    @property
    def settings(self) -> Mapping[str, str]:
        """What must be SET, among it whatever makes the watermark move with each record."""

    def source(self, topic: str) -> Mapping[str, str]:
        """Return the connector's options for a topic that is read."""

    def sink(self, topic: str) -> Mapping[str, str]:
        """Return the connector's options for a topic that is written."""


@dataclass(frozen=True)
class Files:
    """NDJSON files of a folder: `<topic>.ndjson` is read, and parts of a topic are written to the folder `<topic>`.

    `folder` is as Flink's file systems have it: `/data`, `s3://bucket/data`.
    """

    folder: str = ""

    @property
    def hint(self) -> str:
        """Where a path without a folder is."""
        return "" if self.folder else "A path without a folder is that of the folder in which Flink runs: put in your own."

    @property
    def settings(self) -> Mapping[str, str]:
        """One task reads a file from first to last, a watermark behind each record. Parts appear with checkpoints, with which Flink would restart for ever."""
        return {
            "parallelism.default": "1",
            "pipeline.auto-watermark-interval": "0 ms",
            "execution.checkpointing.interval": "10 s",
            "restart-strategy.type": "none",
        }

    def source(self, topic: str) -> Mapping[str, str]:
        """Return the options of a file."""
        return {"connector": "filesystem", "path": self._path(f"{topic}.ndjson")}

    def sink(self, topic: str) -> Mapping[str, str]:
        """Return the options of a folder of part files."""
        return {"connector": "filesystem", "path": self._path(topic)}

    def _path(self, file: str) -> str:
        return f"{self.folder}/{file}" if self.folder else file
