"""The simulated generators over HTTP: `uvicorn headrace.gateway.generators:app` serves `GET /generator/stream`.

A record's number is its event's id, and a record is a function of the query and its number. So a client that lost the
connection goes on after the last id it has, by the header Last-Event-ID, be it with this server or another.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any, Literal

try:
    from fastapi import FastAPI, Header, Query, Request, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, StreamingResponse
    from pydantic import BaseModel, ConfigDict, Field
    from starlette.types import ASGIApp, Receive, Scope, Send
except ModuleNotFoundError:
    from headrace.errors import EnvironmentFault

    raise EnvironmentFault("needs the packages fastapi and uvicorn", where="the server", fix="pip install 'headrace[server]'") from None

from headrace import __version__
from headrace._clock import now_ms
from headrace.errors import PlanError, near
from headrace.gateway.hosts import REFUSED, is_own_host
from headrace.simulate.generators import Generators, parse_span
from headrace.simulate.writing import time_ms

__all__ = ["Asked", "Guard", "app"]

SSE, NDJSON = "text/event-stream", "application/x-ndjson"
QUIET_SECONDS = 15.0
_AT_ONCE = 256
_NAP_SECONDS = 0.005

app = FastAPI(title="headrace: simulated generators", version=__version__, docs_url=None, redoc_url=None)

Number = Annotated[int, Field(ge=0, le=1 << 53)]


class Asked(BaseModel):
    """The request of a client."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: Annotated[Number | None, Field(description="end after so many records")] = None
    rate: Annotated[float | None, Field(ge=0, le=1e9, allow_inf_nan=False, description="records a second; 0: as fast as they are taken")] = None
    first: Annotated[Number | Literal["now"], Field(alias="from", description="the first record's number; now: the one whose time it is")] = 0
    seed: Annotated[int, Field(description="the same seed sends the same records")] = 0
    generators: Annotated[int, Field(description="how many there are")] = 10
    fault_probability: Annotated[float, Field(description="how many readings have a fault besides those that come by themselves")] = 0.0
    power: Annotated[str, Field(description="MW")] = "80-120"
    fuel: Annotated[str, Field(description="%")] = "0-100"
    voltage: Annotated[str, Field(description="V")] = "220-240"
    units: Annotated[bool, Field(description="numbers as text with their units")] = False
    start: Annotated[str, Field(description="the time of record 0")] = "2024-01-01T00:00:00Z"
    interval_ms: Annotated[float, Field(ge=0.001, le=86_400_000, description="the time between two records of a generator")] = 1000.0

    @property
    def plant(self) -> Generators:
        """The generators asked for. Raises PlanError if there can be no such."""
        spans = {name: parse_span(getattr(self, name), name) for name in ("power", "fuel", "voltage")}
        return Generators(self.seed, self.generators, self.fault_probability, units=self.units, **spans)

    @property
    def start_ms(self) -> int:
        """The time of record 0. Raises PlanError if it is none."""
        return time_ms(self.start, "start")

    @property
    def pace(self) -> float:
        """How many records a second: as many as the plant's own time has, unless something else was asked for."""
        return self.generators * 1000 / self.interval_ms if self.rate is None else self.rate

    def numbers(self, last_id: int | None) -> tuple[int, float]:
        """Return the number of the first record to send, after what the client has, and the one behind the last."""
        if self.first != "now":
            begin, end = self.first, math.inf if self.count is None else self.first + self.count
        elif self.count is not None:
            raise PlanError("counts from a record that is another each time", where="count", fix="give from=NUMBER, or no count")
        else:
            # A client that comes back has been here: it goes on after what it has.
            begin, end = 0 if last_id is not None else max(int((now_ms() - self.start_ms) / self.interval_ms), 0) * self.generators, math.inf
        return begin if last_id is None else max(begin, last_id + 1), end


class Guard:
    """Answers only to names that no one else can own, and to those in `app.state.hosts`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        hosts = [value.decode("latin-1") for name, value in scope.get("headers", ()) if name == b"host"]
        if len(hosts) > 1 or not all(is_own_host(host, app.state.hosts) for host in hosts):
            await JSONResponse({"detail": REFUSED}, 421)(scope, receive, send)
            return
        await self._app(scope, receive, send)


app.add_middleware(Guard)
app.state.hosts = {name.strip() for name in os.environ.get("HEADRACE_ALLOWED_HOSTS", "").split(",") if name.strip()}


@app.get("/generator/stream", response_class=StreamingResponse)
@app.head("/generator/stream", include_in_schema=False)
async def stream(
    request: Request,
    asked: Annotated[Asked, Query()],
    last_event_id: Annotated[Number | None, Header(description="the id of the last event that the client has")] = None,
) -> Response:
    """Send records, as server-sent events or, if the client accepts application/x-ndjson, as lines."""
    plant, start_ms, interval_ms = asked.plant, asked.start_ms, asked.interval_ms
    first, end = asked.numbers(last_event_id)
    if first >= end:
        # By the standard of server-sent events, a client that hears this does not come back.
        return Response(status_code=204)
    lines = NDJSON in request.headers.get("accept", "")
    media_type, headers = NDJSON if lines else SSE, {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    if request.method == "HEAD":
        return Response(media_type=media_type, headers=headers)

    def event(number: int) -> bytes:
        return b"id: %d\ndata: %b\n\n" % (number, plant.line(number, start_ms, interval_ms))

    def line(number: int) -> bytes:
        return plant.line(number, start_ms, interval_ms) + b"\n"

    return StreamingResponse(
        _pieces(first, end, asked.pace, line if lines else event, b"\n" if lines else b":\n\n"),
        media_type=media_type,
        headers=headers,
    )


async def _pieces(first: int, end: float, rate: float, text: Callable[[int], bytes], sign_of_life: bytes) -> AsyncIterator[bytes]:
    """Give the texts of records in pieces, as their time comes: at once, and then `rate` a second. Who takes them slowly is not overrun later."""
    loop = asyncio.get_running_loop()
    began = heard = loop.time()
    sent, left = 0, end - first
    while left > 0:
        now = loop.time()
        if rate and now - began > sent / rate + 1:
            began = now - sent / rate - 1
        due = math.floor((now - began) * rate) + 1 - sent if rate else _AT_ONCE
        if due > 0:
            count = int(min(due, _AT_ONCE, left))
            yield b"".join(text(first + sent + place) for place in range(count))
            sent, left, heard = sent + count, left - count, loop.time()
            await asyncio.sleep(0)
        elif now - heard >= QUIET_SECONDS:
            yield sign_of_life
            heard = now
        else:
            await asyncio.sleep(max(min(began + sent / rate, heard + QUIET_SECONDS) - now, _NAP_SECONDS))


@app.get("/health")
@app.head("/health", include_in_schema=False)
async def health() -> dict[str, str]:
    """Say that the server is there."""
    return {"status": "ok"}


@app.exception_handler(PlanError)
async def _impossible(_request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


@app.exception_handler(RequestValidationError)
async def _refused(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"detail": "; ".join(dict.fromkeys(map(_said, error.errors())))}, 422)


def _said(fault: Mapping[str, Any]) -> str:
    name = fault["loc"][1]
    if fault["type"] == "extra_forbidden":
        return f"there is no parameter {name!r}; {near(name, (field.alias or key for key, field in Asked.model_fields.items()))}"
    return f"{name} is {fault['input']!r}: {fault['msg']}"
