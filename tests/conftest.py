"""No test asserts a time: not even that of one of Hypothesis' examples."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("headrace", deadline=None)
settings.load_profile("headrace")
