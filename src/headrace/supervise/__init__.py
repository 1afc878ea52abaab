"""A plant's parts in one process: each is supervised, restarted after a fault, and ended in order."""

from __future__ import annotations

from headrace.supervise.part import Part
from headrace.supervise.parts import InPart, OutPart, PipelineThread
from headrace.supervise.supervisor import Supervisor

__all__ = ["InPart", "OutPart", "Part", "PipelineThread", "Supervisor"]
