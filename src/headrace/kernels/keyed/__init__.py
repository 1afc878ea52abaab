"""Keyed kernels: an author's Python over one key's records, state and timers."""
