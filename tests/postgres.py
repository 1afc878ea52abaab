"""A real PostgreSQL for tests, from the system or unpacked into build/postgresql.

`python tests/postgres.py --fetch` gets it, without root, on Debian and Ubuntu.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import run

import pytest

from debian import LIMIT, Program, unpack
from waiting import wait_for

FOLDER = Path(__file__).parent.parent / "build" / "postgresql"
PACKAGES = ("postgresql-15", "libpq5", "libxml2", "libxslt1.1", "libldap-2.5-0", "libicu72")


def found() -> Path | None:
    """Return the folder of the server's programs: of the newest version that there is."""
    folders = [*Path("/usr/lib/postgresql").glob("*/bin"), *FOLDER.glob("usr/lib/postgresql/*/bin")]
    versions = [folder for folder in folders if (folder / "postgres").exists() and (folder / "initdb").exists()]
    return max(versions, key=lambda folder: int(folder.parent.name), default=None)


def missing() -> str | None:
    """Return what there is not, and how to get it."""
    if found() is None:
        return "no postgres and initdb; Debian: apt install postgresql"
    return "root needs setpriv, to run a server of PostgreSQL as another user" if os.getuid() == 0 and not shutil.which("setpriv") else None


def fetch() -> str | None:
    """Get PostgreSQL unless it is there, and return why it cannot be had."""
    if found() is None:
        unpack(PACKAGES, FOLDER)
    return missing()


def environment() -> Mapping[str, str]:
    """Return the environment in which an unpacked PostgreSQL finds its libraries."""
    libraries = [str(path) for path in FOLDER.glob("usr/lib/*-linux-gnu*")]
    return {"PATH": os.environ.get("PATH", ""), "LD_LIBRARY_PATH": os.pathsep.join(libraries)}


class Postgres(Program):
    """A server whose users need no password, but one called `guarded`. PostgreSQL refuses to run as root, so it has another user there."""

    def __init__(self) -> None:
        super().__init__(Path(tempfile.mkdtemp(prefix="headrace-postgres-")))
        self._as: Sequence[str] = ()
        if os.getuid() == 0:
            self._as = ["setpriv", "--reuid=nobody", f"--regid={pwd.getpwnam('nobody').pw_gid}", "--clear-groups", "--pdeathsig=KILL"]
            shutil.chown(self.folder, "nobody")

    @property
    def address(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}"

    def start(self, more: Sequence[str] = ()) -> None:
        programs, data = found(), self.folder / "data"
        assert programs is not None
        if not data.exists():
            options = ["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"]
            run([*self._as, programs / "initdb", "-D", data, *options], check=True, capture_output=True, env=environment(), timeout=LIMIT)
            hosts = data / "pg_hba.conf"
            hosts.write_text(f"host all guarded 127.0.0.1/32 scram-sha-256\n{hosts.read_text()}")
        wait_for(lambda: not self._children(), "the last run's processes have ended", seconds=LIMIT)
        listening = ["listen_addresses=127.0.0.1", f"port={self.port}", "unix_socket_directories="]
        # Its memory is files of its own folder: what is elsewhere outlives a kill.
        settings = ["fsync=off", *listening, "shared_buffers=16MB", "dynamic_shared_memory_type=mmap", *more]
        command = [*self._as, str(programs / "postgres"), "-D", str(data), *(part for one in settings for part in ("-c", one))]
        self._run(command, environment())

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as one:
            version, user = (3 << 16).to_bytes(4), b"user\0postgres\0database\0postgres\0\0"
            one.sendall((8 + len(user)).to_bytes(4) + version + user)
            return one.recv(1) == b"R"
        return False

    def _children(self) -> list[int]:
        """Return the server's processes, whoever is their parent by now."""
        found, data = [], str(self.folder / "data")
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and str((entry / "cwd").readlink()) == data:
                    found.append(int(entry.name))
        return found

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all processes of the server."""
        for pid in self._children():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def crash(self) -> None:
        """Kill all processes of the server."""
        self.signal(signal.SIGKILL)
        self.end()

    @contextmanager
    def removed(self) -> Iterator[Postgres]:
        """Start the server, and remove it with all that it has at the end."""
        try:
            self.start()
            yield self
        finally:
            self.crash()
            shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """Return a server of the module's own."""
    if (why := missing()) is not None:
        pytest.skip(why)
    with Postgres().removed() as one:
        yield one


if __name__ == "__main__" and sys.argv[1:] == ["--fetch"] and (reason := fetch()) is not None:
    print(f"tests on PostgreSQL will be skipped: {reason}")
