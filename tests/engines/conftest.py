"""The servers that the tests of engines share, and the JVM that some have Spark's runs done by."""

from broker import kafka
from flink import flink
from spark import spark_requests, warm_processes, warm_spark

__all__ = ["flink", "kafka", "spark_requests", "warm_processes", "warm_spark"]
