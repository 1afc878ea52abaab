"""The options that say how many records may wait for a target: of `headrace bridge`, and of an [[out]] of a plant file."""

from __future__ import annotations

from headrace.cli.values import duration_ms
from headrace.connectors.buffer import POLICIES, Buffer, Policy
from headrace.errors import PlanError, near
from headrace.plant.file import Out

__all__ = ["buffer_for", "buffer_of"]

_NAMES = ("--buffer", "--when-full", "--reduce-to")


def buffer_of(most: int | None, policy: str | None, reduce_to: str | None, names: tuple[str, str, str] = _NAMES) -> Buffer | None:
    """Return the buffer that options ask for; None if they ask for none.

    Parameters
    ----------
    most, policy, reduce_to
        The limit in records, what is dropped, and the shortest interval of `reduce`, such as 1s.
    names
        What the three are called, for errors.

    Raises
    ------
    PlanError
        If they do not fit together.
    """
    if most is None:
        for value, name in ((policy, names[1]), (reduce_to, names[2])):
            if value is not None:
                raise PlanError("is only for a buffer with a limit", where=name, fix="give the limit too, a number of records: buffer")
        return None
    if most < 1:
        raise PlanError(f"the limit is {most}", where=names[0], fix="give 1 or more records")
    if policy is not None and policy not in POLICIES:
        raise PlanError(f"the policy is {policy!r}", where=names[1], fix=near(policy, POLICIES))
    chosen: Policy = next((one for one in POLICIES if one == policy), "oldest")
    if reduce_to is None:
        return Buffer(most, chosen)
    if chosen != "reduce":
        raise PlanError("an interval is only for the policy reduce", where=names[2], fix="leave it out")
    interval = duration_ms(reduce_to, names[2])
    if interval < 1:
        raise PlanError(f"the interval is {reduce_to!r}", where=names[2], fix="give a duration such as 1s")
    return Buffer(most, chosen, interval)


def buffer_for(part: Out) -> Buffer | None:
    """Return the buffer of a part of a plant."""
    names = part.where("buffer"), part.where("when_full"), part.where("reduce_to")
    return buffer_of(part.buffer, part.when_full, part.reduce_to, names)
