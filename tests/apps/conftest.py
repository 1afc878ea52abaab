"""The broker that the tests of apps share."""

from broker import kafka

__all__ = ["kafka"]
