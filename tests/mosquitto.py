"""A real MQTT broker for tests: Mosquitto, from the system or unpacked into build/mosquitto.

`python tests/mosquitto.py --fetch` gets it, without root, on Debian and Ubuntu.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from debian import LIMIT, Program, unpack
from waiting import wait_for

FOLDER = Path(__file__).parent.parent / "build" / "mosquitto"
PACKAGES = ("mosquitto", "mosquitto-clients", "libmosquitto1", "libcjson1", "libwebsockets17", "libdlt2", "libwrap0", "libnsl2", "libtirpc3")


def found(name: str) -> str | None:
    """Return where a program of Mosquitto is."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", str(FOLDER / "usr/sbin"), str(FOLDER / "usr/bin")])
    return shutil.which(name, path=path)


def missing() -> str | None:
    """Return what there is not, and how to get it."""
    if found("mosquitto") and found("mosquitto_pub"):
        return None
    return "no mosquitto and mosquitto_pub; Debian: apt install mosquitto mosquitto-clients"


def fetch() -> str | None:
    """Get Mosquitto unless it is there, and return why it cannot be had."""
    if missing() is None:
        return None
    unpack(PACKAGES, FOLDER)
    return missing()


def environment() -> dict[str, str]:
    """Return the environment in which an unpacked Mosquitto finds its libraries."""
    libraries = [str(path) for path in FOLDER.glob("usr/lib/*-linux-gnu*")]
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")])} if libraries else {**os.environ}


class Mosquitto(Program):
    """A broker."""

    def __init__(self, folder: Path, more: Sequence[str] = (), *, anonymous: bool = True, persistent: bool = True) -> None:
        super().__init__(folder)
        lines = [f"listener {self.port} 127.0.0.1", f"allow_anonymous {str(anonymous).lower()}", "max_queued_messages 0", "user root"]
        if persistent:
            lines += ["persistence true", f"persistence_location {folder}/", "autosave_on_changes true", "autosave_interval 1"]
        (folder / "mosquitto.conf").write_text("\n".join([*lines, *more, ""]))

    @property
    def address(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        program = found("mosquitto")
        assert program is not None
        self._run([program, "-v", "-c", str(self.folder / "mosquitto.conf")], environment())

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def remember(self, bridge: Sequence[str]) -> None:
        """Have the broker keep for a bridge what is published from now on: it was there once."""
        from headrace.cli import main

        def subscribed() -> bool:
            assert main([*bridge, "--duration", "100ms"]) == 0
            return "Sending SUBACK" in self.log

        wait_for(subscribed, "the bridge's session", seconds=LIMIT)

    def publish(self, topic: str, *payloads: str | bytes, qos: int = 1, retain: bool = False, options: Sequence[str] = ()) -> None:
        """Publish messages; return when the broker has them."""
        self.publisher(topic, qos=qos, retain=retain, options=options)(payloads)

    def publisher(self, topic: str, *, qos: int = 1, retain: bool = False, options: Sequence[str] = ()) -> Callable[[Sequence[str | bytes]], None]:
        def publish(payloads: Sequence[str | bytes]) -> None:
            program = found("mosquitto_pub")
            assert program is not None
            whole = [payload.encode() if isinstance(payload, str) else payload for payload in payloads]
            lines = len(whole) != 1 or (whole[0] != b"" and b"\n" not in whole[0])
            command = [program, "-h", "127.0.0.1", "-p", str(self.port), "-t", topic, "-q", str(qos), *(["-r"] if retain else []), *options]
            data = b"".join(one + b"\n" for one in whole) if lines else whole[0]
            done = subprocess.run([*command, "-l" if lines else "-s"], check=False, input=data, capture_output=True, timeout=LIMIT, env=environment())
            assert done.returncode == 0, done.stderr

        return publish


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """Return a broker of the test's own."""
    if (why := missing()) is not None:
        pytest.skip(why)
    one = Mosquitto(tmp_path / "mosquitto")
    one.start()
    try:
        yield one
    finally:
        one.end()


if __name__ == "__main__" and sys.argv[1:] == ["--fetch"] and (reason := fetch()) is not None:
    print(f"tests on MQTT will be skipped: {reason}")
