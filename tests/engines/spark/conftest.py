"""The broker that the tests of topics share."""

from broker import kafka

__all__ = ["kafka"]
