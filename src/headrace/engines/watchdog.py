"""Ends an author's method that takes too long, from a thread beside it."""

from __future__ import annotations

import ctypes
import threading
import weakref

from headrace.kernels.keyed.process import OverdueError, ProcessKernel

__all__ = ["watch"]

_raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc


def watch(kernel: ProcessKernel) -> None:
    """Have OverdueError raised into what a kernel calls in this thread, when one call lasts longer than the process's limit.

    Python code alone can be ended so: a call into C is ended when it returns. The watch ends with the kernel.
    """
    threading.Thread(
        target=_watch, args=(weakref.ref(kernel), kernel.operator.limit_ms / 1000, threading.get_ident()), name="headrace watchdog", daemon=True
    ).start()


def _watch(watched: weakref.ref[ProcessKernel], limit: float, thread: int) -> None:
    pause, seen, rounds = threading.Event(), 0, 0
    while not pause.wait(limit / 4):
        kernel = watched()
        if kernel is None:
            return
        entered = kernel.entered
        rounds = rounds + 1 if entered == seen and entered % 2 else 0
        if rounds >= 4:
            _end(kernel, entered, ctypes.c_ulong(thread))
            rounds = 0
        seen = entered
        del kernel


def _end(kernel: ProcessKernel, entered: int, thread: ctypes.c_ulong) -> None:
    """Raise into the method that was entered, unless it has been left; never into what comes behind it."""
    deciding = threading.Lock()

    def leave() -> None:
        with deciding:
            ended, kernel.overdue = kernel.overdue is not None, None
        if ended:
            _take_back(thread)
            raise OverdueError

    with deciding:
        kernel.overdue = leave
        if kernel.entered == entered:
            _raise_in(thread, ctypes.py_object(OverdueError))
        else:
            kernel.overdue = None


def _take_back(thread: ctypes.c_ulong) -> None:
    """Have what has not been raised yet into this thread raised here.

    To set it to nothing would not do: before 3.13 CPython goes on looking for it at every call, and a tracer hangs over that.
    """
    try:
        _raise_in(thread, ctypes.py_object(OverdueError))
        while True:
            pass
    except OverdueError:
        pass
