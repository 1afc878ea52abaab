"""Which registers are read with one request. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from headrace.connectors.modbus.registers import Register

__all__ = ["MOST_BITS", "MOST_WORDS", "Block", "blocks_of", "halves"]

MOST_WORDS = 125
MOST_BITS = 2000


@dataclass(frozen=True, eq=False, slots=True)
class Block:
    """Registers that are read with one request. It is equal to itself alone, so it is found in a table without looking at them."""

    unit_id: int
    table: str
    address: int
    size: int
    registers: tuple[Register, ...]


def blocks_of(registers: Iterable[Register], *, gap: int = 8, words: int = MOST_WORDS, bits: int = MOST_BITS) -> list[Block]:
    """Return the requests that read registers of one device.

    Parameters
    ----------
    registers
        Of one host.
    gap
        So many registers that are not asked for may lie between two in one block.
    words, bits
        How many registers, and how many coils or discrete inputs, a block may have.
    """
    blocks: list[Block] = []
    for one in sorted(registers, key=lambda one: (one.unit_id, one.table, one.address)):
        most, distance = (bits, 16 * gap) if one.table in {"coil", "discrete"} else (words, gap)
        last = blocks[-1] if blocks else None
        if last is not None and (last.unit_id, last.table) == (one.unit_id, one.table):
            end = last.address + last.size
            size = max(end, one.address + one.size) - last.address
            if one.address - end <= distance and size <= most:
                blocks[-1] = replace(last, size=size, registers=(*last.registers, one))
                continue
        blocks.append(Block(one.unit_id, one.table, one.address, one.size, (one,)))
    return blocks


def halves(block: Block) -> list[Block]:
    """Return two blocks that have half of a block's registers each, without what lies between them; none if it has one register."""
    middle = len(block.registers) // 2
    return [_block(block, half) for half in (block.registers[:middle], block.registers[middle:])] if middle else []


def _block(block: Block, registers: tuple[Register, ...]) -> Block:
    address = registers[0].address
    end = max(one.address + one.size for one in registers)
    return Block(block.unit_id, block.table, address, end - address, registers)
