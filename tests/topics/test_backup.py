"""Backups of a home taken under load, and what becomes of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import threading
from contextlib import closing
from pathlib import Path

import pytest

import waiting
from headrace.cli import main
from headrace.engines.embedded.live import Live, run_live
from headrace.errors import DataError, EnvironmentFault, PlanError
from headrace.topics.backup import backup, restore
from headrace.topics.look import Look
from headrace.topics.sqlite import SqliteLog
from headrace.topics.store import Store
from topics.test_logs import from_files, left, plan, readings

MARK = "m"
IN = f"in-{MARK}"
CHILD = """
import sys
from pathlib import Path
from topics.test_logs import plan
from headrace.engines.embedded.live import Live, run_live
from headrace.topics.sqlite import SqliteLog
run_live(Live(plan("m"), SqliteLog(Path(sys.argv[1]) / "log.db"), batch_records=50), commit_seconds=0.01)
"""


def test_a_backup_taken_under_load_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    home, records = tmp_path / "home", [one for one in readings(2_000, 3) if one]
    with closing(SqliteLog(home / "log.db")) as log:
        log.create(IN)
        path = os.pathsep.join([str(Path(__file__).parent.parent)])
        run = subprocess.Popen([sys.executable, "-c", CHILD, str(home)], env={**os.environ, "PYTHONPATH": path})
        try:
            taken = []
            for start in range(0, len(records), 20):
                log.append(IN, records[start : start + 20])
                if start in {600, 1_200}:
                    waiting.wait_for(lambda: log.manifest(f"kiln-{MARK}") is not None, seconds=400)
                    taken.append(tmp_path / f"{start}.tar")
                    backup(home, taken[-1])
        finally:
            run.kill()
            run.wait()
    expected, _ = from_files(tmp_path / "files", MARK, records)
    for file in taken:
        other = tmp_path / file.stem
        restore(file, other)
        with closing(SqliteLog(other / "log.db")) as log:
            end = log.topic(IN).partitions[0].end
            assert 0 < end < len(records)
            log.append(IN, records[end:])
            run_live(Live(plan(MARK), log, latest=True))
            assert left(log, MARK)["out"] == expected["out"]


def test_a_backup_has_the_state_of_one_moment_while_commits_go_on(tmp_path: Path) -> None:
    home = tmp_path / "home"
    store, ended = Store(home, "p"), threading.Event()

    def commit() -> None:
        epoch = 0
        while not ended.is_set():
            epoch += 1
            store.write(epoch, b"m%d" % epoch, {f"a{epoch}": b"x" * 1000, f"b{epoch}": b"y" * 1000}, [f"a{epoch}", f"b{epoch}"])
            store.settle(epoch)

    thread = threading.Thread(target=commit)
    thread.start()
    try:
        waiting.wait_for(lambda: store.begun, seconds=400)
        for number in range(5):
            backup(home, tmp_path / f"{number}.tar")
    finally:
        ended.set()
        thread.join()
    for number in range(5):
        restore(tmp_path / f"{number}.tar", tmp_path / f"{number}")
        found = sorted((tmp_path / f"{number}" / "state" / "p").glob("*.manifest"), key=lambda path: int(path.name.partition("-")[0]))
        if found:
            epoch, _, checksum = found[-1].stem.partition("-")
            again = Store(tmp_path / f"{number}", "p")
            assert again.resume((int(epoch), checksum)) == b"m" + epoch.encode()
            assert again.load(f"a{epoch}") == b"x" * 1000


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KAFKA_SERVERS", raising=False)
    with closing(SqliteLog(tmp_path / "home" / "log.db")) as log:
        log.create("t")
        log.append("t", [b"1"])
    return tmp_path / "home"


def test_restore_overwrites_a_used_home_only_if_told_and_never_one_that_is_open(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "b.tar"
    assert main(["backup", str(file)]) == 0
    assert "checked." in capsys.readouterr().out
    assert file.stat().st_mode & 0o077 == 0
    assert main(["backup", str(file)]) == 2
    assert main(["restore", str(file)]) == 2
    assert "is used: a restore would replace what is in it; add --replace" in capsys.readouterr().err
    with closing(SqliteLog(home / "log.db")) as log:
        log.append("t", [b"2"])
        with pytest.raises(EnvironmentFault, match="is open in another process"):
            restore(file, home, replace=True)
        claim = log.claim("p")
        with pytest.raises(EnvironmentFault, match="is used by a process"):
            restore(file, home, replace=True)
        claim.release()
    assert main(["restore", str(file), "--replace"]) == 0
    with closing(SqliteLog(home / "log.db")) as log:
        assert [one.value for one in log.entries("t", 0, 0, 9)] == [b"1"]
    (aside,) = home.glob("replaced-*")
    with closing(SqliteLog(aside / "log.db")) as log:
        assert len(log.entries("t", 0, 0, 9)) == 2


def test_a_damaged_backup_is_refused(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "b.tar"
    backup(home, file)
    data = bytearray(file.read_bytes())
    at = data.index(b"SQLite format 3") + 5_000
    data[at] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match="is damaged"):
        restore(file, tmp_path / "other")
    assert not (tmp_path / "other" / "log.db").exists()
    for text in (b"", b"no tar" * 1000):
        file.write_bytes(text)
        with pytest.raises(DataError, match="is no backup"):
            restore(file, tmp_path / "other")
    with tarfile.open(file, "w") as archive:
        archive.add(__file__, "../evil")
    with pytest.raises(DataError, match="is no backup"):
        restore(file, tmp_path / "other")
    with pytest.raises(PlanError, match="there is no home"):
        backup(tmp_path / "nowhere", tmp_path / "c.tar")


def test_doctor_knows_a_copy_without_its_wal(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Look(home / "log.db").lacks_wal(), "the last to close it leaves it whole"
    with closing(SqliteLog(home / "log.db")) as log, closing(SqliteLog(home / "log.db")) as second:
        log.append("t", [b"2"])
        second.close()
        copy = tmp_path / "copy"
        copy.mkdir(mode=0o700)
        shutil.copy(home / "log.db", copy / "log.db")
        assert not Look(home / "log.db").lacks_wal()
    assert not (home / "log.db-wal").exists()
    monkeypatch.setenv("HEADRACE_HOME", str(copy))
    assert main(["doctor"]) == 1
    assert "was copied while it was in use, without its -wal" in capsys.readouterr().out
