"""The files of a Spark checkpoint on this machine: what Hadoop makes of them, without the processes that it starts."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

import spark
from headrace.engines import jar
from headrace.engines.environment import java
from headrace.engines.spark.environment import spark_home

PROBE = Path(__file__).with_name("LocalFilesProbe.java")
HADOOP, OURS = "org.apache.hadoop.fs.local.LocalFs", "headrace.spark.LocalFiles"


def run(system: str, folder: Path, path: str | None = None) -> list[str]:
    """Return what the probe says, which finds programs in `path`."""
    classes = f"{jar.path()}:{spark_home(spark.HOME)}/jars/*"
    command = [java("Spark"), "-XX:TieredStopAtLevel=1", "-cp", classes, str(PROBE), system, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=path and {"PATH": path}, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def found(folder: Path) -> dict[str, tuple[str, bytes | None]]:
    """Return mode and bytes of all that is in a folder."""
    return {
        str(path.relative_to(folder)): (stat.filemode(path.lstat().st_mode), path.read_bytes() if path.is_file() else None)
        for path in folder.rglob("*")
    }


@pytest.mark.skipif(spark.missing() is not None, reason=str(spark.missing()))
def test_files_are_those_of_hadoop_though_no_process_is_started(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    said = run(HADOOP, theirs)
    assert run(OURS, ours, path="/nowhere") == [OURS, *said[1:]]
    assert said[1:] == ["second", "8 true", "org.apache.hadoop.fs.FileAlreadyExistsException", "not there"]
    assert found(ours) == found(theirs)
    assert {"state/0/1/1.delta", "state/0/1/.1.delta.crc", "state/0/1/kept"} <= {*found(ours)}


@pytest.mark.skipif(spark.missing() is not None, reason=str(spark.missing()))
def test_hadoops_own_files_need_processes(tmp_path: Path) -> None:
    """Else what is tested above is of no use any more."""
    with pytest.raises(AssertionError, match="chmod"):
        run(HADOOP, tmp_path, path="/nowhere")
