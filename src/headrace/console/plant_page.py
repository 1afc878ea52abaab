"""The page of a plant as a part of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from contextlib import closing

from headrace._clock import now_ms
from headrace.connectors.progress import Health
from headrace.console.plant_pages import PlantPages
from headrace.errors import EnvironmentFault
from headrace.gateway.pages import Pages
from headrace.supervise.part import Part
from headrace.topics.protocol import Log

__all__ = ["PagePart"]

_TICK_SECONDS = 0.1


class PagePart(Part):
    """Serves the page.

    Parameters
    ----------
    host, port
        Where.
    pages
        What it answers.
    """

    kind = "page"
    stage = 3

    def __init__(self, definition: Hashable, open_log: Callable[[], Log], *, host: str, port: int, pages: PlantPages) -> None:
        super().__init__("page", definition)
        self._open_log, self._host, self._port, self._answers = open_log, host, port, pages

    async def run(self, stop: Callable[[], bool], told: Callable[[str], None]) -> None:  # noqa: ARG002
        """Serve until `stop` returns true.

        Raises
        ------
        EnvironmentFault
            If the port is in use or may not be taken.
        """
        with self._answers.reading(self._open_log) as paths:
            try:
                server = Pages(self._port, *paths, host=self._host)
            except (OSError, OverflowError) as error:
                what = getattr(error, "strerror", None) or str(error)
                raise EnvironmentFault(
                    f"cannot be served: {what}", where=f"page {self._host}:{self._port}", fix="name a free port in [page]"
                ) from None
            with closing(server):
                self.health = Health("running", now_ms(), f"http://{self._host}:{server.port}/")
                while not stop():  # noqa: ASYNC110  (it is a function that is asked)
                    await asyncio.sleep(_TICK_SECONDS)
