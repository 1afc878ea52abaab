"""Columnar kernels: Polars frames in, frames and new state out."""
