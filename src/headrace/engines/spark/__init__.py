"""Apache Spark: a plan as a Spark SQL job, and its runs."""
