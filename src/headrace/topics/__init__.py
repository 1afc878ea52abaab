"""Topics: logs with partitions and offsets. They know no engine."""
