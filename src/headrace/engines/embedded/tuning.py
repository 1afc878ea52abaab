"""A process suited to work that is done in batches of a few MB, one after the other."""

from __future__ import annotations

import ctypes
import gc
import os
from contextlib import suppress

__all__ = ["collect_from_here", "suit_batches"]

_JEMALLOC = "dirty_decay_ms:-1,muzzy_decay_ms:-1,background_thread:false,narenas:1,thp:always"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def suit_batches() -> None:
    """Suit the process to batches, before Polars is imported. Garbage is collected again from `collect_from_here` on."""
    gc.disable()
    # A second thread of Polars costs more than it saves on such. Polars reads this when it is imported.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    # Both would give each batch's memory back to the system and ask for it again, a tenth of the whole cost: Polars' own
    # allocator, which reads this when Polars is imported, and glibc.
    os.environ.setdefault("_RJEM_MALLOC_CONF", _JEMALLOC)
    with suppress(OSError, AttributeError, TypeError):  # where there is no glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 256 << 20)


def collect_from_here() -> None:
    """Have garbage collected again, if `suit_batches` has ended that. What has been made up to here stays; the collector need not look at it."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
