"""A session with PostgreSQL: how it begins and ends, and what an error of the server or of the connection means."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from headrace.connectors.certificates import fault_of_text
from headrace.connectors.protocol import Unavailable
from headrace.errors import EnvironmentFault, PlanError

try:
    import asyncpg
except ModuleNotFoundError:
    raise EnvironmentFault("needs the package asyncpg", where="the bridge", fix="pip install 'headrace[postgresql]'") from None

__all__ = ["LOST", "Session", "said"]

_CONNECT_SECONDS, ANSWER_SECONDS, _CLOSE_SECONDS = 10.0, 60.0, 5.0
_UNREADY = frozenset({"08", "25", "40", "53", "55", "57", "58", "XX"})
LOST = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""The errors of a lost connection; TimeoutError is an OSError."""


class Session:
    """A connector with one session.

    Attributes
    ----------
    name
        The address without user and password.
    """

    name: str
    _example: str
    _options: Mapping[str, Any]
    _connection: asyncpg.Connection | None = None

    async def _open(self, **settings: str) -> asyncpg.Connection:
        """Open the session, with settings of the server's. Raises PlanError if the address is wrong, or what asyncpg raises."""
        settings |= {"timezone": "UTC", "datestyle": "ISO"}
        try:
            self._connection = await asyncpg.connect(
                **self._options, timeout=_CONNECT_SECONDS, command_timeout=ANSWER_SECONDS, server_settings=settings
            )
        except (asyncpg.ClientConfigurationError, ValueError, ssl.SSLError) as error:
            raise fault_of_text(str(error), "sslrootcert") or self._misled(error) from None
        return self._connection

    def _give_up(self) -> None:
        """Leave a session that does not answer."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.terminate()

    def _lost(self, error: Exception) -> Unavailable | PlanError:
        """Return what it means that no session can be had, or that one was lost."""
        self._give_up()
        if (fault := fault_of_text(str(error), "sslrootcert")) is not None:
            return fault
        if "rejected SSL upgrade" in str(error):
            return self._misled(error)
        if isinstance(error, TimeoutError):
            return Unavailable("does not answer in time")
        if isinstance(error, ConnectionRefusedError) or "Connect call failed" in str(error):
            return Unavailable("connection refused")
        return Unavailable(f"connection lost: {error}" if str(error) else "connection lost")

    def _misled(self, error: Exception) -> PlanError:
        return PlanError(f"cannot be reached so: {error}", where=self.name, fix=f"give an address such as {self._example}")

    def _refused(self, error: asyncpg.PostgresError, fixes: Mapping[str, str], otherwise: str) -> Unavailable | PlanError:
        """Return what an error of the server means for all records: that it is not ready, or an error with a fix by its code."""
        self._give_up()
        if (error.sqlstate or "")[:2] in _UNREADY:
            return Unavailable(f"answers: {said(error)}")
        known = {
            "28P01": "export PGPASSWORD=…, or write a line of ~/.pgpass",
            "28000": "check the user, and the server's pg_hba.conf",
            "3D000": "create the database, or check its name",
            **fixes,
        }
        return PlanError(f"answers: {said(error)}", where=self.name, fix=known.get(error.sqlstate or "", otherwise))

    async def close(self) -> None:
        """End the session."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await connection.close(timeout=_CLOSE_SECONDS)
        await asyncio.sleep(0)  # a session that was left closes its socket


def said(error: asyncpg.PostgresError) -> str:
    """Return what the server says, without the row, which it repeats."""
    text, detail = str(error.args[0] if error.args else error), getattr(error, "detail", None)
    if detail and not detail.startswith("Failing row"):
        text = f"{text} ({detail})"
    return " ".join(text.split())[:300]
