"""The servers that the tests of engines share, and the JVMs that some have their runs done by."""

from broker import kafka
from flink import flink, flink_requests, warm_flink
from spark import spark_requests, warm_processes, warm_spark

__all__ = ["flink", "flink_requests", "kafka", "spark_requests", "warm_flink", "warm_processes", "warm_spark"]
