"""A real Kafka broker for tests: one for all workers of a test run, or one of a test's own that it may stop and kill.

`python tests/broker.py --fetch` gets Kafka's jars into build/kafka, with Maven.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from keeper import keep, kept
from ports import free_port

VERSION = "4.3.1"
FOLDER = Path(__file__).parent.parent / "build" / "kafka"
JARS = FOLDER / "libs"
START_SECONDS = 240
ARCHIVE = FOLDER / f"{VERSION}.jsa"  # a broker's classes as Java maps them into memory: it starts with half the CPU
FORMATTED = FOLDER / f"{VERSION}.formatted"  # the folder of data as a broker finds it at first
CLUSTER = "aGVhZHJhY2UtdGVzdHM5OQ"
POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion><groupId>headrace</groupId><artifactId>broker</artifactId><version>1</version><packaging>pom</packaging>
<dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{VERSION}</version></dependency>
</dependencies></project>
"""
PROPERTIES = """process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs={folder}/data
auto.create.topics.enable=false
message.max.bytes=12582912
replica.fetch.max.bytes=12582912
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
group.initial.rebalance.delay.ms=0
log.retention.check.interval.ms=500
log.initial.task.delay.ms=500
log.segment.delete.delay.ms=100
metadata.max.idle.interval.ms=0
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
num.network.threads=2
num.io.threads=4
"""


def missing() -> str | None:
    """Return what there is not that a broker needs, and how to get it."""
    if not shutil.which("java"):
        return "no java (17 or newer) to run Kafka with; Debian: apt install openjdk-17-jre-headless"
    if not (FOLDER / f"{VERSION}.whole").exists():
        return "Kafka's jars are not in build/kafka; get them: python tests/broker.py --fetch"
    return None


def fetch() -> str | None:
    """Get the jars unless they are there, and return why they cannot be had."""
    whole = FOLDER / f"{VERSION}.whole"
    if whole.exists():
        return None
    if not shutil.which("mvn"):
        return "no mvn to get Kafka's jars with; Debian: apt install maven"
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "pom.xml").write_text(POM)
    shutil.rmtree(JARS, ignore_errors=True)
    command = ["mvn", "-q", "-B", "-f", "pom.xml", "dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={JARS}"]
    try:
        done = subprocess.run(command, check=False, cwd=FOLDER, capture_output=True, text=True, timeout=900)
    except subprocess.TimeoutExpired:
        return "Maven did not get Kafka's jars within 15 minutes"
    if done.returncode:
        said = [line for line in done.stdout.splitlines() if "ERROR" in line]
        return f"Maven cannot get Kafka's jars: {said[0] if said else done.stdout[-300:]}"
    whole.touch()
    return None


def format_once() -> None:
    """Make the folder of data that brokers begin with, unless it is there."""
    if missing() is not None or FORMATTED.exists():
        return
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        (Broker(Path(folder)).folder / "data").rename(FORMATTED)


def archive() -> None:
    """Make the archive of classes, from a broker that is started and stopped, unless it is there."""
    if missing() is not None or ARCHIVE.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(Path(folder))
        broker.start(f"-XX:ArchiveClassesAtExit={folder}/archive.jsa")
        broker.end(kill=False)
        shutil.move(f"{folder}/archive.jsa", ARCHIVE)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Broker:
    """A broker with its data in a folder. It can be started again after it was stopped or killed."""

    def __init__(self, folder: Path, more: str = "", users: Sequence[str] = ()) -> None:
        self.folder, self.port = folder, free_port()
        self.servers = f"127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._properties = folder / "server.properties"
        controller = free_port()
        self._properties.write_text(
            PROPERTIES.format(port=self.port, controller=controller, folder=folder) + more.format(port=self.port, controller=controller)
        )
        if FORMATTED.exists() and not users:
            shutil.copytree(FORMATTED, folder / "data")
        else:
            self._format(users)

    def _format(self, users: Sequence[str]) -> None:
        format_ = ["kafka.tools.StorageTool", "format", f"--cluster-id={CLUSTER}", "-c", str(self._properties)]
        done = subprocess.run(
            [*self._java("-Xmx128m"), *format_, *(word for user in users for word in ("--add-scram", user))],
            check=False,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    @staticmethod
    def _java(*options: str) -> list[str]:
        archived = [f"-XX:SharedArchiveFile={ARCHIVE}", "-Xlog:disable"] if ARCHIVE.exists() else []  # one of another Java is passed over
        return ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *archived, *options, "-cp", f"{JARS}/*"]

    def start(self, *options: str) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._java("-Xmx512m", *options), "kafka.Kafka", str(self._properties)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                preexec_fn=_end_with_parent,  # noqa: PLW1509  (a call of C and nothing else)
            )
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        admin = AdminClient({"bootstrap.servers": self.servers, "log_level": 0})
        ready_by = time.monotonic() + START_SECONDS
        while time.monotonic() < ready_by:
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
            with suppress(KafkaException):
                if admin.list_topics(timeout=1).brokers:
                    return
        raise AssertionError(f"no broker after {START_SECONDS} s: " + (self.folder / "log").read_text()[-2000:])

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send the broker a signal: SIGSTOP has it stand still until SIGCONT, all its threads, when this returns."""
        os.kill(self.pid, number)
        give_up_at = time.monotonic() + 180
        while number == signal.SIGSTOP and not self._stands():
            assert time.monotonic() < give_up_at, "the broker does not stand still"
            time.sleep(0.001)

    def _stands(self) -> bool:
        with suppress(FileNotFoundError):  # a thread has just ended
            states = [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{self.pid}/task").iterdir()]
            return all(state == "T" for state in states)
        return False

    def end(self, *, kill: bool = True) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        self._process.wait(180)
        self._process = None

    def run_tool(self, name: str, *arguments: str) -> str:
        """Return what one of Kafka's own tools prints."""
        done = subprocess.run([*self._java("-Xmx128m"), name, *arguments], check=False, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


SECURE = """listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},SECURE://127.0.0.1:{secure}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SECURE://127.0.0.1:{secure}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL
listener.name.secure.ssl.keystore.type=PEM
listener.name.secure.ssl.keystore.location={folder}/server.pem
listener.name.secure.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.secure.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
"""
USER, PASSWORD = "plant", 'pass"word 7'


class SecureBroker(Broker):
    """A broker with a second listener, which has TLS and asks for a password (SCRAM): `secure` is its address, `ca` signed its certificate."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.ca = authority(folder, "ca")
        certificate, key = signed(folder, self.ca, "server")
        (folder / "server.pem").write_text(key.read_text() + certificate.read_text() + self.ca.read_text())
        port = free_port()
        self.secure = f"127.0.0.1:{port}"
        more = SECURE.replace("{secure}", str(port)).replace("{folder}", str(folder))
        super().__init__(folder, more, [f"SCRAM-SHA-512=[name={USER},password={PASSWORD}]"])


def authority(folder: Path, name: str) -> Path:
    """Make a certificate authority, and return its certificate."""
    certificate = folder / f"{name}.pem"
    _openssl(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", folder / f"{name}.key", "-out", certificate, "-subj", f"/CN={name}", "-days", "2"
    )
    return certificate


def signed(folder: Path, ca: Path, name: str) -> tuple[Path, Path]:
    """Make a certificate of 127.0.0.1 that an authority signs, and return it and its key."""
    key, request, certificate, names = (folder / f"{name}.{kind}" for kind in ("key", "csr", "crt", "names"))
    names.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    _openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", "/CN=127.0.0.1")
    signing = ["-CA", ca, "-CAkey", ca.with_suffix(".key"), "-CAcreateserial", "-extfile", names, "-days", "2"]
    _openssl("x509", "-req", "-in", request, *signing, "-out", certificate)
    return certificate, key


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], check=False, capture_output=True, text=True, timeout=START_SECONDS)
    assert done.returncode == 0, done.stderr


@contextmanager
def _serving(folder: Path) -> Iterator[str]:
    broker = Broker(folder / uuid.uuid4().hex)
    try:
        broker.start()
        yield broker.servers
    finally:
        broker.end()
        shutil.rmtree(broker.folder, ignore_errors=True)


@dataclass(frozen=True)
class Shared:
    """The broker of the test run."""

    servers: str

    run_tool = Broker.run_tool
    _java = staticmethod(Broker._java)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """Return the broker that all tests share."""
    if (why := missing()) is not None:
        pytest.skip(why)
    with kept("kafka", __file__, tmp_path_factory) as servers:
        yield Shared(servers)


if __name__ == "__main__":
    if sys.argv[1:] == ["--fetch"]:
        if (reason := fetch() or missing()) is not None:
            print(f"tests on Kafka will be skipped: {reason}")
        else:
            format_once()
            archive()
    else:
        keep(Path(sys.argv[1]), _serving(Path(sys.argv[1])))
