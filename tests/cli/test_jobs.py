"""Jobs: real processes that are started, watched, told to end and killed, by the mechanics and then by the commands."""

from __future__ import annotations

import fcntl
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

import waiting
from headrace import __version__
from headrace._processes import birth
from headrace.engines.embedded import jobs as mechanics
from headrace.engines.embedded.jobs import Ended, Job, State, find, jobs_in, submit
from headrace.errors import EnvironmentFault, HeadraceError, PlanError
from headrace.topics.sqlite import SqliteLog

HEADRACE = str(Path(sys.executable).with_name("headrace"))
NOBODY = 65_534
ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")
PIPELINE = """
import headrace as hr

@hr.pipeline("big", version="1")
def big(limit: float = 1.0):
    readings = hr.stream("readings", schema={"k": "STRING", "t": "BIGINT", "v": "DOUBLE"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
    return {"big": readings.where("v > :limit").select("k", "v")}
"""
JOBS = Path(".headrace/jobs")

# Each says that it is up by a file that has its pid, and ends by itself if a test leaves it behind. They sleep in short
# pieces: a signal that comes just before a sleep is handled only after it.
UP = "import os, pathlib, signal, sys, time; up = lambda: (pathlib.Path('up.new').write_text(str(os.getpid())), os.rename('up.new', 'up'))\n"
LONG = UP + "up(); time.sleep(600)"
DEAF = UP + "signal.signal(signal.SIGTERM, signal.SIG_IGN); up(); time.sleep(600)"
GRACEFUL = (
    UP + "signal.signal(signal.SIGTERM, lambda *_: (print('committed', flush=True), sys.exit(0))); up(); [time.sleep(0.1) for _ in range(6000)]"
)
WAITING = "import pathlib, time\nwhile not pathlib.Path('go').exists(): time.sleep(0.01)\n"
TELLING = (
    UP + "[signal.signal(s, lambda n, _: print(signal.Signals(n).name, flush=True)) for s in (2, 15)]; up(); [time.sleep(0.1) for _ in range(6000)]"
)


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


LIMIT = 400
wait_for = partial(waiting.wait_for, seconds=LIMIT, every=0.01)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{pid}/stat")  # a zombie is gone, where nobody reaps it
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"


def state(job: Job) -> State:
    """The job's state, once it no longer runs."""
    wait_for(lambda: not job.running)
    return job.state()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a pipeline and readings; the jobs that still run in the end are ended."""
    monkeypatch.chdir(tmp_path)
    for name in ("HEADRACE_HOME", "HEADRACE_METRICS_FILE", "LIMIT"):
        monkeypatch.delenv(name, raising=False)
    Path("two.py").write_text(PIPELINE)
    Path("readings.ndjson").write_text("".join(f'{{"k":"{k}","t":{1_705_314_600_000 + at},"v":{at}}}\n' for at, k in enumerate("abc")))
    yield tmp_path
    monkeypatch.undo()
    for job in jobs_in(tmp_path / JOBS):
        with suppress(EnvironmentFault, ProcessLookupError):
            if job.running:
                os.killpg(job.submitted().runner, signal.SIGKILL)


@pytest.fixture
def begin() -> Callable[..., Job]:
    """Submit a Python script as a job."""

    def call(script: str, name: str = "test") -> Job:
        return submit(JOBS, python(script), name=name, app="two.py", arguments=["two.py"])

    return call


@pytest.fixture
def begun(begin: Callable[..., Job]) -> Callable[[str], tuple[Job, int, int]]:
    """Submit a Python script as a job and wait until it is up; give the job, the runner's pid and the command's."""

    def call(script: str) -> tuple[Job, int, int]:
        job = begin(script)
        wait_for(Path("up").exists)
        return job, job.submitted().runner, int(Path("up").read_text())

    return call


@pytest.fixture
def run(run: Callable[..., tuple[int, str, str]]) -> Callable[..., tuple[int, str, str]]:
    """Call `headrace jobs` in this process; give its exit status, what it printed, and what it said of errors."""
    return partial(run, "jobs")


# the mechanics: a job's life


def test_a_job_runs_as_soon_as_it_is_submitted_and_leaves_how_it_ended(begin: Callable[..., Job], folder: Path) -> None:
    job = begin(WAITING + "import sys; print('out'); print('err', file=sys.stderr)")
    assert job.state() == State.RUNNING
    Path("go").touch()
    assert [one.id for one in jobs_in(JOBS)] == [job.id]
    assert ID.fullmatch(job.id)
    assert state(job) == State.FINISHED
    assert sorted(job.log.read_text().split()) == ["err", "out"]
    ended = job.ended()
    assert ended is not None
    assert (ended.status, ended.signal) == (0, None)
    what = json.loads((job.folder / "job.json").read_text())
    assert what == {
        "id": job.id, "name": "test", "app": "two.py", "arguments": ["two.py"], "engine": "embedded", "submitted": what["submitted"],
        "pid": what["pid"], "runner": what["runner"], "born": what["born"], "started": what["started"], "folder": str(folder), "version": __version__,
    }  # fmt: skip
    assert what["submitted"] <= what["started"] <= ended.ended
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", when) for when in (what["submitted"], what["started"], ended.ended))
    assert sorted(path.name for path in job.folder.iterdir()) == ["exit.json", "job.json", "lock", "log"]


def test_a_job_is_a_session_of_its_own_without_input_and_knows_where_its_figures_belong(begun: Callable[[str], tuple[Job, int, int]]) -> None:
    show = "print(os.getsid(0), os.getpgid(0), repr(sys.stdin.read()), os.environ['HEADRACE_METRICS_FILE'], sep='|', flush=True);"
    job, runner, child = begun(UP + show + "up(); time.sleep(600)")
    assert job.log.read_text() == f"{runner}|{runner}|''|{job.folder}/metrics.prom\n"
    assert runner not in (child, os.getpid())
    assert os.getsid(0) != runner


def test_whoever_submits_is_left_no_child_to_reap() -> None:
    # In a process that has no other children.
    script = "import os, pathlib; from headrace.engines.embedded.jobs import submit; submit(pathlib.Path('.headrace/jobs'), ['true'], name='', app='', arguments=[]); os.waitpid(-1, os.WNOHANG)"
    done = subprocess.run(python(script), capture_output=True, text=True, timeout=180, check=False)
    assert done.stderr.splitlines()[-1].startswith("ChildProcessError")


@pytest.mark.parametrize(
    ("script", "status", "name"),
    [
        ("raise SystemExit(3)", 3, None),
        ("import os; os.kill(os.getpid(), 15)", 143, "SIGTERM"),
        ("import os; os.kill(os.getpid(), 9)", 137, "SIGKILL"),
    ],
)
def test_what_ends_otherwise_than_well_has_failed(begin: Callable[..., Job], script: str, status: int, name: str | None) -> None:
    job = begin(script)
    assert state(job) == State.FAILED
    ended = job.ended()
    assert ended is not None
    assert (ended.status, ended.signal) == (status, name)


def test_a_command_that_is_not_there_has_failed_and_the_log_says_so() -> None:
    job = submit(JOBS, ["/nowhere/headrace"], name="x", app="x", arguments=[])
    assert state(job) == State.FAILED
    assert job.ended() == Ended(status=127, signal=None, ended=job.ended().ended)
    assert job.log.read_text() == "headrace: /nowhere/headrace: cannot be started: No such file or directory\n"


def test_ids_sort_by_time_even_when_several_submit_at_once(begin: Callable[..., Job]) -> None:
    one_after_the_other = [begin("pass").id for _ in range(3)]
    assert one_after_the_other == sorted(one_after_the_other)
    at_once: list[Job] = []
    threads = [threading.Thread(target=lambda: at_once.append(begin("pass"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(180)
    assert len({job.id for job in at_once}) == 4
    assert [state(job) for job in at_once] == [State.FINISHED] * 4


def test_an_id_that_is_taken_is_not_taken_again(begin: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    job = begin("pass")
    times = iter([mechanics.datetime.fromisoformat("2026-01-22T10:30:01.247Z")] * 2 + [mechanics.datetime.fromisoformat("2026-01-22T10:30:02Z")] * 9)

    class Clock:
        @staticmethod
        def now(_: Any) -> Any:
            return next(times)

    monkeypatch.setattr(mechanics, "datetime", Clock)
    (JOBS / "20260122-103001-3f3b").mkdir()
    assert begin("pass").id == "20260122-103002-0000"
    assert len(jobs_in(JOBS)) == 3
    assert state(job) == State.FINISHED


# the mechanics: kills


def test_a_command_that_is_killed_has_failed(begun: Callable[[str], tuple[Job, int, int]]) -> None:
    job, _, child = begun(LONG)
    os.kill(child, signal.SIGKILL)
    assert state(job) == State.FAILED
    assert job.ended().signal == "SIGKILL"


def test_a_job_runs_on_when_only_its_runner_is_killed_and_how_it_ended_is_then_not_known(begun: Callable[[str], tuple[Job, int, int]]) -> None:
    job, runner, child = begun(LONG)
    os.kill(runner, signal.SIGKILL)
    wait_for(lambda: gone(runner))
    assert job.state() == State.RUNNING
    os.kill(child, signal.SIGKILL)
    assert state(job) == State.LOST


def test_a_job_of_which_both_processes_are_killed_is_lost(begun: Callable[[str], tuple[Job, int, int]]) -> None:
    job, runner, child = begun(LONG)
    os.killpg(runner, signal.SIGKILL)
    assert state(job) == State.LOST
    wait_for(lambda: gone(child))


def test_a_pid_that_was_given_to_another_is_neither_believed_nor_signalled(begun: Callable[[str], tuple[Job, int, int]]) -> None:
    job, runner, _ = begun(LONG)
    os.killpg(runner, signal.SIGKILL)
    state(job)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True) as other:
        what = json.loads((job.folder / "job.json").read_text()) | {"pid": other.pid}
        (job.folder / "job.json").write_text(json.dumps(what))
        assert job.state() == State.LOST
        with pytest.raises(HeadraceError, match="LOST"):
            job.cancel(0)
        assert other.poll() is None
        other.kill()


@pytest.mark.parametrize("born", ["as it was", "of another machine start"])
def test_a_pid_that_was_given_to_another_is_not_signalled_though_the_lock_is_held(
    begun: Callable[[str], tuple[Job, int, int]], born: str, run: Callable[..., tuple[int, str, str]]
) -> None:
    job, runner, _ = begun(LONG)
    os.killpg(runner, signal.SIGKILL)
    state(job)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True) as other:
        began = birth(other.pid) if born == "as it was" else "f81d4fae-7dec-11d0-a765-00a0c91e6bf6/4711"
        what = json.loads((job.folder / "job.json").read_text())
        what |= {"pid": other.pid, "runner": other.pid, "born": {str(other.pid): began}}
        (job.folder / "job.json").write_text(json.dumps(what))
        with (job.folder / "lock").open("ab") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            assert job.state() == State.RUNNING
            status, _, err = run("cancel", job.id, "--timeout", "0")
            assert status == 1
            assert err.startswith(f"headrace: job {job.id}: is not ended: the processes that job.json names are gone")
        assert other.poll() is None
        assert not (job.folder / "cancel").exists(), "it was not told to end"
        other.kill()


def test_the_run_ends_with_the_pid_that_its_status_shows(
    begun: Callable[[str], tuple[Job, int, int]], run: Callable[..., tuple[int, str, str]]
) -> None:
    job, runner, child = begun(LONG)
    shown = dict(line.split(maxsplit=1) for line in run("status", job.id)[1].splitlines())
    assert (shown["pid"], shown["runner"]) == (str(child), str(runner))
    os.kill(child, signal.SIGKILL)
    assert state(job) == State.FAILED
    wait_for(lambda: gone(runner))


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")])
def test_the_runner_passes_on_what_it_is_told_once(begun: Callable[[str], tuple[Job, int, int]], number: int, name: str) -> None:
    job, runner, _ = begun(TELLING)
    os.kill(runner, number)
    wait_for(job.log.read_text)
    time.sleep(0.3)
    assert job.log.read_text() == f"{name}\n"
    assert job.state() == State.RUNNING


def test_a_job_that_others_end_by_sigterm_has_not_been_canceled(begun: Callable[[str], tuple[Job, int, int]]) -> None:
    job, runner, _ = begun(LONG)
    os.kill(runner, signal.SIGTERM)
    assert state(job) == State.FAILED
    assert job.ended().signal == "SIGTERM"


# the mechanics: cancel


def test_a_canceled_job_may_end_in_order(begun: Callable[[str], tuple[Job, int, int]]) -> None:
    job, runner, child = begun(GRACEFUL)
    assert job.cancel(LIMIT) == signal.SIGTERM
    assert job.state() == State.CANCELED
    assert job.ended().status == 0
    assert job.log.read_text() == "committed\n"
    assert gone(child)
    wait_for(lambda: gone(runner))


def test_a_job_that_does_not_heed_sigterm_is_killed(begun: Callable[[str], tuple[Job, int, int]]) -> None:
    job, runner, child = begun(DEAF)
    assert job.cancel(0.3) == signal.SIGKILL
    assert job.state() == State.CANCELED
    assert (job.ended().status, job.ended().signal) == (137, "SIGKILL")
    wait_for(lambda: gone(child) and gone(runner))


@pytest.mark.parametrize(("script", "by"), [(GRACEFUL, "SIGTERM"), (DEAF, "SIGKILL")])
def test_a_job_without_its_runner_is_canceled_all_the_same(begun: Callable[[str], tuple[Job, int, int]], script: str, by: str) -> None:
    job, runner, child = begun(script)
    os.kill(runner, signal.SIGKILL)
    wait_for(lambda: gone(runner))
    try:
        os.kill(runner, 0)
        reaped = False
    except ProcessLookupError:
        reaped = True
    sent = job.cancel(LIMIT if by == "SIGTERM" else 1)
    assert job.state() == State.CANCELED
    wait_for(lambda: gone(child))
    if reaped:
        assert sent.name == job.ended().signal == by
        assert job.ended().status == {"SIGTERM": None, "SIGKILL": 137}[by]


def test_a_job_that_has_ended_is_not_canceled(begin: Callable[..., Job]) -> None:
    job = begin("pass")
    state(job)
    with pytest.raises(HeadraceError, match="has ended already: FINISHED") as caught:
        job.cancel()
    assert caught.value.args[0] == "has ended already: FINISHED"
    assert caught.value.exit_status == 1
    assert job.state() == State.FINISHED


def test_a_job_is_canceled_once_even_if_two_cancel_it_at_once(begun: Callable[[str], tuple[Job, int, int]]) -> None:
    job, _, _ = begun(DEAF)
    done: list[Any] = []

    def cancel() -> None:
        try:
            done.append(job.cancel(0.5))
        except HeadraceError as error:
            done.append(error.what)

    threads = [threading.Thread(target=cancel) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(180)
    assert set(done) <= {signal.SIGKILL, signal.SIGTERM, "has ended already: CANCELED"}
    assert job.state() == State.CANCELED


def test_a_job_that_ends_just_before_it_is_told_to_was_not_canceled(begin: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    job = begin(WAITING)

    def too_late(*_: Any) -> None:
        Path("go").touch()
        state(job)
        raise ProcessLookupError

    monkeypatch.setattr(Job, "_ask_to_end", too_late)
    with pytest.raises(HeadraceError, match="FINISHED"):
        job.cancel()
    assert job.state() == State.FINISHED


def test_one_who_is_too_late_to_cancel_does_not_undo_what_another_did(
    begun: Callable[[str], tuple[Job, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _, _ = begun(LONG)
    ask = Job._ask_to_end

    def another_is_faster(job: Job, what: mechanics.Submitted) -> None:
        ask(job, what)
        state(job)
        raise ProcessLookupError

    (job.folder / "cancel").touch()
    monkeypatch.setattr(Job, "_ask_to_end", another_is_faster)
    with pytest.raises(HeadraceError, match="has ended already: CANCELED"):
        job.cancel()


def test_a_process_that_outlives_sigkill_is_reported(begun: Callable[[str], tuple[Job, int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    job, _, child = begun(DEAF)
    monkeypatch.setattr(Job, "_signal_all", lambda *_: None)
    monkeypatch.setattr(mechanics, "KILL_SECONDS", 0.1)
    with pytest.raises(EnvironmentFault, match=f"process {child} lives on after SIGKILL"):
        job.cancel(0.1)
    assert job.state() == State.RUNNING


# the mechanics: faults


def test_a_runner_that_does_not_come_up_is_an_error_and_runs_nothing(begin: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanics, "START_SECONDS", 0.0)
    with pytest.raises(EnvironmentFault, match="did not start"):
        begin("import pathlib; pathlib.Path('ran').touch()")
    (job,) = jobs_in(JOBS)
    assert state(job) == State.LOST
    assert not Path("ran").exists()


def test_a_runner_that_fails_at_once_is_an_error_and_the_log_named(begin: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanics, "__name__", "headrace.nowhere")
    with pytest.raises(EnvironmentFault, match="did not start") as caught:
        begin("pass")
    (job,) = jobs_in(JOBS)
    assert str(caught.value).startswith(f"{job.log.absolute()}: ")
    assert "No module named headrace.nowhere" in job.log.read_text()
    assert job.state() == State.LOST


def test_a_full_disk_is_an_error_and_there_is_no_job(begin: Callable[..., Job]) -> None:
    # A limit on the size of files stands for the full disk.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        with pytest.raises(EnvironmentFault, match="cannot be written: File too large"):
            begin("pass")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(JOBS.iterdir()) == []


def test_without_room_the_mend_is_to_make_some(begin: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    JOBS.mkdir(parents=True)
    monkeypatch.setattr(mechanics.os, "fsync", full)
    with pytest.raises(EnvironmentFault, match="cannot be written: No space left on device; make room"):
        begin("pass")
    assert list(JOBS.iterdir()) == []


def test_a_job_whose_folder_is_removed_while_it_runs_is_gone_and_its_runner_ends(begun: Callable[[str], tuple[Job, int, int]]) -> None:
    job, runner, child = begun(GRACEFUL)
    shutil.rmtree(job.folder)
    assert jobs_in(JOBS) == []
    assert job.state() == State.LOST
    os.kill(runner, signal.SIGTERM)
    wait_for(lambda: gone(child) and gone(runner))
    assert not job.folder.exists()


def test_files_that_lie_among_the_jobs_are_none() -> None:
    JOBS.mkdir(parents=True)
    (JOBS / "notes").touch()
    (JOBS / ".20260122-103001-3f2a").mkdir()
    assert jobs_in(JOBS) == []


def test_a_job_is_found_by_its_id_or_how_it_begins() -> None:
    for name in ("20260122-103001-3f2a", "20260122-103001-3f2b", "20260123-103001-0000", "2026"):
        (JOBS / name).mkdir(parents=True)
    assert find(JOBS, "20260122-103001-3f2a").id == "20260122-103001-3f2a"
    assert find(JOBS, "20260123").id == "20260123-103001-0000"
    assert find(JOBS, "2026").id == "2026", "the whole id goes before one that begins so"
    with pytest.raises(PlanError, match="2 jobs begin with '20260122'; write more of it; there is: 20260122-103001-3f2a, 20260122-103001-3f2b"):
        find(JOBS, "20260122")
    with pytest.raises(PlanError, match="no job '20260122-103001-3f3a'; did you mean '20260122-103001-3f2a'"):
        find(JOBS, "20260122-103001-3f3a")
    for name in ("", "..", "../jobs", "nope"):
        with pytest.raises(PlanError, match="no job"):
            find(JOBS, name)


# the commands


def submitted(run: Callable[..., tuple[int, str, str]], *arguments: str) -> Job:
    status, out, err = run("submit", *arguments)
    assert (status, err) == (0, "")
    assert ID.fullmatch(out.rstrip("\n")), "the id and nothing else"
    return Job(JOBS / out.rstrip("\n"))


def test_help_names_the_commands_and_imports_none(run: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = run()
    assert (status, err) == (0, "")
    listed = [line.split()[1] for line in out.splitlines() if line.startswith("│ ")]
    assert listed == ["cancel", "list", "logs", "metrics", "savepoint", "status", "submit"]
    script = "import sys; from headrace.cli import main; main(['--help']); main(['jobs']); print(*(m for m in sys.modules if m.endswith('jobs')), file=sys.stderr)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stderr == "\n"


def test_no_command_of_jobs_imports_a_data_library() -> None:
    script = "import sys; from headrace.cli import main; main(['jobs', 'list']); print('imported', *({'polars.dataframe', 'arro3.core', 'sqlglot', 'subprocess'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.splitlines()[-1].split()) <= {"imported", "subprocess"}


@pytest.mark.parametrize("command", ["submit", "list", "status", "logs", "metrics", "cancel", "savepoint"])
def test_each_command_explains_its_parameters(run: Callable[..., tuple[int, str, str]], command: str) -> None:
    status, out, err = run(command, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"Usage: headrace jobs {command}")


def test_a_run_is_submitted_and_does_what_run_does(run: Callable[..., tuple[int, str, str]], folder: Path) -> None:
    job = submitted(run, "two.py:big", "--input", "readings.ndjson", "--output=out", "--set", "limit=1.5")
    assert state(job) == State.FINISHED
    assert Path("out/big.ndjson").read_text() == '{"k":"c","v":2.0}\n'
    assert run("logs", job.id) == (0, "readings: 3 received = 1 accepted + 2 filtered\n", "")
    status, out, _ = run("status", job.id)
    shown = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert status == 0
    assert shown == {
        "id": job.id, "name": "big", "app": "two.py:big", "state": "FINISHED", "exit": "status 0", "engine": "embedded",
        "arguments": "two.py:big --input readings.ndjson --output=out --set limit=1.5", "submitted": shown["submitted"],
        "started": shown["started"], "ended": shown["ended"], "pid": shown["pid"], "runner": shown["runner"], "folder": str(folder), "version": __version__, "log": str(job.log),
    }  # fmt: skip


def test_several_files_after_one_input_reach_the_run(run: Callable[..., tuple[int, str, str]]) -> None:
    Path("more.ndjson").write_bytes(Path("readings.ndjson").read_bytes())
    job = submitted(run, "two.py", "--input", "readings.ndjson", "more.ndjson", "--output", "out")
    assert state(job) == State.FINISHED, job.log.read_text()
    assert job.submitted().arguments == ["two.py", "--input", "readings.ndjson", "more.ndjson", "--output", "out"]
    assert json.loads(Path("out/ledger.json").read_bytes())["sources"]["readings"]["received"] == 6


def test_the_saver_is_submitted_as_a_pipeline_is(run: Callable[..., tuple[int, str, str]]) -> None:
    with closing(SqliteLog(Path(".headrace/log.db"))) as log:
        for topic in ("sensor-data", "fingerprint-output"):
            log.create(topic)
    status, out, err = run("submit", "fingerprint:saver", "--until", "latest", "--output", "saved")
    assert (status, err) == (0, "")
    job = find(JOBS, out.strip())
    assert state(job) == State.FINISHED, job.log.read_text()
    assert (job.submitted().name, job.submitted().arguments[0]) == ("fingerprint:saver", "fingerprint:saver")


def test_rows_without_an_output_are_in_the_log_and_an_error_is_too(run: Callable[..., tuple[int, str, str]]) -> None:
    job = submitted(run, "two.py", "--input", "readings.ndjson")
    assert state(job) == State.FINISHED
    assert '{"k":"c","v":2.0}\n' in job.log.read_text()
    failed = submitted(run, "two.py", "--input", "missing.ndjson")
    assert state(failed) == State.FAILED
    assert failed.log.read_text() == "headrace: missing.ndjson: cannot be read: No such file or directory; name a file that exists\n"
    assert "exit       status 1\n" in run("status", failed.id)[1]


def test_files_of_the_working_folder_do_not_get_in_the_way_of_modules(run: Callable[..., tuple[int, str, str]]) -> None:
    for name in ("json.py", "headrace.py", "subprocess.py"):
        Path(name).write_text("raise SystemExit('shadowed')\n")
    job = submitted(run, "two.py", "--input", "readings.ndjson", "--output", "out")
    assert state(job) == State.FINISHED, job.log.read_text()


def test_jobs_lie_under_headrace_home(run: Callable[..., tuple[int, str, str]], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(folder / "home"))
    _, out, _ = run("submit", "two.py", "--input", "readings.ndjson", "--output", "out")
    assert state(Job(folder / "home/jobs" / out.strip())) == State.FINISHED
    assert not Path(".headrace").exists()


def test_submit_returns_at_once_and_lets_go_of_its_pipes() -> None:
    Path("slow.py").write_text(f"import time\nif __import__('os').environ.get('HEADRACE_METRICS_FILE'):\n    time.sleep(600)\n{PIPELINE}")
    done = subprocess.run(
        [HEADRACE, "jobs", "submit", "slow.py", "--input", "readings.ndjson"], capture_output=True, text=True, timeout=180, check=True
    )
    job = Job(JOBS / done.stdout.strip())
    assert (job.state(), done.stderr) == (State.RUNNING, "")
    done = subprocess.run([HEADRACE, "jobs", "cancel", job.id, "--timeout", f"{LIMIT}s"], capture_output=True, text=True, timeout=180, check=True)
    assert done.stdout == f"{job.id}: CANCELED, by SIGTERM\n"


def test_jobs_are_listed_from_a_folder_below(
    begin: Callable[..., Job], run: Callable[..., tuple[int, str, str]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("list") == (0, "ID  NAME  APP  STATE  STARTED  ENDED\n", f"headrace: no jobs in {folder}/.headrace/jobs\n")
    job = begin("pass")
    state(job)
    below = folder / "line" / "press"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    status, out, err = run("list")
    assert (status, err) == (0, f"headrace: home is {folder}/.headrace, found above the working folder\n")
    assert job.id in out
    assert run("status", job.id)[2] == "", "it is named once"
    (below / ".headrace").mkdir()
    assert run("list")[2] == f"headrace: no jobs in {below}/.headrace/jobs\n"


@pytest.mark.skipif(os.getuid() != 0, reason="one user alone cannot be two")
def test_a_home_of_another_user_above_is_passed_over(folder: Path, run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".headrace").mkdir()
    os.chown(folder / ".headrace", NOBODY, NOBODY)
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert run("list")[2] == f"headrace: no jobs in {folder}/below/.headrace/jobs\n"


class Pages(BaseHTTPRequestHandler):
    """As much of the REST interface of a Flink cluster with one failed job as the commands below ask for."""

    answers: ClassVar[dict[str, Any]] = {
        "/config": {"flink-version": "2.3.0"},
        "/jobs/overview": {"jobs": [{"jid": "abc", "name": "big 1", "state": "FAILED", "start-time": 1, "end-time": 2}]},
        "/jobs/abc/exceptions": {"exceptionHistory": {"entries": [{"timestamp": 0, "taskName": "map", "stacktrace": "one\ntwo\nthree"}]}},
    }

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(self.answers[self.path]).encode())

    def log_message(self, *_: object) -> None:
        """Be silent."""


def test_no_option_of_a_command_is_dropped_for_a_job_of_a_cluster(run: Callable[..., tuple[int, str, str]]) -> None:
    with HTTPServer(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cluster = ["--cluster", f"http://127.0.0.1:{server.server_port}"]
        assert run("logs", "abc", "--lines", "2", *cluster) == (0, "two\nthree\n", "")
        assert run("logs", "abc", "--lines", "9", *cluster)[1].splitlines()[1:] == ["one", "two", "three"]
        assert run("logs", "abc", "--follow", *cluster)[::2] == (
            2,
            "headrace: --follow: the log of a cluster's job is its failures; leave it out; the cluster's own pages have its log\n",
        )
        assert run("submit", "two.py:big", "--engine", "flink", *cluster, "--name", "mine")[::2] == (
            2,
            "headrace: --name: a job of the cluster has the name of its pipeline; leave it out\n",
        )
        server.shutdown()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["submit"], "APP requires an argument"),
        (["submit", "nope.py"], "nope.py: there is no such file; name a Python file that defines a pipeline"),
        (["submit", "fingerprnt", "--input", "x"], "no app 'fingerprnt'; did you mean 'fingerprint'?"),
        (["submit", "two.py:bigg", "--input", "x"], "two.py: defines no pipeline 'bigg'; did you mean 'big'?"),
        (["submit", "--input", "x", "two.py"], "APP is '--input', which is an option; write APP first, then the options of headrace run"),
        (["submit", "two.py", "--inptu", "x"], "Unknown option: --inptu. Did you mean --input?"),
        (["submit", "two.py", "stray", "--input", "x"], "unexpected argument 'stray'; see headrace run --help"),
        (["submit", "two.py", "--input", "x", "--set", "limt=1"], "--set: unknown setting 'limt'; did you mean 'limit'?"),
        (["submit", "two.py", "--input", "-"], "--input -: a job has no standard input; name a file"),
        (["submit", "two.py", "--input", "readings=-"], "--input -: a job has no standard input; name a file"),
        (["submit", "fingerprint", "--engine", "beam"], "--engine: unknown engine 'beam'; there is: embedded, flink, spark"),
        (["status", "nope"], ".headrace/jobs: no job 'nope'; there is none"),
        (["logs", "nope"], ".headrace/jobs: no job 'nope'; there is none"),
        (["metrics", "nope"], ".headrace/jobs: no job 'nope'; there is none"),
        (["cancel", "nope"], ".headrace/jobs: no job 'nope'; there is none"),
        (["savepoint", "nope"], ".headrace/jobs: no job 'nope'; there is none"),
        (["cancel", "nope", "--timeout", "soon"], "--timeout: 'soon' is not a duration; write 30s, 5m, 2h, or bare seconds"),
        (["logs", "nope", "--lines", "-1"], "--lines: -1 is no number of lines; give 0 or more"),
        (["lst"], 'Unknown command "lst". Did you mean "list"?'),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)  # fmt: skip
def test_wrong_use_is_one_line_and_makes_no_job(refused: Callable[..., str], arguments: list[str], says: str) -> None:
    assert says in refused(*arguments)
    assert not JOBS.exists()


def test_the_list_is_a_table_or_lines_of_json(begin: Callable[..., Job], run: Callable[..., tuple[int, str, str]]) -> None:
    assert run("list")[:2] == (0, "ID  NAME  APP  STATE  STARTED  ENDED\n")
    done = begin("raise SystemExit(3)", name="my job")
    state(done)
    lasting = begin(LONG)
    status, out, err = run("list")
    assert (status, err) == (0, "")
    header, first, second = out.splitlines()
    assert header.split() == ["ID", "NAME", "APP", "STATE", "STARTED", "ENDED"]
    assert re.split("  +", first) == [done.id, "my job", "two.py", "FAILED", done.submitted().started, done.ended().ended]
    assert re.split("  +", second) == [lasting.id, "test", "two.py", "RUNNING", lasting.submitted().started, "-"]
    assert run("list", "--all")[1] == run("list", "-a")[1] == out
    assert [line.split()[0] for line in run("list", "--running")[1].splitlines()] == ["ID", lasting.id]
    assert [json.loads(line)["id"] for line in run("list", "-r", "--json")[1].splitlines()] == [lasting.id]
    whole = [json.loads(line) for line in run("list", "--json")[1].splitlines()]
    assert [(one["id"], one["state"], one["status"], one["signal"]) for one in whole] == [
        (done.id, "FAILED", 3, None),
        (lasting.id, "RUNNING", None, None),
    ]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": 5}', "\xff"])
@pytest.mark.parametrize("name", ["job.json", "exit.json"])
def test_a_damaged_job_is_named_and_hides_no_other(
    run: Callable[..., tuple[int, str, str]], refused: Callable[..., str], text: str, name: str
) -> None:
    for place in ("20260122-103001-3f2a", "20260122-103002-3f2a"):
        (JOBS / place).mkdir(parents=True)
        what = mechanics.Submitted(id=place, name="n", app="a", arguments=[], submitted="s", folder="f")
        mechanics._write(JOBS / place / "job.json", what)
    (JOBS / "20260122-103001-3f2a" / name).write_bytes(text.encode("latin-1"))
    damaged = f".headrace/jobs/20260122-103001-3f2a/{name}: is damaged: "
    assert refused("status", "20260122-103001", status=1).startswith(damaged)
    status, out, err = run("list")
    assert (status, err.count("\n")) == (0, 1)
    assert err.startswith(f"headrace: {damaged}")
    shown = [line.split() for line in out.splitlines()[1:]]
    assert shown[0] == ["20260122-103001-3f2a", "-", "-", "LOST" if name == "job.json" else "-", "-", "-"]
    assert shown[1][3] == "LOST"
    assert damaged in json.loads(run("list", "--json")[1].splitlines()[0])["error"]


def test_a_running_job_with_a_damaged_record_says_so_when_it_is_canceled(
    begun: Callable[[str], tuple[Job, int, int]], refused: Callable[..., str]
) -> None:
    job, runner, _ = begun(LONG)
    (job.folder / "job.json").write_text("{")
    assert refused("cancel", job.id, status=1).startswith(f".headrace/jobs/{job.id}/job.json: is damaged: ")
    assert job.state() == State.RUNNING
    os.killpg(runner, signal.SIGKILL)


def test_logs_may_be_the_last_lines_of_it(begin: Callable[..., Job], run: Callable[..., tuple[int, str, str]]) -> None:
    job = begin("for i in range(20_000): print('line', i)")
    state(job)
    whole = job.log.read_text()
    assert run("logs", job.id) == (0, whole, "")
    for count in (0, 1, 3, 15_000, 20_000, 99_999):
        assert run("logs", job.id, "--lines", str(count))[1] == "".join(whole.splitlines(keepends=True)[-count or len(whole) :]), count


@pytest.mark.parametrize("text", ["", "\n", "a", "a\n", "a\nb", "a\nb\n", "a\n\n\nb\n\n", "x" * 70_000 + "\n" + "y" * 70_000, "\n" * 65_537])
def test_the_last_lines_are_those_that_the_eye_counts(run: Callable[..., tuple[int, str, str]], text: str) -> None:
    job = Job(JOBS / "20260122-103001-3f2a")
    job.folder.mkdir(parents=True)
    job.log.write_text(text)
    lines = text.splitlines(keepends=True)
    for count in range(5):
        assert run("logs", job.id, "--lines", str(count))[1] == "".join(lines[max(0, len(lines) - count) :]), count


def test_logs_are_followed_until_the_job_ends(begin: Callable[..., Job], run: Callable[..., tuple[int, str, str]]) -> None:
    job = begin("import time; print('first', flush=True); time.sleep(0.7); print('last')")
    assert run("logs", job.id, "--follow") == (0, "first\nlast\n", "")
    assert job.state() == State.FINISHED
    assert run("logs", job.id, "-f", "--lines", "1") == (0, "last\n", "")


def test_a_follower_sees_lines_as_they_come_and_may_leave(begun: Callable[[str], tuple[Job, int, int]]) -> None:
    job, _, _ = begun(UP + "up(); [(print('tick', flush=True), time.sleep(0.05)) for _ in range(1200)]")
    with subprocess.Popen([HEADRACE, "jobs", "logs", job.id, "--follow"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as follower:
        assert follower.stdout.readline() == b"tick\n"
        follower.stdout.close()
        assert follower.wait(180) == 0
        assert follower.stderr.read() == b""
    assert job.state() == State.RUNNING


def test_a_log_that_is_gone_is_named(refused: Callable[..., str]) -> None:
    (JOBS / "20260122-103001-3f2a").mkdir(parents=True)
    assert refused("logs", "2026", status=1).startswith(".headrace/jobs/20260122-103001-3f2a/log: cannot be read: No such file or directory")


def test_metrics_are_what_the_run_leaves(begun: Callable[[str], tuple[Job, int, int]], run: Callable[..., tuple[int, str, str]]) -> None:
    text = 'headrace_records_total{fate="accepted"} 5\n'
    job, _, _ = begun(UP + f"pathlib.Path(os.environ['HEADRACE_METRICS_FILE']).write_text({text!r}); up(); time.sleep(600)")
    assert run("metrics", job.id) == (0, text, "")


def test_without_metrics_that_is_said(begin: Callable[..., Job], refused: Callable[..., str]) -> None:
    job = begin("pass")
    assert f"job {job.id}: no metrics yet" in refused("metrics", job.id, status=1)


def test_cancel_says_how_the_job_ended_and_a_second_time_that_it_has(
    begun: Callable[[str], tuple[Job, int, int]], run: Callable[..., tuple[int, str, str]], refused: Callable[..., str]
) -> None:
    job, _, _ = begun(DEAF)
    assert run("cancel", job.id[:-1], "--timeout", "300ms") == (0, f"{job.id}: CANCELED, by SIGKILL\n", "")
    assert "exit       status 137, SIGKILL\n" in run("status", job.id)[1]
    assert refused("cancel", job.id, status=1) == f"job {job.id}: has ended already: CANCELED; there is nothing to cancel"


def test_a_job_whose_folder_is_gone_is_not_known(begin: Callable[..., Job], refused: Callable[..., str]) -> None:
    kept, removed = begin("pass"), begin("pass")
    state(removed)
    shutil.rmtree(removed.folder)
    assert refused("status", removed.id) == f".headrace/jobs: no job '{removed.id}'; did you mean '{kept.id}'?"


def test_a_savepoint_is_refused_for_there_is_no_need_of_one(begin: Callable[..., Job], refused: Callable[..., str]) -> None:
    job = begin("pass")
    assert refused("savepoint", job.id) == (
        f"job {job.id}: is a job of the embedded engine, which resumes from its last commit;"
        " there is nothing to do; to go back later, cancel it, and write a file with headrace savepoint APP FILE"
    )


# the commands: without rights


@pytest.fixture
def unprivileged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Call `headrace jobs` as a user without rights, in a folder that all may read; it is the working folder."""
    place = Path(tempfile.mkdtemp())
    for name in ("two.py", "readings.ndjson"):
        shutil.copy(name, place)
    place.chmod(0o755)
    monkeypatch.chdir(place)
    drop = f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})" if os.getuid() == 0 else ""
    # What that user may not import is imported before.
    script = f"import os, sys, headrace.cli.jobs, headrace.cli.run; headrace.cli.jobs.plan_of('two.py', []); {drop}; sys.exit(headrace.cli.main(['jobs', *sys.argv[1:]]))"

    def call(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=180, check=False)
        return done.returncode, done.stdout, done.stderr

    yield call
    shutil.rmtree(place)


def test_without_write_permission_there_is_no_job_and_the_folder_is_named(unprivileged: Callable[..., tuple[int, str, str]]) -> None:
    Path().chmod(0o555)
    said = "headrace: .headrace/jobs: cannot be written: Permission denied; let this user write there\n"
    assert unprivileged("submit", "two.py", "--input", "readings.ndjson") == (1, "", said)


def test_without_read_permission_the_folder_is_named(unprivileged: Callable[..., tuple[int, str, str]]) -> None:
    JOBS.mkdir(parents=True)
    JOBS.chmod(0o000)
    assert unprivileged("list") == (1, "", "headrace: .headrace/jobs: cannot be read: Permission denied; let this user read it\n")
    JOBS.chmod(0o755)


@pytest.mark.skipif(os.getuid() != 0, reason="one user alone cannot be two")
def test_another_users_job_is_seen_and_not_canceled(
    unprivileged: Callable[..., tuple[int, str, str]], begun: Callable[[str], tuple[Job, int, int]]
) -> None:
    job, runner, child = begun(LONG)
    try:
        status, out, err = unprivileged("list")
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert "Permission denied" in err
        for path in (home := Path(".headrace"), *home.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        assert " RUNNING " in unprivileged("list")[1]
        said = f"headrace: .headrace/jobs/{job.id}/cancel: cannot be written: Permission denied; let this user write there\n"
        assert unprivileged("cancel", job.id) == (1, "", said)
        job.folder.chmod(0o777)
        assert unprivileged("cancel", job.id) == (
            1,
            "",
            f"headrace: job {job.id}: may not be signalled: Operation not permitted; cancel it as its user\n",
        )
        assert job.state() == State.RUNNING
        assert not (job.folder / "cancel").exists(), "it was not told to end"
        assert not gone(child)
    finally:
        os.killpg(runner, signal.SIGKILL)
