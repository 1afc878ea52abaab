"""The container stack of seed 001: what its files promise, and a real run of it."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import time
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from deploy import stack

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE = (DEPLOY / "compose.yml").read_text()
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
ONE_SHOT = {"prepare", "topics"}
ENDED = "condition: service_completed_successfully"


def services() -> dict[str, str]:
    """Return the text of each service."""
    block = re.search(r"^services:\n(.*?)^volumes:", COMPOSE, re.MULTILINE | re.DOTALL)[1]
    parts = re.split(r"^  (\w[\w-]*):\n", block, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_the_services_are_those_of_the_seed():
    assert set(services()) == {"kafka", "prepare", "topics", "generator", "pipeline", "saver"}


def test_compose_accepts_the_file():
    if not shutil.which("docker-compose"):
        pytest.skip("no docker-compose; Debian: apt install docker-compose")
    done = subprocess.run(["docker-compose", "config", "--quiet"], check=False, cwd=DEPLOY, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_ports_are_on_the_loopback_interface_only():
    published = re.findall(r"ports:(.*)", COMPOSE)
    assert published
    for one in published:
        assert re.fullmatch(r' \["127\.0\.0\.1:\$\{\w+:-\d+\}:\d+"\]', one), one
    assert "network_mode: host" not in COMPOSE


def test_images_have_a_version_and_headrace_this_one():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = re.findall(r"image: (\S+)", COMPOSE)
    assert sorted(images) == ["${KAFKA_IMAGE:-apache/kafka:4.3.1}", f"headrace:{version}"]
    assert f"headrace:{version}" in DOCKERFILE
    assert re.findall(r"python:\S+", DOCKERFILE + COMPOSE) == ["python:3.11-slim", 'python:3.11-slim}"}']
    assert "latest" not in DOCKERFILE + COMPOSE


@pytest.mark.parametrize("name", services())
def test_a_service_is_kept_up_or_ends_at_once(name):
    text = services()[name]
    if name in ONE_SHOT:
        assert "unless-stopped" not in text
        assert any(re.search(rf"{name}: {{{ENDED}}}", other) for other in services().values()), "others wait for its end"
    else:
        assert "restart: unless-stopped" in text
    assert ("healthcheck:" in text) == (name not in ONE_SHOT)


@pytest.mark.parametrize("name", services())
def test_a_service_has_no_more_rights_than_it_needs(name):
    text = services()[name]
    assert re.search(r"<<: \*(headrace|hardened)\n", text)
    assert ("<<: *headrace" in text) == (name != "kafka")
    assert ('user: "0:0"' in text) == ("cap_add" in text) == (name == "prepare")
    assert "privileged: true" not in text
    assert "/var/run" not in text


def test_all_that_lasts_is_in_named_volumes_or_in_output():
    mounted = {part for line in re.findall(r"volumes: \[(.*)\]", COMPOSE) for part in re.findall(r'"([^:"]+):', line)}
    named = set(re.findall(r"^  ([\w-]+):$", COMPOSE.partition("\nvolumes:\n")[2], re.MULTILINE))
    assert mounted == {*named, "./output"}
    assert (DEPLOY / "output" / ".gitignore").exists(), "else Docker makes the folder, as root"


@pytest.mark.parametrize("setting", ["WINDOW_SIZE_MINUTES", "WATERMARK_SECONDS", "EQUIPMENT_IDS", "SENSOR_IDS", "PARALLELISM"])
def test_the_settings_of_the_seed_have_its_defaults(setting):
    defaults = {"WINDOW_SIZE_MINUTES": "1", "WATERMARK_SECONDS": "10", "EQUIPMENT_IDS": "110-114", "SENSOR_IDS": "0001-0005", "PARALLELISM": "2"}
    assert set(re.findall(rf"\${{{setting}:-([^}}]*)}}", COMPOSE)) == {defaults[setting]}


def test_the_image_is_not_run_as_root():
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.*)", last, re.MULTILINE) == ["1000:1000"]
    assert "user: ${HEADRACE_USER:-1000:1000}" in COMPOSE
    assert re.findall(r"^STOPSIGNAL (.*)", last, re.MULTILINE) == ["SIGTERM"]
    assert re.findall(r"^ENTRYPOINT (.*)", last, re.MULTILINE) == ['["headrace"]']
    assert "HEALTHCHECK" not in DOCKERFILE


# The real thing

MINUTE_MS = 60_000
EQUIPMENT, SENSORS, PARTITIONS = ("110", "111", "112"), ("0001", "0002"), 3


@pytest.fixture
def seed(tmp_path):
    if os.environ.get("HEADRACE_DOCKER_TESTS") != "1":
        pytest.skip("takes ten minutes and root; HEADRACE_DOCKER_TESTS=1 runs it, alone: pytest -n 0 tests/deploy")
    if (why := stack.missing()) is not None:
        pytest.fail(why)
    with stack.Daemon() as daemon:
        daemon.make_images()
        one = stack.Stack(daemon, tmp_path / "project")
        one.environment |= {
            "EQUIPMENT_IDS": "110-112",
            "SENSOR_IDS": "0001-0002",
            "PARALLELISM": str(PARTITIONS),
            "WATERMARK_SECONDS": "3",
        }
        one.build()
        yield one
        one.keep_logs()
        one.compose("down", "-v")


def test_the_stack_runs_and_goes_on(seed):
    seed.compose("up", "-d")
    wait_until_healthy(seed, "pipeline")
    check_what_is_up(seed)

    stack.until("fingerprints", 180, lambda: list(seed.output.glob("*.json")))
    for service in ("pipeline", "saver", "pipeline"):
        seed.kill(service)
        wait_until_healthy(seed, service)
    wait_for_window(seed)
    seed.kill("kafka")
    seed.kill("pipeline")
    wait_for_window(seed)
    seed.compose("up", "-d")
    assert seed.look("topics")["State"]["ExitCode"] == 0
    print({name: seed.look(name)["RestartCount"] for name in services()}, "restarts")
    seed.compose("restart")
    wait_for_window(seed)
    seed.keep_logs()
    seed.compose("down")
    assert sorted(seed.daemon.docker("volume", "ls", "--quiet").split()) == ["seed_headrace-home", "seed_kafka-data"]
    seed.compose("up", "-d")
    wait_for_window(seed)
    check_that_nothing_is_lost_or_repeated(seed)

    check_that_a_reset_leaves_nothing(seed)


def wait_until_healthy(seed, service):
    stack.until(f"{service} is healthy", 120, lambda: seed.look(service)["State"].get("Health", {}).get("Status") == "healthy")


def wait_for_window(seed):
    """Wait until the saver has saved a window that is open now."""
    now_ms = time.time() * 1000
    stack.until("a window", 240, lambda: any(int(file.stem.split("_")[1]) > now_ms - MINUTE_MS for file in seed.output.glob("*.json")))


def check_that_a_reset_leaves_nothing(seed):
    seed.compose("down", "-v")
    reset_ms = time.time() * 1000
    assert not seed.daemon.docker("volume", "ls", "--quiet").split()
    kept = set(seed.output.glob("*.json"))
    seed.compose("up", "-d")
    first = seed.records("sensor-data", "--max-messages", "10")
    assert min(record["timestamp"] for record in first) >= reset_ms
    stack.until("the pipeline starts", 60, lambda: '"event": "started"' in seed.compose("logs", "--no-color", "pipeline"))
    assert '"epoch": 0, "offsets": {"sensor-data": [0, 0, 0]}' in seed.compose("logs", "--no-color", "pipeline")
    assert all(record["fingerprint"]["end_ms"] > reset_ms for record in seed.records("fingerprint-output"))
    assert kept <= set(seed.output.glob("*.json"))


def check_what_is_up(seed):
    states = {name: seed.look(name) for name in services()}
    assert {name for name, one in states.items() if one["State"]["Running"]} == set(services()) - ONE_SHOT
    assert [states[name]["State"]["ExitCode"] for name in sorted(ONE_SHOT)] == [0, 0]
    bound = {port["HostIp"] for one in states.values() for ports in one["NetworkSettings"]["Ports"].values() for port in ports or []}
    assert bound == {"127.0.0.1"}
    for name in ("generator", "pipeline", "saver"):
        assert seed.compose("exec", "-T", name, "id", "-u").strip() == "1000"
        assert seed.compose("exec", "-T", name, "sh", "-c", "touch /opt/headrace/x 2>/dev/null || echo refused").strip() == "refused"
    described = seed.tool("kafka-topics", "--describe", "--topic", "sensor-data")
    assert f"PartitionCount: {PARTITIONS}" in described


def check_that_nothing_is_lost_or_repeated(seed):
    """Compare what the pipeline wrote, its ledger and the saver's files with what the generator sent."""
    seed.compose("stop", "generator")
    sent = stack.until("all is read", 60, lambda: all_read(seed))
    fingerprints = [record["fingerprint"] for record in seed.records("fingerprint-output")]
    assert max(Counter(one["uuid"] for one in fingerprints).values()) == 1
    found = {(one["equip_id"], one["start_ms"]): one for one in fingerprints}
    assert len(found) == len(fingerprints)
    assert seed.metrics().get('headrace_ledger_records{fate="late",pipeline="fingerprint",topic="sensor-data"}', 0) == 0

    windows: dict[tuple[str, int], list[dict]] = {}
    for record in sent:
        windows.setdefault((str(record["equip_id"]), record["timestamp"] // MINUTE_MS * MINUTE_MS), []).append(record)
    told = {key for key, records in windows.items() if any(value != "null" for record in records for value in record["data"].values())}
    newest = max(start for _, start in found)
    assert set(found) == {key for key in told if key[1] <= newest}
    assert {equip_id for equip_id, _ in found} == set(EQUIPMENT)
    for key, one in found.items():
        for sensor in SENSORS:
            values = [float(record["data"][sensor]) for record in windows[key] if record["data"][sensor] != "null"]
            if not values:
                assert sensor not in one["data"]
                continue
            expected = {
                "min": min(values),
                "max": max(values),
                "median": statistics.median(values),
                "mean": statistics.fmean(values),
                "std_dev": statistics.pstdev(values),
            }
            assert one["data"][sensor] == pytest.approx(expected, rel=1e-9), (key, sensor)
    check_files(seed, found, windows)
    print(f"{len(sent):,} readings, {len(found)} fingerprints in {len({start for _, start in found})} windows: none lost, none repeated")


def all_read(seed):
    """Return what was sent, once the pipeline says that it has received just that."""
    sent = seed.records("sensor-data")
    metrics = seed.metrics()
    received = metrics.get('headrace_ledger_records{fate="received",pipeline="fingerprint",topic="sensor-data"}')
    return sent if received == len(sent) else None


def check_files(seed, found, windows):
    stack.until("the saver has saved all", 60, lambda: len(list(seed.output.glob("*.json"))) >= len(found))
    files = {path.name: path for path in seed.output.glob("*.json")}
    assert set(files) == {f"{one['uuid']}_{one['start_ms']}_{one['end_ms']}.json" for one in found.values()}
    for (equip_id, start), one in found.items():
        saved = stack.json.loads(files[f"{one['uuid']}_{start}_{one['end_ms']}.json"].read_bytes())
        assert saved["fingerprint"] == one
        in_order = sorted(saved["sensor_data"]["readings"], key=lambda record: record["timestamp"])
        assert in_order == sorted(windows[equip_id, start], key=lambda record: record["timestamp"])
