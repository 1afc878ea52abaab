"""Alarms after ISA-18.2: definitions, conditions, the state machine, and the processes that host them on every engine."""
