"""A real schema registry for tests: Apicurio, unpacked into build/apicurio, with the interface of Confluent's.

`python tests/registry.py --fetch` gets it, with Maven: 140 MB.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ports import free_port
from waiting import wait_for

VERSION = "2.6.13.Final"
FOLDER = Path(__file__).parent.parent / "build" / "apicurio"
LIMIT = 400.0


def missing() -> str | None:
    """Return what there is not, and how to get it."""
    if not shutil.which("java"):
        return "no java (17 or newer) to run a schema registry with; Debian: apt install openjdk-17-jre-headless"
    if not (FOLDER / "whole").exists():
        return "no schema registry in build/apicurio; get it: python tests/registry.py --fetch"
    return None


def fetch() -> str | None:
    """Get the registry unless it is there, and return why it cannot be had."""
    if missing() is None or not shutil.which("mvn"):
        return missing()
    FOLDER.mkdir(parents=True, exist_ok=True)
    artifact = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"
    command = ["mvn", "-q", "-B", "dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={FOLDER}"]
    if subprocess.run(command, check=False).returncode:
        return "Maven could not get the schema registry"
    shutil.unpack_archive(FOLDER / f"apicurio-registry-app-{VERSION}-all.tar.gz", FOLDER)
    (FOLDER / "whole").touch()
    return missing()


class Apicurio:
    """A registry that keeps its schemas in memory."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/apis/ccompat/v7"

    def answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/subjects", timeout=10):
            return True
        return False

    def register(self, subject: str, schema: str, kind: str = "AVRO", references: Any = ()) -> int:
        """Register a schema, and return its id."""
        body = json.dumps({"schema": schema, "schemaType": kind, "references": list(references)}).encode()
        url = f"{self.url}/subjects/{subject.replace('/', '%2F')}/versions"
        request = urllib.request.Request(url, body, {"Content-Type": "application/vnd.schemaregistry.v1+json"})
        with urllib.request.urlopen(request, timeout=LIMIT) as answer:
            return int(json.load(answer)["id"])


@pytest.fixture(scope="module")
def apicurio() -> Iterator[Apicurio]:
    """Return a registry of the module's own."""
    if (why := missing()) is not None:
        pytest.skip(why)
    port = free_port()
    command = ["java", "-Xmx300m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={port}"]
    jar = FOLDER / f"apicurio-registry-app-{VERSION}-runner.jar"
    with subprocess.Popen([*command, "-jar", str(jar)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        one = Apicurio(port)
        try:
            wait_for(lambda: one.answers() or process.poll() is not None, "the registry answers", seconds=LIMIT)
            yield one
        finally:
            process.kill()


if __name__ == "__main__" and sys.argv[1:] == ["--fetch"] and (reason := fetch()) is not None:
    print(f"tests on a real schema registry will be skipped: {reason}")
