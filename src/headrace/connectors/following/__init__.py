"""Files that grow, as a source: found (place), recognised (known), read (followed), and cut into records (records)."""
