"""A Flink cluster of this machine, for one run: it starts when it is needed and ends with who started it."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from headrace.engines.environment import end_with_parent, engines_folder, java, made, maven_jars, pip_install
from headrace.engines.flink.rest import Rest
from headrace.errors import EnvironmentFault, HeadraceError

__all__ = ["CONNECTOR", "FLINK", "Cluster", "Sizes", "fetched"]

FLINK = "2.3.0"
CONNECTOR = "org.apache.flink:flink-sql-connector-kafka:5.0.0-2.2"
_START_SECONDS = 300.0
_EXPORTS = ["java.rmi/sun.rmi.registry", "java.security.jgss/sun.security.krb5"] + [
    f"jdk.compiler/com.sun.tools.javac.{part}" for part in ("api", "file", "parser", "tree", "util")
]
_OPENS = ["lang", "net", "io", "nio", "lang.reflect", "text", "time", "util", "util.concurrent", "util.concurrent.atomic", "util.concurrent.locks"]
_JAVA_MODULES = [
    *(f"--add-exports={one}=ALL-UNNAMED" for one in _EXPORTS),
    *(f"--add-opens=java.base/java.{one}=ALL-UNNAMED" for one in _OPENS),
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
]
_LOGGING = """rootLogger.level = INFO
rootLogger.appenderRef.console.ref = Console
appender.console.name = Console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %-5p %c - %m%n
"""


def fetched(home: Path, *, kafka: bool = False) -> list[Path]:
    """Return Flink's jars, that for Python among them, got on first use; those of its Kafka connector too, if it is needed.

    Raises
    ------
    EnvironmentFault
        If they cannot be had; it says which, and how to get them.
    """
    engines = engines_folder(home)
    flink = made(engines / f"flink-{FLINK}", lambda aside: pip_install(aside, f"apache-flink-libraries=={FLINK}", dependencies=False))
    own = "lib/python*/site-packages/pyflink"
    jars = sorted([*flink.glob(f"{own}/lib/*.jar"), *flink.glob(f"{own}/opt/flink-python-*.jar")])
    if not jars:
        raise EnvironmentFault("holds no jars of Flink", where=str(flink), fix="remove it; the next run gets it again")
    if kafka:
        connector = made(engines / "flink-kafka-5.0.0-2.2", lambda aside: maven_jars(aside, CONNECTOR))
        jars += sorted(connector.glob("flink-sql-connector-kafka*.jar"))
    return jars


@dataclass(frozen=True)
class Sizes:
    """The memory of the cluster's processes, in MB; `slots` for each task manager."""

    slots: int = 1
    managers: int = 1
    planning: int = 768
    heap: int = 768
    managed: int = 128
    network: int = 128


class Cluster:
    """One job manager and its task managers, each a process, with their logs and state in a folder.

    Parameters
    ----------
    folder
        For configuration, logs, checkpoints and savepoints.
    jars
        Flink's own, with the connectors.
    more
        More settings of Flink's.
    """

    def __init__(
        self,
        folder: Path,
        jars: list[Path],
        sizes: Sizes = Sizes(),
        java_options: tuple[str, ...] = ("-XX:+UseSerialGC",),
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.folder, self.sizes, self._more = folder, sizes, more
        self._java = [java("Flink"), *java_options]
        self._path = ":".join(map(str, jars))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.rest = Rest("")

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()

    def start(self) -> None:
        """Start the processes, and return when all slots are there.

        Raises
        ------
        EnvironmentFault
            If they do not start within five minutes; it names the log.
        """
        self._configure()
        self._start("jobmanager", "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint", self.sizes.planning)
        for number in range(self.sizes.managers):
            self.start_manager(number)
        give_up_at = time.monotonic() + _START_SECONDS
        while not self._ready():
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise EnvironmentFault(f"ended with status {process.returncode}: {self._last(name)}", where=f"Flink's {name}")
            if time.monotonic() > give_up_at:
                raise EnvironmentFault("Flink does not start within five minutes", where=str(self.folder), fix="its logs are there")
            time.sleep(0.1)

    def start_manager(self, number: int = 0) -> None:
        """Start a task manager, again if it was killed."""
        name = f"taskmanager-{number}"
        self._start(name, "org.apache.flink.runtime.taskexecutor.TaskManagerRunner", self.sizes.heap + 128)

    def kill_manager(self, number: int = 0) -> None:
        """Kill a task manager with SIGKILL."""
        process = self._processes.pop(f"taskmanager-{number}")
        process.kill()
        process.wait(30)

    @property
    def pids(self) -> dict[str, int]:
        """The processes, by name."""
        return {name: process.pid for name, process in self._processes.items()}

    def _ready(self) -> bool:
        with suppress(HeadraceError):
            return int(self.rest.ask("/overview", seconds=2)["slots-total"]) >= self.sizes.slots * self.sizes.managers
        return False

    def _configure(self) -> None:
        rest, rpc, blobs = _free_ports(3)
        self.rest = Rest(f"http://127.0.0.1:{rest}")
        sizes = self.sizes
        settings = {
            "rest.address": "127.0.0.1", "rest.bind-address": "127.0.0.1", "rest.port": rest, "rest.bind-port": rest,
            "jobmanager.rpc.address": "127.0.0.1", "jobmanager.bind-host": "127.0.0.1", "jobmanager.rpc.port": rpc, "blob.server.port": blobs,
            "taskmanager.host": "127.0.0.1", "taskmanager.bind-host": "127.0.0.1", "taskmanager.rpc.port": "0",
            "taskmanager.numberOfTaskSlots": sizes.slots, "taskmanager.cpu.cores": "1.0",
            "taskmanager.memory.task.heap.size": f"{sizes.heap}m", "taskmanager.memory.task.off-heap.size": "64m",
            "taskmanager.memory.framework.heap.size": "128m", "taskmanager.memory.framework.off-heap.size": "128m",
            "taskmanager.memory.managed.size": f"{sizes.managed}m", "taskmanager.memory.network.min": f"{sizes.network}m",
            "taskmanager.memory.network.max": f"{sizes.network}m", "taskmanager.memory.jvm-metaspace.size": "256m",
            "taskmanager.memory.jvm-overhead.min": "192m", "taskmanager.memory.jvm-overhead.max": "192m", "jobmanager.memory.heap.size": f"{sizes.planning}m",
            "io.tmp.dirs": self.folder / "tmp", "web.tmpdir": self.folder / "web", "process.working-dir": self.folder / "working",
            "execution.checkpointing.dir": f"file://{self.folder}/checkpoints", "execution.checkpointing.savepoint-dir": f"file://{self.folder}/savepoints",
            "metrics.fetcher.update-interval": "1000", "web.submit.enable": "true", "execution.checkpointing.num-retained": "1", "heartbeat.timeout": "60000", "pekko.ask.timeout": "60 s", "heartbeat.interval": "2000",
            **self._more,
        }  # fmt: skip
        for folder in ("tmp", "web", "conf"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{key}: '{value}'\n" for key, value in settings.items())
        (self.folder / "conf" / "config.yaml").write_text(lines)
        (self.folder / "conf" / "log4j.properties").write_text(_LOGGING)

    def _start(self, name: str, main: str, heap: int) -> None:
        logging = f"-Dlog4j.configurationFile={self.folder}/conf/log4j.properties"
        command = [*self._java, f"-Xmx{heap}m", *_JAVA_MODULES, logging, "-cp", self._path, main, "--configDir", str(self.folder / "conf")]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                preexec_fn=end_with_parent,  # noqa: PLW1509
            )

    def _last(self, name: str) -> str:
        lines = (self.folder / f"{name}.log").read_text(errors="replace").splitlines()
        telling = [line for line in lines if "Exception" in line or "Error" in line] or lines
        return telling[-1][:300] if telling else "it says nothing"

    def end(self) -> None:
        """End all processes."""
        for process in self._processes.values():
            with suppress(OSError):
                process.send_signal(signal.SIGKILL)
        for process in self._processes.values():
            process.wait(30)
        self._processes.clear()


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()
