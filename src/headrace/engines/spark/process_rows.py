"""The rows that a process takes, as its host reads them: their place, their key, and themselves as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from headrace.engines.spark.block import Block
from headrace.engines.spark.hidden import PLACED, RECORD
from headrace.engines.spark.rows import plain_json
from headrace.plan.graph import Node
from headrace.plan.operators import Process
from headrace.plan.schema import Schema

__all__ = ["SLOTS", "keyed_rows", "keys_of", "numbered_rows", "place_of", "slotted_rows"]

SLOTS = 64  # among which a live process's keys are dealt: its state is kept by them, so it cannot be changed


def place_of(block: Block) -> str:
    """Return the column of where a live process's record comes from, and when."""
    columns = ", ".join(block.hidden[column] for column in (*RECORD, "_entry", "_arrived_ms"))
    return f"TO_JSON(STRUCT({columns}), MAP('ignoreNullFields', 'false')) AS `_place`"


def keys_of(process: Process) -> Schema:
    """Return the schema of the keys of a process."""
    return Schema(tuple(process.record_schema[key] for key in process.keys))


def slotted_rows(rows: Block, keys: Schema, columns: Sequence[str], schema: Schema, number: int | None) -> str:
    """Return the query of the rows of an input with the slots of their keys, for which its `columns` stand, and the number of the input."""
    key = plain_json({mine: rows.items[theirs] for mine, theirs in zip(keys.names, columns, strict=True)}, keys)
    numbered = [] if number is None else [f"{number} AS `_input`"]
    extra = [f"PMOD(HASH({key}), {SLOTS}) AS `_slot`", "FALSE AS `_told`", *numbered, place_of(rows), f"{plain_json(rows.items, schema)} AS `_row`"]
    timed = replace(rows, hidden={column: rows.hidden[column] for column in ("_time", "_time_ms")})
    return replace(timed, items={}).select(*extra)


def numbered_rows(rows: Block, keys: Schema, columns: Sequence[str], schema: Schema, number: int) -> str:
    """Return the query of the rows of an input, whose `columns` stand for the keys of the process."""
    hidden = {column: rows.hidden[column] for column in PLACED}
    key = plain_json({mine: rows.items[theirs] for mine, theirs in zip(keys.names, columns, strict=True)}, keys)
    extra = [f"{number} AS `_input`", f"{key} AS `_key`", f"{plain_json(rows.items, schema)} AS `_row`"]
    return replace(rows, items={}, hidden=hidden).select(*extra)


def keyed_rows(node: Node[Process], rows: Block) -> str:
    """Return the query of what a process takes, with its key."""
    row = f"{plain_json(rows.items, node.operator.record_schema)} AS `_row`"
    return replace(rows, items={}).select(f"{plain_json(rows.items, keys_of(node.operator))} AS `_key`", row)
