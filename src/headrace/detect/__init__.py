"""Detectors: models fitted to normal history, which score the rows of a stream."""
