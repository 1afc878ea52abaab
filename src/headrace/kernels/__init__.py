"""Kernels: sans-IO, no clock, no socket, no thread; time and state are arguments."""
