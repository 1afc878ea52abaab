"""The nodes that every server of OPC UA has, made once: a server that is forked from a process that has imported this has them at once."""

from __future__ import annotations

from typing import Any

from asyncua import Server
from asyncua.server.standard_address_space import standard_address_space

_first = Server()
standard_address_space.fill_address_space(_first.iserver.node_mgt_service)


class WithNodes(Server):
    """A server that takes them; a process has only one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.iserver.aspace._nodes = _first.iserver.aspace._nodes
        self.iserver.load_standard_address_space = self._there  # type: ignore[method-assign]

    async def _there(self, _: object = None) -> None:
        """Load nothing more."""
