"""Apache Flink: a plan as a Flink SQL script."""
