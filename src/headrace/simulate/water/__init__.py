"""The simulated water treatment plant: its process and control, its attacks and faults, and its messages and labels."""

from __future__ import annotations

from headrace.simulate.water.plant import Water, water_tags
from headrace.simulate.water.scenarios import SCENARIOS, named

__all__ = ["SCENARIOS", "Water", "named", "water_tags"]
