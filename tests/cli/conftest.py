"""The command line called within the test's process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from headrace.cli import main


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., tuple[int, str, str]]:
    """Call the command line in this process; give its exit status, what it printed, and what it said of errors."""

    def call(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        out, err = capfdbinary.readouterr()
        return status, out.decode(), err.decode()

    return call


@pytest.fixture
def refused(run: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """Call the command line with what it refuses as wrong use; give the one line that it says."""

    def call(*arguments: str, status: int = 2) -> str:
        ended, out, err = run(*arguments)
        assert (ended, out) == (status, ""), err
        assert err.startswith("headrace: ")
        assert err.find("\n") == len(err) - 1, "an error is one line"
        assert "Traceback" not in err
        return err.removeprefix("headrace: ").rstrip("\n")

    return call
