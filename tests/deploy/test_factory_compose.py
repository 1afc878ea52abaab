"""The containers of the factory (seed 002): what their files promise. Their plant file and broker are run in tests/apps/test_factory.py."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from headrace.cli import app

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "deploy" / "factory"
COMPOSE = (FOLDER / "compose.yml").read_text()
ONE_SHOT = {"prepare", "topics"}
PARTS = {"plc", "factory", "documents", "page"}


def services() -> dict[str, str]:
    """Return the text of each service."""
    found = re.search(r"^services:\n(.*?)^volumes:", COMPOSE, re.MULTILINE | re.DOTALL)
    assert found is not None
    pieces = re.split(r"^  (\w[\w-]*):\n", found[1], flags=re.MULTILINE)[1:]
    return dict(zip(pieces[::2], pieces[1::2], strict=True))


def test_the_services_are_those_of_the_seed() -> None:
    assert set(services()) == {"broker", "mongo", "kafka", "controllers", *PARTS, *ONE_SHOT}


def test_compose_accepts_the_file() -> None:
    if not shutil.which("docker-compose"):
        pytest.skip("no docker-compose; Debian: apt install docker-compose")
    done = subprocess.run(["docker-compose", "config", "--quiet"], check=False, cwd=FOLDER, capture_output=True, text=True, timeout=180)
    assert (done.returncode, done.stderr) == (0, "")


def test_each_part_of_the_plant_is_a_service() -> None:
    plant = tomllib.loads((FOLDER / "headrace.toml").read_text())
    parts = [one["name"] for one in (*plant["in"], *plant["out"])] + [one["app"] for one in plant["pipeline"]] + ["page"]
    assert set(parts) == PARTS
    for part in parts:
        assert "<<: *part\n" in services()[part]
        assert f"command: [up, {part}, --plant, /etc/headrace/headrace.toml]" in services()[part]


def test_commands_are_commands_of_headrace() -> None:
    for text in re.findall(r"^    command: \[(.*)\]$", COMPOSE, re.MULTILINE):
        words = [word.rstrip(",") for word in shlex.split(re.sub(r"\$\{\w+:-(\w+)\}", r"\1", text))]
        command, bound, _ = app.parse_args(words, print_error=False, exit_on_error=False)
        assert callable(command), words
        assert bound.arguments, words


def test_the_broker_has_its_two_ports_and_all_ports_are_on_the_loopback_interface_only() -> None:
    lines = (FOLDER / "mosquitto.conf").read_text().splitlines()
    assert [line for line in lines if line.startswith(("listener", "protocol"))] == ["listener 1883", "listener 9001", "protocol websockets"]
    published = re.findall(r'"([^"]*:\d+)"', "".join(re.findall(r"ports: \[(.*)\]", COMPOSE)))
    assert [re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-(\d+)\}:(\d+)", one).groups() for one in published] == [  # type: ignore[union-attr]
        ("1883", "1883"), ("9001", "9001"), ("27017", "27017"), ("8000", "8000"),
    ]  # fmt: skip
    assert "network_mode: host" not in COMPOSE


def test_images_have_versions_and_no_service_more_rights_than_it_needs() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = re.findall(r"image: (\S+)", COMPOSE)
    assert images == [f"headrace:{version}", "${MOSQUITTO_IMAGE:-eclipse-mosquitto:2.0.20}", "${MONGO_IMAGE:-mongo:8.0}"]
    for name, text in services().items():
        assert re.search(r"<<: \*(headrace|hardened|part)\n|extends: \{file: \.\./compose\.yml", text), name
        assert "privileged" not in text and "/var/run" not in text
        own = "extends:" in text or "<<: *part\n" in text
        assert own or ("restart: unless-stopped" in text) == ("healthcheck:" in text) == (name not in ONE_SHOT), name


def test_all_that_lasts_is_in_named_volumes() -> None:
    mounted = {part for line in re.findall(r"volumes: \[(.*)\]", COMPOSE) for part in re.findall(r'"([^:"]+):', line)}
    named = set(re.findall(r"^  ([\w-]+):$", COMPOSE.partition("\nvolumes:\n")[2], re.MULTILINE))
    assert mounted | {"kafka-data"} == {*named, "./mosquitto.conf", "./headrace.toml"}
