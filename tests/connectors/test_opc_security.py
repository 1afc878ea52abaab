"""Secure channels, users and certificates of OPC UA, against a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from plant_servers import Bridged, PlantServer, readings

from headrace.cli import main
from headrace.connectors.opc import source
from headrace.topics.sqlite import SqliteLog


def certificate(folder: Path, name: str, days: int = 10, uri: str = "urn:headrace:tests") -> None:
    key = rsa.generate_private_key(65_537, 2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=100))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri), x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.der").write_bytes(made.public_bytes(serialization.Encoding.DER))
    pem, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / f"{name}-key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, pem, plain))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    for name, days, uri in [("server", 10, "urn:headrace:tests"), ("our", 10, "urn:our"), ("other", 10, "urn:x"), ("expired", -1, "urn:our")]:
        certificate(folder, name, days, uri)
    (folder / "password").write_text("s3cret word\n")
    return folder


@pytest.fixture(scope="module")
def server(files: Path) -> Iterator[PlantServer]:
    definition = {
        "values": {"Temp": 21.5},
        "users": {"operator": "s3cret word"},
        "security": ["Basic256Sha256_SignAndEncrypt", "Basic256Sha256_Sign"],
        "certificate": str(files / "server.der"),
        "key": str(files / "server-key.pem"),
    }
    with PlantServer("opc_server", json.dumps(definition)) as one:
        yield one


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("HEADRACE_HOME", "KAFKA_SERVERS", "KAFKA_BOOTSTRAP_SERVERS", "HEADRACE_TOPIC_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPC_PASSWORD", "s3cret word")
    return tmp_path / ".headrace"


def bridge(server: PlantServer, files: Path, *, user: str = "operator:${OPC_PASSWORD}@", **changed: str | None) -> int:
    given: dict[str, str | None] = {
        "security": "SignAndEncrypt",
        "certificate": str(files / "our.pem"),
        "key": str(files / "our-key.pem"),
        "server_certificate": str(files / "server.der"),
        "timeout": "60s",
    }
    parameters = "&".join(f"{name}={value}" for name, value in (given | changed).items() if value is not None)
    return main(
        ["bridge", f"opc.tcp://{user}127.0.0.1:{server.port}/plant/?{parameters}", "topic:readings", "--records", "2", "--give-up-after", "1"]
    )


@pytest.mark.parametrize("changed", [{}, {"security": "Sign", "server_certificate": "any"}], ids=["encrypted", "signed"])
def test_a_secure_channel_with_a_user_brings_readings(
    server: PlantServer, files: Path, home: Path, changed: dict[str, str | None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bridge(server, files, **changed) == 0, capsys.readouterr().err
    with closing(SqliteLog(home / "log.db")) as log:
        assert {one["tag"]: one["value"] for one in readings(log)} == {"Line1/Temp": 21.5, "Line1/Count": 0}
        assert b"s3cret" not in (log.manifest("bridge:readings") or b"")
    said = capsys.readouterr()
    assert "s3cret" not in said.out + said.err and "sent as it is" not in said.err


@pytest.mark.usefixtures("home")
def test_a_password_may_be_in_a_file(server: PlantServer, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bridge(server, files, user="operator@", password_file=str(files / "password")) == 0, capsys.readouterr().err


NONE = {"security": None, "certificate": None, "key": None, "server_certificate": None}
OFFERS = "it offers security=Sign&policy=Basic256Sha256, security=SignAndEncrypt&policy=Basic256Sha256"


@pytest.mark.parametrize(
    ("user", "changed", "says"),
    [
        ("operator:wrong@", {}, "SERVER: refuses user 'operator': Bad"),
        ("", {}, "SERVER: refuses a session without a user"),
        ("operator:x@", NONE, f"SERVER: does not offer security=None; {OFFERS}"),
        ("operator:x@", {"policy": "Aes256Sha256RsaPss"}, f"SERVER: does not offer security=SignAndEncrypt with policy=Aes256Sha256RsaPss; {OFFERS}"),
        ("operator:x@", {"server_certificate": "FILES/other.pem"}, "SERVER: has another certificate than FILES/other.pem: SHA-256 "),
        (
            "operator:x@",
            {"certificate": "FILES/expired.pem", "key": "FILES/expired-key.pem"},
            "SERVER: our certificate FILES/expired.pem expired on 20",
        ),
        ("operator:x@", {"key": "FILES/other-key.pem"}, "FILES/other-key.pem: does not belong to the certificate FILES/our.pem"),
        ("operator:x@", {"certificate": "FILES/password"}, "FILES/password: is not a certificate; give an X.509 certificate, as PEM or DER"),
        ("operator:x@", {"key": "FILES/our.pem"}, "FILES/our.pem: is not a private key without a password"),
        ("operator:x@", {"key": "FILES/none"}, "FILES/none: cannot be read: No such file or directory; give the file of key"),
    ],
)
@pytest.mark.usefixtures("home")
def test_what_is_wrong_is_one_line(
    server: PlantServer, files: Path, user: str, changed: dict[str, str | None], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    placed = {name: value and value.replace("FILES", str(files)) for name, value in changed.items()}
    assert bridge(server, files, user=user, **placed) in {1, 2}
    expected = says.replace("FILES", str(files)).replace("SERVER", f"opc.tcp://127.0.0.1:{server.port}/plant/")
    *before, last = capsys.readouterr().err.splitlines()
    assert last.startswith(f"headrace: {expected}")
    assert len(before) == ("expired" in says), "one that has expired is waited for, and this is said first"


@pytest.mark.usefixtures("home")
def test_an_expired_certificate_of_the_server_is_one_line(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    definition = {
        "security": ["Basic256Sha256_SignAndEncrypt"],
        "certificate": str(files / "expired.der"),
        "key": str(files / "expired-key.pem"),
    }
    with PlantServer("opc_server", json.dumps(definition)) as one:
        assert bridge(one, files, user="", server_certificate=str(files / "expired.der")) == 1
    *_, last = capsys.readouterr().err.splitlines()
    assert f"opc.tcp://127.0.0.1:{one.port}/plant/: its certificate expired on 20" in last
    assert last.endswith(", for 1 s; its administrator has to renew it; store the new one in the file of server_certificate")


def test_a_bridge_goes_on_when_our_certificate_is_renewed_on_disk(server: PlantServer, files: Path, log: SqliteLog, tmp_path: Path) -> None:
    certificate(tmp_path, "mine", -1, "urn:our")
    mine = f"certificate={tmp_path}/mine.pem&key={tmp_path}/mine-key.pem"
    address = f"opc.tcp://operator@127.0.0.1:{server.port}/plant/?security=SignAndEncrypt&{mine}&server_certificate={files}/server.der&timeout=60s"

    async def run() -> None:
        async with Bridged(log, source(f"{address}&password_file={files}/password")) as bridge:
            await bridge.until(lambda _: any("mine.pem expired on" in line for line in bridge.told), "expired")
            certificate(tmp_path, "mine", 10, "urn:our")
            await bridge.until(lambda found: found, "a reading")

    asyncio.run(run())
