"""Engines run plans: they read topics and write topics, and touch nothing else."""
