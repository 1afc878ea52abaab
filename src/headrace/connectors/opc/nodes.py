"""Which variables a server has: their paths, their units, and whether they have history."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from asyncua import ua

from headrace.connectors.opc.session import Session
from headrace.errors import PlanError
from headrace.plant.tags import Tag, Tags
from headrace.plant.units import code_of_unit_id

__all__ = ["Node", "describe", "discover", "found_below", "listed", "names_nodes", "unit_of"]

_NODE_ID = re.compile(r"(ns=\d+;)?[isgb]=", re.ASCII)
_UNKNOWN = {ua.StatusCodes.BadNodeIdUnknown, ua.StatusCodes.BadNodeIdInvalid}
_HISTORY = 4  # HistoryRead in an AccessLevel


@dataclass(slots=True)
class Node:
    """A variable.

    Attributes
    ----------
    path
        The names from the start of the browse to it.
    id
        Its NodeId as text.
    unit
        What its EngineeringUnits say: a UNECE code, or the text of another unit.
    unit_node
        The node of its EngineeringUnits.
    gone
        Whether the server does not have it.
    history
        Whether the server stores its values.
    tag
        What the list of tags says of it.
    """

    node: ua.NodeId
    path: str
    id: str
    unit: str | None = None
    history: bool = False
    tag: Tag | None = None
    unit_node: ua.NodeId | None = None
    gone: bool = False


def node_id(text: str, where: str) -> ua.NodeId:
    """Return a NodeId. Raises PlanError if the text is none."""
    try:
        found = ua.NodeId.from_string(text)
    except (ua.UaError, ValueError):
        raise PlanError(f"{text!r} is not a NodeId", where=where, fix="write ns=2;s=Line1, or ns=2;i=1001") from None
    return found


async def found_below(session: Session, start: str | None, where: str) -> list[Node]:
    """Return the variables below a node; without one, those below Objects, but for those of the server itself.

    Raises
    ------
    PlanError
        If there is no such node, or no variable.
    """
    root = ua.NodeId(ua.ObjectIds.ObjectsFolder) if start is None else node_id(start, where)
    name = ""
    if start is not None:
        (read,) = await session.read([root], ua.AttributeIds.BrowseName)
        if read.Value is None or read.Value.Value is None:
            raise PlanError(f"has no node {start}", where=where, fix="see its nodes: headrace browse, without node=")
        name = _part(read.Value.Value)
    found, units = await _walk(session, root, name, own=start is not None)
    if not found:
        below = f"below {start}" if start is not None else "below Objects"
        raise PlanError(f"has no variable {below}", where=where, fix="see its nodes: headrace browse, without node=")
    for one in found:
        one.unit_node = units.get(one.id)
    await describe(session, found)
    return found


def names_nodes(tags: Tags) -> bool:
    """Return whether a list of tags has NodeIds. A plant's list has the addresses of other sources too."""
    return any(tag.source is not None and _NODE_ID.match(tag.source) for tag in tags)


async def listed(session: Session, tags: Tags) -> list[Node]:
    """Return the variables that a list of tags names."""
    sources = [(tag, tag.source) for tag in tags if tag.source is not None and _NODE_ID.match(tag.source)]
    found = [Node(node_id(source, f"source of tag {tag.path}"), tag.path, source, tag=tag) for tag, source in sources]
    await discover(session, found)
    return found


async def discover(session: Session, nodes: Sequence[Node]) -> None:
    """Find the properties of variables, and describe these."""
    for one, result in zip(nodes, await session.browse([one.node for one in nodes]), strict=True):
        one.unit_node = _unit_of(result)
    await describe(session, nodes)


async def _walk(session: Session, root: ua.NodeId, name: str, *, own: bool) -> tuple[list[Node], dict[str, ua.NodeId]]:
    """Return the variables below a node, and the nodes of their units."""
    found: dict[str, Node] = {}
    units: dict[str, ua.NodeId] = {}
    seen, level = {root}, [(root, name)]
    if own:
        (kind,) = await session.read([root], ua.AttributeIds.NodeClass)
        if kind.Value is not None and kind.Value.Value == ua.NodeClass.Variable:
            found[root.to_string()] = Node(root, name, root.to_string())
    while level:
        below = []
        for (node, path), result in zip(level, await session.browse([node for node, _ in level]), strict=True):
            if (unit := _unit_of(result)) is not None:
                units[node.to_string()] = unit
            for one in result.References or ():
                target = ua.NodeId(one.NodeId.Identifier, one.NodeId.NamespaceIndex, one.NodeId.NodeIdType)
                if _is_property(one) or target in seen or (not own and target.NamespaceIndex == 0):
                    continue
                seen.add(target)
                place = f"{path}/{_part(one.BrowseName)}" if path else _part(one.BrowseName)
                below.append((target, place))
                if one.NodeClass == ua.NodeClass.Variable:
                    found[target.to_string()] = Node(target, place, target.to_string())
        level = below
    return _with_own_paths(list(found.values())), units


def _with_own_paths(nodes: Sequence[Node]) -> list[Node]:
    """Give nodes whose path another one has their NodeIds as paths."""
    seen: set[str] = set()
    for one in nodes:
        if one.path in seen:
            one.path = one.id
        seen.add(one.path)
    return list(nodes)


def _part(name: ua.QualifiedName) -> str:
    return (name.Name or "_").replace("/", "_")


def _is_property(reference: ua.ReferenceDescription) -> bool:
    return bool(reference.ReferenceTypeId == ua.NodeId(ua.ObjectIds.HasProperty))


def _unit_of(result: ua.BrowseResult) -> ua.NodeId | None:
    """Return the node of the property EngineeringUnits."""
    for one in result.References or ():
        if _is_property(one) and one.BrowseName.Name == "EngineeringUnits":
            return ua.NodeId(one.NodeId.Identifier, one.NodeId.NamespaceIndex, one.NodeId.NodeIdType)
    return None


async def describe(session: Session, nodes: Sequence[Node]) -> None:
    """Read which variables are there, and their units and access levels."""
    for one, level in zip(nodes, await session.read([one.node for one in nodes], ua.AttributeIds.AccessLevel), strict=True):
        one.history = level.Value is not None and isinstance(level.Value.Value, int) and bool(level.Value.Value & _HISTORY)
        one.gone = level.StatusCode is not None and level.StatusCode.value in _UNKNOWN
    measured = [one for one in nodes if one.unit_node is not None]
    values = await session.read([one.unit_node for one in measured if one.unit_node is not None])
    for one, value in zip(measured, values, strict=True):
        if value.Value is not None and isinstance(value.Value.Value, ua.EUInformation):
            one.unit = unit_of(value.Value.Value)


def unit_of(said: ua.EUInformation) -> str | None:
    """Return what EngineeringUnits say: a code of UNECE, or the text where the unitId is the vendor's own."""
    own = said.NamespaceUri and not said.NamespaceUri.rstrip("/").endswith("cefact")
    return (None if own else code_of_unit_id(said.UnitId)) or (said.DisplayName.Text if said.DisplayName is not None else None) or None
