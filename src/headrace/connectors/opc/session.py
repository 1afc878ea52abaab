"""A session with a server of OPC UA: connect, read, subscribe and read history, with errors that say whose fault they are."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, Final, TypeVar

from asyncua import Client, ua
from asyncua.ua import uaerrors

from headrace.connectors.ending import ended
from headrace.connectors.opc.security import Security, offers
from headrace.connectors.protocol import Unavailable
from headrace.errors import PlanError

__all__ = ["Session", "chunks"]

_CHUNK = 500
_CLOSE_SECONDS = 2.0
_T = TypeVar("_T")

# What it logs comes back as an error here, or as a reading.
logging.getLogger("asyncua").setLevel(logging.CRITICAL + 1)

_CREDENTIALS: Final = (uaerrors.BadUserAccessDenied, uaerrors.BadIdentityTokenRejected, uaerrors.BadIdentityTokenInvalid)
_CERTIFICATE: Final = (
    *(uaerrors.BadCertificateInvalid, uaerrors.BadCertificateTimeInvalid, uaerrors.BadCertificateUntrusted, uaerrors.BadCertificateUriInvalid),
    *(
        uaerrors.BadCertificateUseNotAllowed,
        uaerrors.BadCertificateHostNameInvalid,
        uaerrors.BadCertificateRevoked,
        uaerrors.BadCertificateIssuerRevoked,
    ),
    *(uaerrors.BadCertificateChainIncomplete, uaerrors.BadSecurityChecksFailed),
)
_POLICY: Final = (uaerrors.BadSecurityPolicyRejected, uaerrors.BadSecurityModeRejected)


def chunks(items: Sequence[_T], size: int = _CHUNK) -> Iterator[Sequence[_T]]:
    """Yield parts of a sequence: a server limits how much one request may ask for."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


class Session:
    """A connection with a session.

    Parameters
    ----------
    url
        The server's address, without a password.
    security
        How messages are secured.
    user, password
        None: anonymous.
    timeout
        Seconds that an answer may take. The connection is lost when the server does not answer a probe for so long.
    """

    def __init__(self, url: str, security: Security, user: str | None, password: str | None, timeout: float) -> None:
        self._url, self._security, self._user, self._password = url, security, user, password
        self._client = Client(url, timeout=timeout, watchdog_intervall=timeout)
        self._client.name = self._client.description = "headrace"
        self._client.application_uri = "urn:headrace"
        self._client.product_uri = "urn:headrace"

    async def connect(self, lost: Callable[[], None]) -> None:
        """Connect.

        Parameters
        ----------
        lost
            Is called when the connection is lost.

        Raises
        ------
        Unavailable
            If the server does not answer.
        PlanError, EnvironmentFault
            If trying again cannot help.
        """

        async def told(_: Exception) -> None:
            lost()

        client = self._client
        client.connection_lost_callback = told
        if self._user is not None:
            client.set_user(self._user)
            client.set_password(self._password or "")
        try:
            with self._blaming():
                await self._security.apply(client, self._url)
                await client.connect()
        except ua.UaError as error:
            offered = await self._offers()
            if "endpoint" not in str(error):
                raise Unavailable(f"refuses the session: {error}") from None
            mode = f"security={self._security.mode}"
            raise PlanError(f"does not offer {mode}", where=self._url, fix=f"it offers {offered}") from None

    @property
    def sends_plain_password(self) -> bool:
        """Whether the password went over the network as it is."""
        if self._user is None or self._security.mode == "SignAndEncrypt":
            return False
        uri = self._client.server_policy(ua.UserTokenType.UserName).SecurityPolicyUri
        return not uri or uri.endswith("#None")

    async def _offers(self) -> str:
        with suppress(ua.UaError, OSError, TimeoutError):
            return offers(await Client(self._url, timeout=2).connect_and_get_server_endpoints())
        return "no endpoint that can be listed"

    @contextmanager
    def _blaming(self) -> Iterator[None]:
        """Raise what the library raises as an error that says whose fault it is."""
        try:
            yield
        except _CREDENTIALS as error:
            who = f"user {self._user!r}" if self._user is not None else "a session without a user"
            fix = "give user and password: opc.tcp://USER:${PASSWORD}@HOST, or USER@HOST and password_file=FILE"
            raise PlanError(f"refuses {who}: {_name(error)}", where=self._url, fix=fix) from None
        except _CERTIFICATE as error:
            what = f"refuses the certificate {self._security.certificate or '(none)'}: {_name(error)}"
            raise PlanError(what, where=self._url, fix="have its administrator trust this certificate") from None
        except _POLICY as error:
            what = f"refuses security={self._security.mode}: {_name(error)}"
            raise PlanError(what, where=self._url, fix="see its list: headrace browse, or ask its administrator") from None
        except uaerrors.BadTcpEndpointUrlInvalid as error:
            raise PlanError(f"has no such endpoint: {_name(error)}", where=self._url, fix="give its path too: opc.tcp://HOST:4840/PATH") from None
        except ua.UaStatusCodeError as error:
            raise Unavailable(f"answers {_name(error)}") from None
        except TimeoutError:
            raise Unavailable("does not answer") from None
        except OSError as error:
            raise Unavailable(_why(error)) from None

    async def call(self, request: Coroutine[Any, Any, _T]) -> _T:
        """Await an answer. Raises Unavailable or PlanError."""
        try:
            with self._blaming():
                return await request
        except ua.UaError as error:
            raise Unavailable(f"answers with what cannot be read: {error}") from None

    async def browse(self, nodes: Sequence[ua.NodeId]) -> list[ua.BrowseResult]:
        """Return the nodes directly below some nodes, and their properties."""
        found = []
        for some in chunks(nodes, 100):
            parameters = ua.BrowseParameters()
            parameters.RequestedMaxReferencesPerNode = 0
            parameters.NodesToBrowse = [
                ua.BrowseDescription(
                    NodeId=node,
                    BrowseDirection=ua.BrowseDirection.Forward,
                    ReferenceTypeId=ua.NodeId(ua.ObjectIds.HierarchicalReferences),
                    IncludeSubtypes=True,
                    NodeClassMask=ua.NodeClass.Object | ua.NodeClass.Variable,
                    ResultMask=ua.BrowseResultMask.All,
                )
                for node in some
            ]
            for result in await self.call(self._client.uaclient.session.browse(parameters)):
                point = result.ContinuationPoint
                while point:
                    more = ua.BrowseNextParameters(ReleaseContinuationPoints=False, ContinuationPoints=[point])
                    (rest,) = await self.call(self._client.uaclient.session.browse_next(more))
                    result.References = [*(result.References or ()), *(rest.References or ())]
                    point = rest.ContinuationPoint
                found.append(result)
        return found

    async def read(self, nodes: Sequence[ua.NodeId], attribute: ua.AttributeIds = ua.AttributeIds.Value) -> list[ua.DataValue]:
        """Return an attribute of some nodes."""
        found: list[ua.DataValue] = []
        for some in chunks(nodes):
            found += await self.call(self._client.uaclient.session.read_attributes(list(some), attribute))
        return found

    async def subscribe(self, interval: float, keepalive: int, callback: Callable[[ua.PublishResult], Coroutine[Any, Any, None]]) -> int:
        """Make a subscription, and return its id."""
        parameters = ua.CreateSubscriptionParameters()
        parameters.RequestedPublishingInterval = 1000 * interval
        parameters.RequestedMaxKeepAliveCount = keepalive
        parameters.RequestedLifetimeCount = 3 * keepalive + 100
        parameters.MaxNotificationsPerPublish = 0
        parameters.PublishingEnabled = True
        result = await self.call(self._client.uaclient.session.create_subscription(parameters, callback))
        return int(result.SubscriptionId)

    async def monitor(self, subscription: int, nodes: Sequence[tuple[int, ua.NodeId]], sampling: float, queue: int) -> list[int]:
        """Have changes of nodes reported, each with its handle, and return the StatusCode of each."""
        statuses: list[int] = []
        for some in chunks(nodes):
            items = [
                ua.MonitoredItemCreateRequest(
                    ItemToMonitor=ua.ReadValueId(NodeId=node, AttributeId=ua.AttributeIds.Value),
                    MonitoringMode=ua.MonitoringMode.Reporting,
                    RequestedParameters=ua.MonitoringParameters(
                        ClientHandle=handle, SamplingInterval=1000 * sampling, QueueSize=queue, DiscardOldest=True
                    ),
                )
                for handle, node in some
            ]
            parameters = ua.CreateMonitoredItemsParameters(subscription, ua.TimestampsToReturn.Both, items)
            results = await self.call(self._client.uaclient.session.create_monitored_items(parameters))
            statuses += [one.StatusCode.value for one in results]
        return statuses

    async def history(self, node: ua.NodeId, start: datetime, end: datetime) -> list[ua.DataValue]:
        """Return what the server has stored of a node. Raises UaStatusCodeError if it has no history."""
        details = ua.ReadRawModifiedDetails(IsReadModified=False, StartTime=start, EndTime=end, NumValuesPerNode=0, ReturnBounds=False)
        found: list[ua.DataValue] = []
        point = None
        while True:
            wanted = ua.HistoryReadValueId(NodeId=node, ContinuationPoint=point)
            parameters = ua.HistoryReadParameters(details, ua.TimestampsToReturn.Both, False, [wanted])
            (result,) = await self._client.uaclient.session.history_read(parameters)
            result.StatusCode.check()
            found += result.HistoryData.DataValues or ()
            if not result.ContinuationPoint or result.ContinuationPoint == point:
                return found
            point = result.ContinuationPoint

    async def close(self) -> None:
        """End the session and the connection, however the server is."""
        client = self._client
        with suppress(Exception):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await client.disconnect()
        with suppress(Exception):
            client.disconnect_socket()
        tasks = (client._supervisor_task, client._stale_watchdog_task, client._renew_channel_task, client.uaclient._publish_task)
        await ended(task for task in tasks if task is not None and not task.done())


def _name(error: ua.UaStatusCodeError) -> str:
    return ua.StatusCode(error.code).name if error.code else str(error)


def _why(error: OSError) -> str:
    if error.errno and error.errno > 0:
        return os.strerror(error.errno).lower()
    return str(error.strerror or error or "connection lost").lower()
