"""What addresses of MQTT brokers say of the broker, the client and the topics."""

from __future__ import annotations

from typing import Any

from headrace.connectors.address import Address, secret_file
from headrace.connectors.mqtt_server import Server
from headrace.errors import PlanError

__all__ = ["MQTT_EXAMPLE", "SERVER_PARAMETERS", "check_filter", "parsed", "server_of", "version_of"]

SERVER_PARAMETERS = frozenset({"version", "client_id", "keepalive", "password_file", "ca", "cert", "key"})
MQTT_EXAMPLE = "mqtt://user@127.0.0.1:1883/plant/+/data?qos=1"


def parsed(address: str, known: frozenset[str], example: str, where: str) -> Address:
    """Return an address whose path may have the # of a topic filter."""
    one = Address(address.replace("#", "%23"), known, example, where)
    if one.host is None or one.scheme not in {"mqtt", "mqtts", "sparkplug", "sparkplugs"}:
        raise one.wrong("is not the address of a broker")
    return one


def version_of(address: Address) -> bool | None:
    """Return whether an address asks for MQTT 5 or for 3.1.1; None: for the newest that the broker speaks."""
    version = address.get("version")
    if version not in {None, "5", "3.1.1"}:
        raise PlanError(f"parameter version is {version!r}", where=address.where, fix="give version=5 or version=3.1.1")
    return None if version is None else version == "5"


def server_of(address: Address, where: str, client_id: str, path: str, **options: Any) -> Server:  # noqa: ANN401  (those of Server)
    """Return the broker of an address."""
    tls = address.scheme.endswith("s")
    for name in ("ca", "cert", "key"):
        if address.get(name) is not None and not tls:
            raise PlanError(f"parameter {name} is only for TLS", where=where, fix=f"give {address.scheme}s://…")
    file = address.get("password_file")
    if file is not None and address.password is not None:
        raise PlanError("has a password, and parameter password_file", where=where, fix="give one of them")
    assert address.host is not None
    port = address.port or (8883 if tls else 1883)
    host = f"[{address.host}]" if ":" in address.host else address.host
    user = f"{address.user}@" if address.user else ""
    server = Server(
        name=f"{address.scheme}://{user}{host}:{port}/{path}",
        where=where,
        host=address.host,
        port=port,
        client_id=address.get("client_id") or client_id,
        user=address.user,
        password=address.password if file is None else secret_file(file),
        tls=tls,
        ca=address.get("ca"),
        certificate=address.get("cert"),
        key=address.get("key"),
        keepalive=int(address.seconds("keepalive", 30.0, 1.0, 65_535.0)),
        **options,
    )
    server.check_files()
    return server


def check_filter(topic: str, where: str = "FROM") -> None:
    """Raise PlanError unless a text is a topic filter: `+` and `#` stand for whole levels, and `#` is the last one."""
    levels = topic.split("/")
    bad = next((level for level in levels if level not in {"+", "#"} and ("+" in level or "#" in level)), None)
    if not topic:
        raise PlanError("has no topic filter", where=where, fix=f"give an address such as {MQTT_EXAMPLE}")
    if bad is not None or "#" in levels[:-1] or "\0" in topic or len(topic.encode()) > 65_535:
        what = (
            f"level {bad!r}" if bad is not None else "'#' before its end" if "#" in levels[:-1] else "a character or length that MQTT does not have"
        )
        raise PlanError(f"has a topic filter with {what}", where=where, fix="+ stands for one whole level, # for all further ones at the end")
