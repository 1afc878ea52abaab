"""`headrace doctor`: what is missing, insecure, or would not work, and the fix."""

from __future__ import annotations

import importlib
import importlib.metadata
import ipaddress
import os
import platform
import shlex
import shutil
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from pkgutil import iter_modules
from typing import Annotated, Any, Literal

import msgspec
from cyclopts import Parameter

import headrace.apps
from headrace import __version__
from headrace._clock import now_ms
from headrace.cli.apps import SETTINGS_FILE, find_pipeline, home, pipelines_of_file, plan_of
from headrace.cli.logs import LOG_FILE, KafkaOptions, addresses, asked_cluster, open_log
from headrace.cli.tables import counted
from headrace.errors import EnvironmentFault, HeadraceError, PlanError, near
from headrace.plan.pipeline import Pipeline, Plan
from headrace.plant.file import TABLES
from headrace.topics.cluster import Cluster as Kafka
from headrace.topics.cluster import properties_of_table
from headrace.topics.look import Look

__all__ = ["Finding", "doctor"]

_PACKAGES = ("polars", "arro3-core", "arro3-io", "sqlglot", "msgspec", "cyclopts", "rich")
_OLDEST_SQLITE = (3, 35)  # has RETURNING
_NETWORK_FILESYSTEMS = ("nfs", "cifs", "smb", "fuse.", "9p", "afs", "ceph", "gluster", "lustre", "gpfs", "beegfs")
_MEMORY_FILESYSTEMS = ("tmpfs", "ramfs")
_MB, _GB = 10**6, 10**9
_SLOW_MS = 100
_LARGE_WAL = 256 * _MB
_CHECK_SECONDS = 30.0
_KAFKA_SECONDS = 3.0
_YEAR_2024_MS = 1_704_067_200_000
_SLACK_MS = 1000  # what keeping the time by the network may set a clock back by
_FEW_FILES = 1024
_AS_IT_WAS = "bring back what it was made with, or start with"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check: whether it passed, where, what is wrong, and how to fix it."""

    state: Literal["ok", "warn", "FAIL"]
    where: str
    what: str
    fix: str | None = None

    def __str__(self) -> str:
        said = f"{self.where}: {self.what}{f'; {self.fix}' if self.fix else ''}"
        return f"{self.state:<4}  {' '.join(said.split())}"


def doctor(
    app: str | None = None,
    /,
    *,
    kafka: KafkaOptions = KafkaOptions(),
    json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> None:
    """Check the environment, the home and the topics, and report each fault with its fix.

    Parameters
    ----------
    app
        A pipeline to check as well: a shipped one (fingerprint), file.py[:name], or module:name.
    json
        A JSON object a line.
    """
    failed = count = 0
    for name, finding in _findings(Case(app, kafka)):
        count += 1
        failed += finding.state == "FAIL"
        print(msgspec.json.encode({"check": name, **msgspec.to_builtins(finding)}).decode() if json else finding, flush=True)
    if failed:
        raise HeadraceError(f"{failed} of {count} checks failed", where="doctor", fix="fix them from the first on: later ones may follow from it")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Kafka cluster: the addresses of its brokers, and its topics with the number of their partitions."""

    brokers: tuple[tuple[str, int], ...]
    topics: Mapping[str, int]


@dataclass
class Case:
    """The subject of a check: the environment, and a pipeline and Kafka if they are named."""

    app: str | None
    options: KafkaOptions = field(default_factory=KafkaOptions)
    home: Path = field(default_factory=home)

    @property
    def log(self) -> Path:
        """The SQLite log."""
        return self.home / LOG_FILE

    @cached_property
    def kafka(self) -> Kafka | None:
        """The Kafka cluster that is asked for."""
        return asked_cluster(self.options)

    @cached_property
    def topics(self) -> Mapping[str, int] | None:
        """The topics of the SQLite log or of Kafka with the number of their partitions, None where they cannot be had."""
        if self.kafka is not None:
            return None if isinstance(self.cluster, str) else self.cluster.topics
        if not self.log.exists():
            return {}
        with suppress(sqlite3.Error):
            return Look(self.log).topics()
        return None

    @cached_property
    def cluster(self) -> Cluster | str:
        """The Kafka cluster, or the reason why it cannot be described."""
        try:
            return _cluster(self.kafka or Kafka(""))
        except HeadraceError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001  (Kafka's client has errors of its own, and it may not be there)
            said = error.args[0] if error.args else error
            return str(said.str()) if hasattr(said, "str") else str(said)


def _findings(case: Case) -> Iterator[tuple[str, Finding]]:
    """Give what each check finds. One that breaks hides no other."""
    for name, check in _CHECKS.items():
        try:
            yield from ((name, finding) for finding in check(case))
        except HeadraceError as error:
            yield name, Finding("FAIL", error.where or name, error.what, error.fix)
        except Exception as error:  # noqa: BLE001  (whatever it is, the other checks are still of use)
            yield name, Finding("FAIL", name, f"cannot be checked: {type(error).__name__}: {error}", "see that this user may look at it")


# Python and packages


def _python(_: Case) -> Iterator[Finding]:
    found = platform.python_version()
    if sys.version_info < (3, 11):  # noqa: UP036  (one may have started it against the package's word)
        yield Finding("FAIL", "Python", f"is {found}", "use 3.11 or newer")
    else:
        yield Finding("ok", "Python", f"{found}, headrace {__version__}")
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        yield Finding("FAIL", "SQLite", f"is {sqlite3.sqlite_version}", "use a Python that comes with 3.35 or newer")
    else:
        yield Finding("ok", "SQLite", sqlite3.sqlite_version)


def _packages(case: Case) -> Iterator[Finding]:
    for name in (*_PACKAGES, *(["confluent-kafka"] if case.kafka is not None else [])):
        module = name.replace("-", ".") if name.startswith("arro3") else name.replace("-", "_")
        try:
            importlib.import_module(module)
            yield Finding("ok", f"package {name}", importlib.metadata.version(name))
        except Exception as error:  # noqa: BLE001  (a package may break in any way)
            wanted = shlex.quote("headrace[kafka]" if name == "confluent-kafka" else name)
            yield Finding(
                "FAIL", f"package {name}", f"cannot be imported: {type(error).__name__}: {error}", f"install it again: pip install {wanted}"
            )


# the home and its disk


def _home(case: Case) -> Iterator[Finding]:
    folder = case.home
    if not folder.exists():
        yield Finding("ok", str(folder), f"is not there yet in {folder.absolute().parent}; what needs it makes it")
    elif not folder.is_dir():
        yield Finding("FAIL", str(folder), "is no folder", "remove the file, or set HEADRACE_HOME to a folder")
        return
    place = _there(folder)
    yield _probe(place)
    yield from _filesystem(place)
    if folder.exists():
        yield from _rights(folder)


def _rights(folder: Path) -> Iterator[Finding]:
    """Warn of a home, or files in it, that other users may read or write: they hold what the plant sent."""
    if sys.platform == "win32":
        return
    own = [folder, folder / LOG_FILE, *(path for name in ("state", "jobs", "ledgers", "pipelines") for path in (folder / name).rglob("*"))]
    opened = [path for path in own if path.exists() and path.stat().st_mode & 0o077 and (path.is_file() or path == folder)]
    if opened:
        what = (
            f"may be read by other users: {counted(len(opened), 'file')} of the home, {opened[0]} the first"
            if opened[0] != folder
            else "may be read by other users"
        )
        yield Finding("warn", str(folder), what, f"keep them out: chmod -R go= {shlex.quote(str(folder))}")
    else:
        yield Finding("ok", str(folder), "only its owner may read it")


def _there(path: Path) -> Path:
    """Return the path, or the last part of it that is there."""
    return path if path.exists() else next(one for one in path.absolute().parents if one.exists())


def _probe(folder: Path) -> Finding:
    """Write a small file for good, and remove it."""
    probe = folder / f".headrace-doctor-{os.getpid()}"
    began = time.perf_counter()
    try:
        try:
            with probe.open("xb") as file:
                file.write(bytes(4096))
                file.flush()
                os.fsync(file.fileno())
            took = (time.perf_counter() - began) * 1000
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        return Finding("FAIL", str(folder), f"cannot be written: {error.strerror}", "let this user write there, or set HEADRACE_HOME")
    if took > _SLOW_MS:
        return Finding(
            "warn", str(folder), f"a small durable write takes {took:.0f} ms, as long as each commit", "use a faster disk: set HEADRACE_HOME"
        )
    return Finding("ok", str(folder), f"a small durable write takes {took:.1f} ms")


def _filesystem(folder: Path) -> Iterator[Finding]:
    kind = _kind_of_filesystem(folder)
    local = "set HEADRACE_HOME to a folder on a local disk"
    if kind is not None and kind.startswith(_NETWORK_FILESYSTEMS):
        yield Finding("warn", str(folder), f"is on {kind}, over which SQLite's locks and WAL may fail", local)
    elif kind in _MEMORY_FILESYSTEMS:
        yield Finding("warn", str(folder), f"is on {kind}, in memory: nothing outlasts a restart of the machine", local)
    elif kind is not None:
        yield Finding("ok", str(folder), f"is on {kind}")


def _kind_of_filesystem(folder: Path) -> str | None:
    """Return what kind of filesystem a folder is on, where the system tells."""
    found: tuple[int, str] | None = None
    try:
        mounts = Path("/proc/mounts").read_text(errors="surrogateescape")
    except OSError:
        return None
    real = folder.resolve()
    for line in mounts.splitlines():
        _, at, kind, *_ = line.split(" ")
        for code in ("040", "011", "012", "134"):
            at = at.replace(f"\\{code}", chr(int(code, 8)))
        # Of two on one folder the later one is seen.
        if real.is_relative_to(at) and (found is None or len(at) >= found[0]):
            found = len(at), kind
    return found[1] if found else None


def _disk(case: Case) -> Iterator[Finding]:
    folder = _there(case.home)
    free = shutil.disk_usage(folder).free
    text = f"{free / _MB:,.0f} MB of the disk are free"
    if free < 100 * _MB:
        yield Finding("FAIL", str(folder), text, "make room: runs stop when there is none")
    elif free < _GB:
        yield Finding("warn", str(folder), text, "make room, or let topics keep less: headrace topics create --retention")
    else:
        yield Finding("ok", str(folder), text)


# the log


def _log(case: Case) -> Iterator[Finding]:
    path, where = case.log, str(case.log)
    if not path.exists():
        yield Finding("ok", where, "is not there yet; headrace topics create makes it")
        return
    if not os.access(path, os.W_OK):
        yield Finding("FAIL", where, "cannot be written by this user", "let this user write it and its folder, or set HEADRACE_HOME")
    yield from _content(case)


def _content(case: Case) -> Iterator[Finding]:
    """Check the rows of the log."""
    path, where = case.log, str(case.log)
    from headrace.topics.sqlite_schema import FORMAT

    try:
        version, tables = Look(path).format()
        if 0 < version < FORMAT and tables:
            lacks = "without checksums" if version == 1 else "whose tables are not tied together"
            yield Finding("warn", where, f"is of format {version}, {lacks}", "any command that opens it upgrades it: headrace topics list")
            return
        if version != FORMAT:
            if version or tables:
                what, fix = f"is a log of format {version}, not {FORMAT}", "use the headrace that made it, or name another HEADRACE_HOME"
                yield Finding("FAIL", where, what if version else "is a database, but no log", fix)
            else:
                yield Finding("ok", where, "is empty")
            return
        if Look(path).lacks_wal():
            what = "was copied while it was in use, without its -wal, or closed by another program: what the -wal held is missing"
            yield Finding(
                "FAIL", where, what, "copy it with headrace backup; if it is no copy, any command that opens it settles it: headrace topics list"
            )
            return
        faults = Look(path).faults(_CHECK_SECONDS)
    except sqlite3.Error as error:
        yield Finding("FAIL", where, f"is damaged or cannot be read: {error}", "restore a backup, or name another HEADRACE_HOME")
        return
    if faults:
        for fault in faults:
            yield Finding("FAIL", where, fault, "restore a backup, or name another HEADRACE_HOME")
        return
    if faults is None:
        yield Finding(
            "warn", where, f"is too large to be checked in {_CHECK_SECONDS:.0f} s", "check it yourself: PRAGMA quick_check in the sqlite3 shell"
        )
    topics = case.topics if case.kafka is None else None
    shown = "" if topics is None else f", {counted(len(topics), 'topic')}"
    yield Finding("ok", where, f"{'' if faults is None else 'whole, '}format {version}, {path.stat().st_size / _MB:,.1f} MB{shown}")
    yield from _wal(path)


def _wal(path: Path) -> Iterator[Finding]:
    wal = path.with_name(f"{path.name}-wal")
    size = wal.stat().st_size if wal.exists() else 0
    if size > _LARGE_WAL:
        yield Finding("warn", str(wal), f"has grown to {size / _MB:,.0f} MB", "end what has the log open for reading and stands still")
    elif size:
        yield Finding("ok", str(wal), f"{size / _MB:,.1f} MB")


# the machine


def _memory(_: Case) -> Iterator[Finding]:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return
    text = f"{free / _MB:,.0f} MB are available"
    if free < 500 * _MB:
        yield Finding("warn", "memory", text, "end what needs it, or give the machine more")
    else:
        yield Finding("ok", "memory", text)


def _clock(case: Case) -> Iterator[Finding]:
    now = now_ms()
    set_it = "set the clock, and have it kept by the network"
    if now < _YEAR_2024_MS:
        yield Finding("FAIL", "clock", f"says {time.strftime('%Y-%m-%d', time.gmtime(now / 1000))}", set_it)
        return
    began = time.monotonic()
    time.sleep(0.01)
    if time.monotonic() <= began:
        yield Finding("FAIL", "clock", "the one that only goes forward stands still", "restart the machine")
    last = _last_arrival(case.log)
    if last is not None and now < last - _SLACK_MS:
        yield Finding("warn", "clock", f"is {(last - now) / 1000:,.0f} s behind the last record of the log: it was set back", set_it)
    else:
        yield Finding("ok", "clock", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now / 1000)))


def _last_arrival(log: Path) -> int | None:
    with suppress(sqlite3.Error):
        if log.exists():
            return Look(log).last_arrival()
    return None


def _open_files(_: Case) -> Iterator[Finding]:
    if sys.platform == "win32":
        return
    import resource

    limit, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < _FEW_FILES:
        yield Finding("warn", "open files", f"a process may have {limit}", "raise it: ulimit -n 4096")
    else:
        yield Finding("ok", "open files", f"a process may have {'any number' if limit == resource.RLIM_INFINITY else limit}")


# settings and the pipeline


def _settings(case: Case) -> Iterator[Finding]:
    where = str(SETTINGS_FILE)
    if not SETTINGS_FILE.exists():
        return
    try:
        whole: dict[str, Any] = msgspec.toml.decode(SETTINGS_FILE.read_bytes())
    except (msgspec.DecodeError, UnicodeDecodeError, OSError) as error:
        yield Finding("FAIL", where, f"cannot be read: {error}", "fix or remove it")
        return
    known = _known_pipelines(case.app)
    findings = [finding for name, table in whole.items() for finding in _table(name, table, known)]
    yield from findings or [Finding("ok", where, f"settings of {', '.join(whole) or 'no pipeline'}")]


def _known_pipelines(app: str | None) -> dict[str, Pipeline]:
    """Return the shipped pipelines and those that stand with APP, by name."""
    known: dict[str, Pipeline] = {}
    for module in iter_modules(headrace.apps.__path__):
        found = vars(importlib.import_module(f"headrace.apps.{module.name}")).values()
        known.update({one.name: one for one in found if isinstance(one, Pipeline)})
    with suppress(PlanError):  # which the check of APP shows
        if app is not None:
            file, _, _ = app.partition(":")
            found_with = pipelines_of_file(Path(file)).values() if file.endswith(".py") else [find_pipeline(app)]
            known.update({one.name: one for one in found_with})
    return known


def _table(name: str, table: object, known: Mapping[str, Pipeline]) -> Iterator[Finding]:
    if name in TABLES and name != "kafka":
        return  # part of a plant, which `headrace check` checks
    where = f"{SETTINGS_FILE} [{name}]"
    if not isinstance(table, dict):
        yield Finding("warn", f"{SETTINGS_FILE} {name}", "stands in no table and is not read", "write [PIPELINE] above the settings of a pipeline")
        return
    if name == "kafka":
        properties_of_table(table, where, SETTINGS_FILE.parent, os.environ)
        return
    if name not in known:
        yield Finding("warn", where, f"no pipeline {name!r} is known here", f"{near(name, known)}; if it is your own: headrace doctor FILE.py:{name}")
        return
    settings = {setting.name.lower(): setting for setting in known[name].settings}
    for key, value in table.items():
        if key.lower() not in settings:
            yield Finding("FAIL", where, f"unknown setting {key!r}", near(key, settings))
            continue
        try:
            settings[key.lower()].read(value, where)
        except PlanError as error:
            yield Finding("FAIL", where, error.what, "fix the value, or remove the line")


def _app(case: Case) -> Iterator[Finding]:
    if case.app is None:
        return
    plan = plan_of(case.app, [])
    yield Finding("ok", f"pipeline {plan.pipeline}", f"version {plan.version} is sound")
    if case.topics is not None:
        yield from _sources(case, plan, case.topics)
    if case.kafka is not None:
        if case.topics is not None:
            yield from _state_beside_kafka(case, plan)
    elif case.log.exists():
        with suppress(sqlite3.Error):  # which the check of the log shows
            if Look(case.log).format()[0] != 1:
                yield from _state(case, plan)


def _sources(case: Case, plan: Plan, topics: Mapping[str, int]) -> Iterator[Finding]:
    kafka = "".join(f" --{name.replace('_', '-')} {value}" for name, value in vars(case.options).items() if value is not None)
    for source in plan.sources:
        where = f"topic {source.topic}"
        if source.topic in topics:
            yield Finding("ok", where, f"pipeline {plan.pipeline} reads it")
        else:
            hint = near(source.topic, topics)
            fix = f"{hint} or make it" if hint.startswith("did") else "make it"
            what = f"is not there; pipeline {plan.pipeline} needs it to run live"
            yield Finding("warn", where, what, f"{fix}: headrace topics create {source.topic}{kafka}")


def _state(case: Case, plan: Plan) -> Iterator[Finding]:
    """Check what the pipeline's last commit left, as its next run will."""
    where, anew = f"state of pipeline {plan.pipeline}", f"headrace run {case.app} --anew, which forgets it"
    found = Look(case.log).manifest(plan.pipeline)
    if found is None:
        yield Finding("ok", where, "there is none yet")
        return
    what = _fault_of_state(case, plan, found[0], whole=found[1])
    if what is not None:
        yield Finding("FAIL", where, what, f"{_AS_IT_WAS} {anew}")
        return
    lag = 0
    for topic, number, following, first, end in Look(case.log).places(plan.pipeline):
        lag += end - following
        if not first <= following <= end:
            lost = f"is to go on at {following} of {topic} partition {number}, which has {first} to {end}"
            yield Finding("FAIL", where, lost, f"start with {anew}, and let the topic keep its records longer")
    yield Finding("ok", where, f"whole, of version {plan.version}; {lag:,} records are to be read")


def _state_beside_kafka(case: Case, plan: Plan) -> Iterator[Finding]:
    where = f"state of pipeline {plan.pipeline}"
    with closing(open_log(case.kafka, create=False)) as log:
        manifest = log.manifest(plan.pipeline)
        lag = sum(max(cursor.end - cursor.offset, 0) for cursor in log.cursors() if cursor.group == plan.pipeline)
    if manifest is None:
        yield Finding("ok", where, "there is none yet")
    elif (what := _difference(case, plan, msgspec.json.decode(manifest))) is not None:
        yield Finding("FAIL", where, what, f"{_AS_IT_WAS} headrace run {case.app} --anew, which forgets it")
    else:
        yield Finding("ok", where, f"of version {plan.version}; {lag:,} records are to be read")


def _fault_of_state(case: Case, plan: Plan, manifest: bytes, *, whole: bool) -> str | None:
    """Return why a run would not go on from a commit, if it would not."""
    from headrace.engines.embedded.state import Parts

    if not whole:
        return "its last commit is damaged"
    said: dict[str, Any] = msgspec.json.decode(manifest)
    what = _difference(case, plan, said)
    if what is not None:
        return what
    damaged = Look(case.log).damaged_part(plan.pipeline, sorted(Parts().keep(said)))
    return None if damaged is None else f"part {damaged} is damaged"


def _difference(case: Case, plan: Plan, said: Mapping[str, Any]) -> str | None:
    """Return why a run would not go on from a commit, where the pipeline or its topics are others now."""
    from headrace.engines.embedded.carrying import carried_over, new_ranks

    now = [f"{source.topic}/{number}" for source in plan.sources for number in range((case.topics or {}).get(source.topic, 0))]
    try:
        carried_over(plan, said)
        new_ranks(plan, said["sources"], now)
    except EnvironmentFault as fault:
        return fault.what
    return None


# Kafka


def _kafka(case: Case) -> Iterator[Finding]:
    kafka = case.kafka
    if kafka is None:
        return
    places = addresses(kafka.servers, kafka.asked)
    faults = {place: _fault_of_connection(*place) for place in places}
    for (host, port), fault in faults.items():
        where = f"Kafka {host}:{port}"
        if fault is None:
            yield Finding("ok", where, "takes connections")
        else:
            fix = f"start it, or fix {kafka.asked}"
            yield Finding("FAIL", where, f"cannot be reached: {fault}", fix)
    if all(faults.values()):
        return
    where = f"Kafka {kafka.servers}"
    if isinstance(case.cluster, str):
        what, _, fix = case.cluster.partition("; ")
        yield Finding("FAIL", where, f"takes connections, but says nothing of its topics: {what}", fix or "see that it is Kafka, without TLS")
        return
    yield Finding("ok", where, f"{counted(len(case.cluster.brokers), 'broker')}, {counted(len(case.cluster.topics), 'topic')}")
    if kafka.settings.get("security.protocol", "PLAINTEXT").upper() == "PLAINTEXT":
        yield from _open_brokers(dict.fromkeys([*places, *case.cluster.brokers]))


def _fault_of_connection(host: str, port: int) -> str | None:
    """Return why a server cannot be reached; to look up its name has a limit as well."""
    fault: list[str | None] = [f"no answer within {_KAFKA_SECONDS:.0f} s"]

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=_KAFKA_SECONDS).close()
            fault.append(None)
        except TimeoutError:
            pass
        except OSError as error:
            fault.append(error.strerror or str(error))

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_KAFKA_SECONDS + 0.5)
    return fault[-1]


def _cluster(kafka: Kafka) -> Cluster:
    from headrace.topics.kafka import asked

    said = asked(kafka, _KAFKA_SECONDS)
    return Cluster(
        tuple((str(broker.host), int(broker.port)) for broker in said.brokers.values()),
        {str(name): len(topic.partitions) for name, topic in said.topics.items() if not str(name).startswith("__")},
    )


def _open_brokers(places: Iterable[tuple[str, int]]) -> Iterator[Finding]:
    """Warn of brokers that others on the network can reach: headrace talks to them without TLS or a password, and so can they."""
    for host, port in places:
        where = f"Kafka {host}:{port}"
        outside = _listens_outside(port) if _is_loopback(host) else host
        if outside:
            yield Finding(
                "warn",
                where,
                f"is open to the network at {outside}: PLAINTEXT, without a password",
                "bind it to 127.0.0.1, or shut the port to others",
            )


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listens_outside(port: int) -> str | None:
    """Return where this machine takes connections to a port from others, if it does."""
    for file, size in (("/proc/net/tcp", 4), ("/proc/net/tcp6", 16)):
        with suppress(OSError):
            for line in Path(file).read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                address, _, number = local.partition(":")
                if state != "0A" or int(number, 16) != port:
                    continue
                words = bytes.fromhex(address)
                # The kernel writes words of four bytes in the machine's order.
                raw = b"".join(words[at : at + 4][:: -1 if sys.byteorder == "little" else 1] for at in range(0, size, 4))
                found = ipaddress.ip_address(raw)
                mapped = getattr(found, "ipv4_mapped", None) or found
                if not mapped.is_loopback:
                    return f"{mapped}"
    return None


_CHECKS: Mapping[str, Callable[[Case], Iterator[Finding]]] = {
    "python": _python,
    "packages": _packages,
    "home": _home,
    "disk": _disk,
    "log": _log,
    "memory": _memory,
    "clock": _clock,
    "open files": _open_files,
    "settings": _settings,
    "kafka": _kafka,
    "app": _app,
}
