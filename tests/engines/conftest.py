"""The servers that the tests of engines share."""

from broker import kafka
from flink import flink

__all__ = ["flink", "kafka"]
