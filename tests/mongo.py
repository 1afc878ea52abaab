"""A server that speaks MongoDB's protocol, for tests: SecantusDB in an environment of its own, build/secantusdb.

`python tests/mongo.py --fetch` gets it. It is no part of the project: its licence is the GPL, and it only runs as another process.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest
from pymongo.errors import PyMongoError

from debian import Program

VERSION = "0.7.0b3"
FOLDER = Path(__file__).parent.parent / "build" / "secantusdb" / VERSION
LIMIT_MS = 120_000


def missing() -> str | None:
    """Return what there is not, and how to get it."""
    return None if (FOLDER / "bin" / "secantusd-py").exists() else "no SecantusDB; get it: python tests/mongo.py --fetch"


def fetch() -> str | None:
    """Get the server unless it is there, and return why it cannot be had."""
    if missing() is not None:
        uv = str(Path(sys.executable).with_name("uv"))
        for command in (["venv", "--quiet", str(FOLDER)], ["pip", "install", "--quiet", "--python", str(FOLDER), f"secantusdb=={VERSION}"]):
            done = subprocess.run([uv, *command], check=False, capture_output=True, text=True, timeout=600)
            if done.returncode:
                return " ".join(done.stderr.split())[-300:]
    return missing()


class Mongo(Program):
    """A server that keeps its data."""

    @property
    def address(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}"

    def client(self) -> pymongo.MongoClient[Any]:
        return pymongo.MongoClient(self.address, serverSelectionTimeoutMS=LIMIT_MS, tz_aware=True)

    def start(self, more: tuple[str, ...] = ()) -> None:
        options = ["--port", str(self.port), "--host", "127.0.0.1", "--storage-path", str(self.folder / "data"), "--sync-on-commit", *more]
        self._run([str(FOLDER / "bin" / "secantusd-py"), *options, "--log-level", "WARNING", "--cache-size", "100MB"])

    def _answers(self) -> bool:
        try:
            with pymongo.MongoClient(self.address, serverSelectionTimeoutMS=500) as client:
                client.admin.command("ping")
        except PyMongoError:
            return False
        return True


@pytest.fixture(scope="module")
def mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongo]:
    """Return a server of the module's own."""
    if (why := missing()) is not None:
        pytest.skip(why)
    one = Mongo(tmp_path_factory.mktemp("mongo"))
    one.start()
    try:
        yield one
    finally:
        one.end()


if __name__ == "__main__" and sys.argv[1:] == ["--fetch"] and (reason := fetch()) is not None:
    print(f"tests on MongoDB's protocol will be skipped: {reason}")
