"""The embedded engine: one process, Polars as the kernel of each batch."""
