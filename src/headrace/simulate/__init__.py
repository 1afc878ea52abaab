"""Simulated plants: seeded sources of what real ones send, faults included.

A plant is sans-IO and knows no clock; `simulate` paces one and writes it out, with the clock and the sleep it is given.
"""

from __future__ import annotations

from headrace.simulate.generators import Generators, parse_span
from headrace.simulate.kiln import Kiln, format_ids, parse_ids
from headrace.simulate.plc import Plc
from headrace.simulate.water import Water
from headrace.simulate.writing import Plant, simulate

__all__ = ["Generators", "Kiln", "Plant", "Plc", "Water", "format_ids", "parse_ids", "parse_span", "simulate"]
