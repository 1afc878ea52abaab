"""The plant: its tags and assets, readings of them, and their quality. Knows no connector and no engine."""
