"""Processes with their inputs and side outputs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from headrace.plan.expression import Call
from headrace.plan.operator_base import Named, OperatorBase, Traits, digest, typed
from headrace.plan.process import Declaration
from headrace.plan.schema import Schema

__all__ = ["KeyedInput", "Over", "Process", "Side"]


@dataclass(frozen=True)
class KeyedInput:
    """Another input of a process, whose records go to the method `on_NAME`.

    `keys` are the columns that stand for those of the process. A record older than its partition's watermark is dropped, or taken at
    the watermark, or written to `late_topic`. If the input `holds`, its watermark holds that of the process back while it is silent.
    """

    name: str
    schema: Schema
    keys: tuple[str, ...]
    late: Literal["drop", "take", "side"] = "drop"
    holds: bool = True
    late_topic: str | None = None

    def __str__(self) -> str:
        side = f" to {self.late_topic!r}" if self.late_topic else ""
        return f"{self.name} (late: {self.late}{side}{'' if self.holds else ', does not hold'})"


@dataclass(frozen=True)
class Process(OperatorBase):
    """An author's process over the records of each key.

    `code` is the author's object. `broadcast_schema` is None if there is no broadcast. With `arrival` the process receives records
    in the order of its input, else in event-time order. `failed_topic` receives the records at which the process raises; if it is
    None, the run ends there. If the process `drops_duplicates`, a record without output is a duplicate. `pipeline` is the name of
    the pipeline, which dead letters contain. `named` says whether the name is the author's choice, and so no other process may have it.
    `inputs` are its other inputs.
    """

    kind: ClassVar[str] = "process"

    code: object = field(repr=False, compare=False)
    name: str
    declared: Declaration
    keys: tuple[str, ...]
    record_schema: Schema = field(repr=False)
    broadcast_schema: Schema | None = None
    arrival: bool = False
    failed_topic: str | None = None
    drops_duplicates: bool = False
    limit_ms: int = field(default=10_000, repr=False)
    pipeline: str = field(default="", repr=False)
    named: bool = field(default=True, repr=False)
    inputs: tuple[KeyedInput, ...] = field(default=(), repr=False)

    @property
    def label(self) -> str:
        """The process's name."""
        return self.name

    def schema(self, *given: Schema) -> Schema:  # noqa: ARG002
        """Return the keys, then the columns of the main output."""
        return self.output("")

    @property
    def key_schema(self) -> Schema:
        """The columns of the key. One may be NULL where it may in any input."""
        keys = [self.record_schema[key] for key in self.keys]
        if self.inputs:
            nullable = [any(one.schema[one.keys[place]].nullable for one in self.inputs) for place in range(len(keys))]
            keys = [replace(key, nullable=key.nullable or other) for key, other in zip(keys, nullable, strict=True)]
        return Schema(tuple(keys))

    def output(self, name: str) -> Schema:
        """Return the columns of an output: the keys, then its own."""
        return Schema((*self.key_schema.fields, *self.declared.outputs[name].fields))

    def traits(self, *given: Traits) -> Traits:
        """Return those of a process's rows."""
        first = len(given) - len(self.inputs)
        holding = [*given[:first], *(one for one, policy in zip(given[first:], self.inputs, strict=True) if policy.holds)]
        return replace(
            Traits.of_all(given),
            time="process",
            keys=frozenset(self.keys),
            ordered=not self.arrival and given[0].ordered,
            rows="insert",
            bounds=frozenset(),
            holding=Traits.of_all(tuple(holding)).holding,
            passed=True,
        )

    def definition(self, given: Schema) -> dict[str, Any]:  # noqa: ARG002
        """Return keys, order and columns. What the process declares of its state is checked when it is restored."""
        return {
            "kind": self.kind,
            "keys": typed(self.record_schema, self.keys),
            "order": "arrival" if self.arrival else "event_time",
            "columns": {one.name: str(one.type) for one in self.record_schema.fields},
            "broadcast": None if self.broadcast_schema is None else {one.name: str(one.type) for one in self.broadcast_schema.fields},
            "inputs": {one.name: {column.name: str(column.type) for column in one.schema.fields} for one in self.inputs},
        }

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return all columns: the author's code may read each of them."""
        return set(given.names)

    def unchanged(self, name: str) -> tuple[str, ...]:  # noqa: ARG002
        """Return nothing: the process builds its rows itself."""
        return ()

    def __str__(self) -> str:
        order = ", in order of arrival" if self.arrival else ""
        broadcast = ", with a broadcast" if self.broadcast_schema is not None else ""
        inputs = f", with inputs {', '.join(map(str, self.inputs))}" if self.inputs else ""
        failed = f", failures to {self.failed_topic!r}" if self.failed_topic else ""
        return f"process {self.name} by {', '.join(self.keys)}{order}{broadcast}{inputs}{failed}"


@dataclass(frozen=True)
class Over(Process):
    """Records with running aggregates over the rows of their key: the process that computes `calls`, by name, over a frame."""

    calls: Named = ()
    frame: str = ""
    waits: bool = field(default=False, repr=False)

    def traits(self, *given: Traits) -> Traits:
        """Return those of a process's rows. Rows that wait for later ones come in no order of time."""
        return replace(super().traits(*given), ordered=not self.waits and given[0].ordered)

    def definition(self, given: Schema) -> dict[str, Any]:
        """Return those of a process, the frame and the calls."""
        calls = ", ".join(call.function for _, call in self.calls if isinstance(call, Call))
        return {**super().definition(given), "frame": self.frame, "aggregates": f"{calls} ({digest(self.calls)})"}

    def __str__(self) -> str:
        return f"over {self.name} by {', '.join(self.keys)}, {self.frame}: {', '.join(name for name, _ in self.calls)}"


@dataclass(frozen=True)
class Side(OperatorBase):
    """The rows of a side output of the process that is its input."""

    kind: ClassVar[str] = "side"

    process: str
    name: str
    columns: Schema = field(repr=False)

    @property
    def label(self) -> str:
        """The process's name and the output's."""
        return f"{self.process}.{self.name}"

    def schema(self, given: Schema) -> Schema:  # noqa: ARG002
        """Return the keys, then the columns of the output."""
        return self.columns

    def traits(self, given: Traits) -> Traits:
        """Return those of the process."""
        return given

    def unchanged(self, name: str) -> tuple[str, ...]:  # noqa: ARG002
        """Return nothing: its input's schema is that of the main output."""
        return ()

    def __str__(self) -> str:
        return f"side output {self.name!r} of {self.process}"
