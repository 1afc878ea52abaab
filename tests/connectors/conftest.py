"""The broker that the tests of bridges share."""

from broker import kafka

__all__ = ["kafka"]
