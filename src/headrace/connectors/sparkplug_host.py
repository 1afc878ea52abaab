"""A host application of Sparkplug B: what its edge nodes have declared, and what their messages mean. Sans-IO.

An edge node declares its metrics and their aliases in a birth, and then sends values under the aliases. Its messages have sequence
numbers from 0 to 255. Where one is missing, or an alias is not known, the host asks for the births again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from headrace.connectors.sparkplug_payload import Metric, Payload, Undecodable, parse, rebirth_command
from headrace.connectors.tagged import Units, reading_as, tag_of
from headrace.plant.quality import Quality, is_good
from headrace.plant.reading import Reading
from headrace.plant.tags import Tags

__all__ = ["NAMESPACE", "Host", "Outcome", "says_offline", "state"]

NAMESPACE = "spBv1.0"
REBIRTH_MS = 5000
_LAST_MS = 253_402_300_799_999
_OWN = ("Node Control/", "Device Control/")
_NODE = ""  # where a device has its name


@dataclass(frozen=True, slots=True)
class Outcome:
    """The meaning of a message.

    Attributes
    ----------
    readings
        The values that it brings.
    commands
        What is to be published at QoS 0: topics and payloads.
    malformed
        Why it, or a part of it, cannot be readings.
    """

    readings: Sequence[Reading] = ()
    commands: Sequence[tuple[str, bytes]] = ()
    malformed: str | None = None


@dataclass(slots=True)
class _Edge:
    """An edge node.

    Attributes
    ----------
    born
        Whether its birth is known, and no message after it is missing.
    known
        The metrics of the node, and of each device, with their units.
    aliases
        The device and the name of a metric, by its alias.
    """

    born: bool = False
    seq: int | None = None
    death_seq: int | float | str | bool | None = None
    known: dict[str, dict[str, str | None]] = field(default_factory=dict)
    aliases: dict[int, tuple[str, str]] = field(default_factory=dict)
    asked_ms: int | None = None


class Host:
    """The state of all edge nodes that are heard.

    Parameters
    ----------
    asks
        Whether to ask for births.
    tags
        The list of tags by which metrics are named; None: group/edge/device/metric.
    tell
        Is given a line for what is noticed, such as another unit.

    Attributes
    ----------
    gaps, unknown
        How many sequence gaps and unknown aliases there were.
    """

    def __init__(self, *, asks: bool = True, tags: Tags | None = None, tell: Callable[[str], object] = lambda _: None) -> None:
        self._asks, self._tags, self._units = asks, tags, Units(tell)
        self._edges: dict[tuple[str, str], _Edge] = {}
        self.gaps = self.unknown = 0

    def receive(self, topic: str, payload: bytes, at_ms: int) -> Outcome:
        """Return what a message means that came at a time, ms since the epoch."""
        levels = topic.split("/")
        if levels[:1] != [NAMESPACE] or not 4 <= len(levels) <= 5 or levels[1] == "STATE":
            return Outcome()
        group, kind, edge = levels[1:4]
        device = levels[4] if len(levels) == 5 else _NODE
        handle = _HANDLERS.get((kind, bool(device)))
        if handle is None:
            return Outcome() if kind in {"NCMD", "DCMD"} else Outcome(malformed=f"{topic}: is no message of Sparkplug B")
        try:
            content = parse(payload)
        except Undecodable as error:
            return Outcome(malformed=f"{topic}: is not a payload of Sparkplug B: {error}", commands=self._ask(group, edge, at_ms, known=True))
        return handle(self, _Message(topic, group, edge, device, content, at_ms))

    def away(self, at_ms: int) -> Outcome:
        """Return what it means that the connection was lost and is there again: what happened meanwhile is not known."""
        readings: list[Reading] = []
        commands: list[tuple[str, bytes]] = []
        for (group, edge), one in self._edges.items():
            readings += self._stale(group, edge, one, [*one.known], at_ms, None)
            one.born, one.seq, one.asked_ms = False, None, None
            commands += self._ask(group, edge, at_ms)
        return Outcome(readings, commands)

    # messages

    def _node_birth(self, message: _Message) -> Outcome:
        one = self._edge(message)
        before = one.known.get(_NODE, {})
        one.born, one.asked_ms = True, None
        one.seq = message.payload.seq if message.payload.seq is not None else 0
        one.death_seq = next((metric.value for metric in message.payload.metrics if metric.name == "bdSeq"), None)
        one.aliases.clear()
        one.known[_NODE] = {}
        return self._birth(one, message, before)

    def _device_birth(self, message: _Message) -> Outcome:
        one = self._edge(message)
        commands = self._follow(one, message)
        before = one.known.get(message.device, {})
        one.aliases = {alias: place for alias, place in one.aliases.items() if place[0] != message.device}
        one.known[message.device] = {}
        outcome = self._birth(one, message, before)
        return Outcome(outcome.readings, commands, outcome.malformed)

    def _birth(self, one: _Edge, message: _Message, before: Mapping[str, str | None]) -> Outcome:
        """Take in the metrics of a birth. Those that were there before and are no more are stale."""
        known = one.known[message.device]
        unread = []
        for metric in message.payload.metrics:
            if metric.name is None or metric.name == "bdSeq" or metric.name.startswith(_OWN):
                continue
            if metric.alias is not None:
                one.aliases[metric.alias] = (message.device, metric.name)
            if metric.kind is None:
                known[metric.name] = metric.unit
            else:
                unread.append(f"{metric.name} ({metric.kind})")
        gone = [name for name in before if name not in known]
        readings = [*self._readings(one, message, good=True)[0]]
        readings += [self._reading(message, name, None, Quality.BAD_NO_COMMUNICATION, before[name], message.payload.time) for name in gone]
        return Outcome(readings, (), f"{message.topic}: has values that are not read: {', '.join(unread[:5])}" if unread else None)

    def _data(self, message: _Message) -> Outcome:
        one = self._edge(message)
        commands = self._follow(one, message)
        readings, unknown = self._readings(one, message, good=one.born and message.device in one.known)
        self.unknown += len(unknown)
        if unknown or not one.born or message.device not in one.known:
            commands = commands or self._ask(message.group, message.edge, message.at_ms)
        what = f"{message.topic}: has values of aliases that no birth has declared: {', '.join(map(str, unknown[:5]))}"
        return Outcome(readings, commands, what if unknown else None)

    def _node_death(self, message: _Message) -> Outcome:
        one = self._edges.get((message.group, message.edge))
        if one is None:
            return Outcome()
        death = next((metric.value for metric in message.payload.metrics if metric.name == "bdSeq"), None)
        if death is not None and one.death_seq is not None and death != one.death_seq:
            return Outcome()  # it is the will of a connection before the last birth
        readings = self._stale(message.group, message.edge, one, [*one.known], message.at_ms, None)
        one.born, one.seq = False, None
        one.known.clear()
        one.aliases.clear()
        return Outcome(readings)

    def _device_death(self, message: _Message) -> Outcome:
        one = self._edge(message)
        commands = self._follow(one, message)
        readings = self._stale(message.group, message.edge, one, [message.device], message.at_ms, message.payload.time)
        one.known.pop(message.device, None)
        one.aliases = {alias: place for alias, place in one.aliases.items() if place[0] != message.device}
        return Outcome(readings, commands)

    # parts

    def _edge(self, message: _Message) -> _Edge:
        return self._edges.setdefault((message.group, message.edge), _Edge())

    def _follow(self, one: _Edge, message: _Message) -> Sequence[tuple[str, bytes]]:
        """Compare the sequence number with the last one; return the command that a gap needs."""
        seq = message.payload.seq
        if one.seq is not None and seq == (one.seq + 1) % 256:
            one.seq = seq
            return ()
        if one.seq is not None:
            self.gaps += 1
        one.seq = seq if seq is None or seq < 256 else None
        one.born = False
        return self._ask(message.group, message.edge, message.at_ms)

    def _ask(self, group: str, edge: str, at_ms: int, *, known: bool = False) -> Sequence[tuple[str, bytes]]:
        """Return the command that asks for births, unless it was just given."""
        one = self._edges.get((group, edge)) if known else self._edges.setdefault((group, edge), _Edge())
        if one is None or not self._asks or (one.asked_ms is not None and 0 <= at_ms - one.asked_ms < REBIRTH_MS):
            return ()
        one.asked_ms = at_ms
        return [(f"{NAMESPACE}/{group}/NCMD/{edge}", rebirth_command(at_ms))]

    def _readings(self, one: _Edge, message: _Message, *, good: bool) -> tuple[list[Reading], list[int]]:
        """Return the readings of a message, and the aliases that are not known."""
        readings: list[Reading] = []
        unknown: list[int] = []
        for metric in message.payload.metrics:
            device, name = message.device, metric.name
            if name is None:
                if metric.alias is None or (place := one.aliases.get(metric.alias)) is None or place[0] != message.device:
                    if metric.alias is not None:
                        unknown.append(metric.alias)
                    continue
                device, name = place
            if name == "bdSeq" or name.startswith(_OWN) or metric.kind is not None:
                continue
            # Behind a gap an alias may have become another metric's.
            quality = Quality.UNCERTAIN if not good and is_good(metric.quality) else metric.quality
            unit = metric.unit or one.known.get(device, {}).get(name)
            readings.append(self._reading(message, name, metric, quality, unit, metric.time))
        return readings, unknown

    def _stale(self, group: str, edge: str, one: _Edge, devices: Sequence[str], at_ms: int, time: int | None) -> list[Reading]:
        """Return what is known of all metrics of some devices when they are gone: nothing."""
        found = []
        for device in devices:
            message = _Message("", group, edge, device, Payload(time, None, []), at_ms)
            for name, unit in one.known.get(device, {}).items():
                found.append(self._reading(message, name, None, Quality.BAD_NO_COMMUNICATION, unit, time))
        return found

    def _reading(self, message: _Message, name: str, metric: Metric | None, quality: int, unit: str | None, time: int | None) -> Reading:
        name = "/".join(filter(None, (message.group, message.edge, message.device, name)))
        tag = tag_of(self._tags, name)
        unit = self._units.known(tag, name, unit)
        value = None if metric is None or quality & Quality.BAD else metric.value
        source_time = time if time is not None and time <= _LAST_MS else None
        return reading_as(tag, name)(value, message.at_ms, source_time=source_time, quality=quality, unit=unit)


@dataclass(frozen=True, slots=True)
class _Message:
    topic: str
    group: str
    edge: str
    device: str
    payload: Payload
    at_ms: int


_HANDLERS: Mapping[tuple[str, bool], Callable[[Host, _Message], Outcome]] = {
    ("NBIRTH", False): Host._node_birth,
    ("DBIRTH", True): Host._device_birth,
    ("NDATA", False): Host._data,
    ("DDATA", True): Host._data,
    ("NDEATH", False): Host._node_death,
    ("DDEATH", True): Host._device_death,
}


def state(*, online: bool, since_ms: int) -> bytes:
    """Return the payload that says whether the host is online."""
    return json.dumps({"online": online, "timestamp": since_ms}, separators=(",", ":")).encode()


def says_offline(payload: bytes) -> bool:
    """Return whether a STATE message says that the host is offline."""
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("online") is False
