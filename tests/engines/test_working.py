"""Working folders go with their run; those of runs that were killed with the next one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.engines.working import working_folder
from headrace.errors import EnvironmentFault

WORK = """
import sys
from pathlib import Path
from headrace.engines.working import working_folder
with working_folder(Path(sys.argv[1]), "work") as folder:
    (folder / "file").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_a_folder_goes_with_its_run_and_that_of_a_killed_run_with_the_next(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WORK, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        theirs = Path(run.stdout.readline().strip())
        with working_folder(tmp_path, "work") as ours:
            assert theirs.exists()
            assert ours != theirs
        assert not ours.exists()
        os.kill(run.pid, signal.SIGKILL)
    assert theirs.exists()
    with working_folder(tmp_path, "other") as ours:
        assert not theirs.exists()
        assert [one for one in ours.parent.iterdir() if one.is_dir()] == [ours]


def test_a_folder_of_a_failed_run_may_stay_until_the_next(tmp_path: Path) -> None:
    for stays in (False, True):
        with pytest.raises(ZeroDivisionError), working_folder(tmp_path, "work", failed_stays=stays) as folder:
            raise ZeroDivisionError
        assert folder.exists() == stays
    with working_folder(tmp_path, "work"):
        assert not folder.exists()


def test_where_no_folder_can_be_made_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "working").touch()
    with pytest.raises(EnvironmentFault, match=r"working: cannot be written: .*; name another HEADRACE_HOME"), working_folder(tmp_path, "work"):
        pass
