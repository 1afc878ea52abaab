"""The stack of deploy/compose.yml, really run: a Docker daemon of its own in a folder, and stand-ins for what registries of images have.

The base image is made by debootstrap, and kept in build/deploy; Kafka's image of the jars of tests/broker.py. Needs root.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).parent.parent))
from broker import JARS, fetch
from ports import free_port

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
DEPLOY = ROOT / "deploy"
TOOLS = ("dockerd", "docker", "docker-compose", "debootstrap", "iptables")
PACKAGES = "apt install docker.io docker-compose iptables debootstrap"
BASE, KAFKA = "python:3.11-slim", "apache/kafka:4.3.1"
BASE_TAR = ROOT / "build" / "deploy" / "bookworm.tar"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
MINUTES = 60


def missing() -> str | None:
    """Return what there is not that the stack needs."""
    if os.geteuid() != 0:
        return "a Docker daemon needs root"
    if gone := [tool for tool in TOOLS if not shutil.which(tool)]:
        return f"no {', '.join(gone)}; Debian: {PACKAGES}"
    return fetch()


def run(*command: str | Path, seconds: float = 60, **more: Any) -> str:
    """Return what a command prints. Raises AssertionError with its last lines if it fails."""
    done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True, timeout=seconds, **more)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {(done.stdout + done.stderr)[-4000:]}"
    return done.stdout


def until(what: str, seconds: float, look: Callable[[], Any]) -> Any:
    """Look again and again until there is something to see, and return it."""
    give_up_at = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < give_up_at, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.5)
    return found


def base_tar() -> Path:
    """Return the files of a small Debian with Python, made once."""
    if not BASE_TAR.exists():
        folder = BASE_TAR.with_suffix("")
        shutil.rmtree(folder, ignore_errors=True)
        BASE_TAR.parent.mkdir(parents=True, exist_ok=True)
        run("debootstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates", "bookworm", folder, seconds=15 * MINUTES)
        run("tar", "-C", folder, "-cf", f"{BASE_TAR}.part", ".", seconds=5 * MINUTES)
        Path(f"{BASE_TAR}.part").rename(BASE_TAR)
        shutil.rmtree(folder)
    return BASE_TAR


class Daemon:
    """A Docker daemon that has nothing but this folder, and no part in the machine's firewall."""

    def __init__(self) -> None:
        # Not in pytest's folder: the path of a socket has 107 letters at most.
        self.folder = Path(tempfile.mkdtemp(prefix="headrace-docker-"))
        self.socket = self.folder / "socket"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "COMPOSE_"))},
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_BUILDKIT": "0",
            "COMPOSE_DOCKER_CLI_BUILD": "0",
            "DOCKER_CONFIG": str(self.folder / "config"),
        }

    def __enter__(self) -> Self:
        options = ["--iptables=false", "--ip6tables=false", "--bridge=none", "--data-root", f"{self.folder}/data"]
        options += ["--exec-root", f"{self.folder}/exec", "--pidfile", f"{self.folder}/pid", "--host", f"unix://{self.socket}"]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(["dockerd", *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            until("dockerd", 60, self._answers)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
        done = subprocess.run(["docker", "info"], check=False, capture_output=True, env=self.environment, timeout=20)
        return done.returncode == 0

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(90)
        if self._process.poll() is None:
            children = _children(self._process.pid)
            for pid in (self._process.pid, *children):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait(30)
        for line in Path("/proc/mounts").read_text().splitlines():
            if (place := line.split()[1]).startswith(f"{self.folder}/"):
                subprocess.run(["umount", "--lazy", place], check=False, capture_output=True, timeout=30)
        shutil.rmtree(self.folder, ignore_errors=True)

    def docker(self, *arguments: str | Path, seconds: float = 60, **more: Any) -> str:
        return run("docker", *arguments, seconds=seconds, env=self.environment, **more)

    def make_images(self) -> None:
        """Make stand-ins under the tags that the stack asks for."""
        self.docker("import", base_tar(), "debian-python", seconds=5 * MINUTES)
        context = self.folder / "base"
        context.mkdir()
        # As this machine reaches the package registry, so does the image.
        settings = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=False, capture_output=True, text=True, timeout=60).stdout
        index = [line.split("=", 1)[1].strip("'\n ") for line in settings.splitlines() if line.split("=")[0].endswith("index-url")]
        (context / "pip.conf").write_text("\n".join(["[global]", f"cert = {CERTIFICATES}", *(f"index-url = {one}" for one in index[:1])]) + "\n")
        shutil.copy(CERTIFICATES, context)
        (context / "Dockerfile").write_text(f"FROM debian-python\nCOPY pip.conf /etc/pip.conf\nCOPY {CERTIFICATES.name} {CERTIFICATES}\n")
        self.docker("build", "--tag", BASE, context)
        kafka = self.folder / "kafka"
        shutil.copytree(JARS, kafka / "libs")
        shutil.copy(HERE / "kafka-image.sh", kafka)
        shutil.copy(HERE / "Dockerfile.kafka", kafka / "Dockerfile")
        self.docker("build", "--network", "host", "--build-arg", f"BASE={BASE}", "--tag", KAFKA, kafka, seconds=10 * MINUTES)


def _children(pid: int) -> list[int]:
    found = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found + [below for one in found for below in _children(one)]


class Stack:
    """The stack in a copy of the project's files, so that its output is not the checkout's."""

    def __init__(self, daemon: Daemon, folder: Path) -> None:
        self.daemon, self.folder = daemon, folder
        self.output = folder / "deploy" / "output"
        self.environment = {**daemon.environment, "COMPOSE_PROJECT_NAME": "seed", "KAFKA_PORT": str(free_port())}
        folder.mkdir()
        for name in ("pyproject.toml", "README.md", "LICENSE", ".dockerignore"):
            shutil.copy(ROOT / name, folder)
        shutil.copytree(ROOT / "locks", folder / "locks")
        shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(DEPLOY, folder / "deploy", ignore=lambda at, names: [one for one in names if at.endswith("output") and one.endswith(".json")])

    def compose(self, *arguments: str, seconds: float = 5 * MINUTES, files: Sequence[Path] = ()) -> str:
        named = [part for file in files for part in ("--file", str(file))]
        return run("docker-compose", *named, *arguments, seconds=seconds, env=self.environment, cwd=self.folder / "deploy")

    def build(self) -> None:
        self.compose("build", seconds=15 * MINUTES, files=[self.folder / "deploy" / "compose.yml", HERE / "stand-ins.yml"])

    def look(self, service: str) -> dict[str, Any]:
        """Return what Docker knows of a service's container."""
        (found,) = json.loads(self.daemon.docker("inspect", f"seed_{service}_1"))
        return dict(found)

    def kill(self, service: str) -> None:
        """Kill all processes of a container at once, behind Docker's back, and see that it comes back."""
        before = self.look(service)
        os.kill(before["State"]["Pid"], signal.SIGKILL)

        def back() -> bool:
            now = self.look(service)
            return bool(now["RestartCount"] > before["RestartCount"] and now["State"]["Running"])

        until(f"{service} is back", 60, back)

    def tool(self, name: str, *arguments: str) -> str:
        """Return what one of Kafka's own tools prints in its container."""
        return self.compose("exec", "-T", "kafka", f"/opt/kafka/bin/{name}.sh", "--bootstrap-server", "localhost:9093", *arguments, seconds=120)

    def records(self, topic: str, *limits: str) -> list[dict[str, Any]]:
        """Return the records of a topic that are committed, as Kafka's console consumer reads them: without limits, until five seconds bring none."""
        how = ("--from-beginning", "--isolation-level", "read_committed", "--timeout-ms", "5000")
        said = self.tool("kafka-console-consumer", "--topic", topic, *how, *limits)
        return [json.loads(line) for line in said.splitlines() if line.startswith("{")]

    def keep_logs(self) -> None:
        """Leave what the services have said beside the project's folder: their containers are about to go."""
        with self.folder.with_name("logs").open("a") as logs:
            logs.write(self.compose("logs", "--no-color", "--timestamps"))

    def metrics(self) -> dict[str, float]:
        """Return what the pipeline's metrics say now, which its container alone can ask."""
        ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9108/metrics', timeout=5).read().decode())"
        said = self.compose("exec", "-T", "pipeline", "python3", "-c", ask)
        return {name: float(value) for line in said.splitlines() if line and not line.startswith("#") for name, value in [line.rsplit(" ", 1)]}
