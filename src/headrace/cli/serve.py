"""`headrace serve`: one service alone."""

from __future__ import annotations

import os
import socket
from typing import Annotated

from cyclopts import Parameter

from headrace.cli.stopping import asked_to_stop
from headrace.errors import EnvironmentFault, PlanError, near

__all__ = ["serve"]

_SERVICES = {"generators": "/generator/stream"}


def serve(
    service: str,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8001,
    allow_host: Annotated[list[str] | None, Parameter(negative=())] = None,
) -> None:
    """Serve one service alone, until Ctrl-C or SIGTERM.

    Parameters
    ----------
    service
        generators: the simulated generators, /generator/stream.
    host
        The address to listen at: that of the loopback interface, unless others are to reach it too.
    port
        0 for any that is free.
    allow_host
        A name by which clients know this server, besides its addresses, localhost and this machine's name; requests for other names
        are refused. HEADRACE_ALLOWED_HOSTS of the environment names some too, with commas between.
    """
    if service not in _SERVICES:
        raise PlanError(f"unknown service {service!r}", fix=near(service, _SERVICES))
    if not 0 <= port < 65_536:
        raise PlanError(f"is {port}", where="--port", fix="give 1 to 65535, or 0 for any that is free")
    # uvicorn ends at the signals and then sends them again, to whoever heard them before: to this.
    asked_to_stop()
    from headrace.gateway.generators import app

    app.state.hosts |= {host, *(allow_host or ())}
    try:
        import uvicorn

        from headrace.gateway.timely import TimelyProtocol
    except ModuleNotFoundError:
        raise EnvironmentFault("needs the package uvicorn", where="the server", fix="pip install 'headrace[server]'") from None
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        # Python's own words name the place a second time; a name that is not found has a number of its own.
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise EnvironmentFault(
            f"cannot be served: {why}", where=f"{host} port {port}", fix="name a free one: --port 8002, and a --host of this machine"
        ) from None
    with listening:
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        print(f"headrace serve {service}: http://{shown}:{listening.getsockname()[1]}{_SERVICES[service]}   Ctrl-C ends it", flush=True)
        # A stream has no end of its own: those that still run are cut a second after the signal.
        config = uvicorn.Config(app, http=TimelyProtocol, log_level="critical", access_log=False, timeout_graceful_shutdown=1)
        uvicorn.Server(config).run(sockets=[listening])
