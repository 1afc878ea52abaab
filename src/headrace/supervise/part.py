"""A part that a supervisor keeps running."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import ClassVar

from headrace._clock import now_ms
from headrace.connectors.progress import Health

__all__ = ["Part"]


class Part(ABC):
    """A part of a plant that runs until it is stopped.

    Attributes
    ----------
    kind
        What it is, in messages.
    stage
        Parts of a lower stage are started first and ended first.
    name
        Its name among the parts.
    definition
        What it was made from: a part whose definition has changed is restarted by a reload.
    """

    kind: ClassVar[str]
    stage: ClassVar[int]

    def __init__(self, name: str, definition: Hashable = None) -> None:
        self.name, self.definition = name, definition
        self._own = Health("connecting", now_ms())

    @property
    def health(self) -> Health:
        """Its state."""
        return self._own

    @health.setter
    def health(self, health: Health) -> None:
        self._own = health

    @abstractmethod
    async def run(self, stop: Callable[[], bool], told: Callable[[str], None]) -> None:
        """Run until `stop` returns true or there is nothing more to do. All work is then committed.

        After an error it is run again, as by a new process.

        Parameters
        ----------
        stop
            Asked several times a second.
        told
            Is given a line for what a person should know.

        Raises
        ------
        PlanError, DataError
            If running it again cannot help.
        HeadraceError
            If it failed, and may do better later.
        """
