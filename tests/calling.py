"""The command line called in this process, where a process of its own is not the point: it would cost half a second of imports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryFile
from typing import IO

from headrace.cli import main

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def called(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Return what a process would have printed, and its exit status."""
    with ExitStack() as stack:
        out, err = (stack.enter_context(TemporaryFile("w+", encoding="utf-8")) for _ in range(2))
        before = {one: signal.getsignal(one) for one in SIGNALS}
        with _instead(1, out), _instead(2, err), open(os.devnull) as nothing:
            stdin, sys.stdin = sys.stdin, nothing
            try:
                status = main(arguments)
            finally:
                sys.stdin = stdin
                for one, handler in before.items():
                    signal.signal(one, handler)
        said = [(file.seek(0), file.read())[1] for file in (out, err)]
    return subprocess.CompletedProcess(["headrace", *arguments], status, *said)


@contextmanager
def _instead(number: int, file: IO[str]) -> Iterator[None]:
    """Have standard output or standard error go to a file, what is written past Python too."""
    name = {1: "stdout", 2: "stderr"}[number]
    stream = getattr(sys, name)
    stream.flush()
    kept = os.dup(number)
    os.dup2(file.fileno(), number)
    setattr(sys, name, file)
    try:
        yield
    finally:
        file.flush()
        setattr(sys, name, stream)
        os.dup2(kept, number)
        os.close(kept)
