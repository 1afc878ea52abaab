"""Certificates that are wrong, or have expired: the line that says whose fault it is, and what goes on when they are renewed on disk."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import json
import ssl
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from plant_servers import Bridged, readings

from headrace.cli import main
from headrace.cli.bridge import source_of, target_of
from headrace.connectors.certificates import check_own, expiring, fault_of_text
from headrace.connectors.forward import Forward
from headrace.connectors.http_client import client_of
from headrace.connectors.protocol import Unavailable
from headrace.errors import EnvironmentFault
from headrace.topics.sqlite import SqliteLog
from mosquitto import Mosquitto, missing
from ports import free_port
from serving import LIMIT


class Authority:
    """An authority that issues certificates as PEM files with their keys."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.file = self.issue(name, host=None)

    def issue(self, name: str, *, days: tuple[int, int] = (-10, 10), host: str | None = "127.0.0.1") -> Path:
        """Issue a certificate that is valid from one day to another, from now; without a host it is the authority's own."""
        key, now = self._key if host is None else ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=days[0]))
            .not_valid_after(now + timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=host is None, path_length=None), critical=True)
        )
        if host is not None:
            names: Sequence[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host)]
            made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        file = self._folder / f"{name}.pem"
        file.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        plain, pem = serialization.NoEncryption(), serialization.PrivateFormat.PKCS8
        file.with_suffix(".key").write_bytes(key.private_bytes(serialization.Encoding.PEM, pem, plain))
        return file


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


EXPIRED = "its certificate, or that of its authority, has expired (its administrator has to renew it; is this machine's clock right?)"
THEIRS = [
    pytest.param({"days": (-10, -1)}, EXPIRED, id="expired"),
    pytest.param({"days": (1, 10)}, "its certificate is not valid yet (is this machine's clock right? It shows 20", id="not yet"),
    pytest.param({"host": "plant.example"}, "its certificate is for another host: IP address mismatch, certificate is", id="another host"),
]


def run_whole(work: Coroutine[Any, Any, Any]) -> Any:
    """Run something to its end. What is cancelled in a handshake of TLS is closed only when it is collected, with a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        found = asyncio.run(work)
        gc.collect()
    return found


# MQTT


@contextmanager
def broker(folder: Path, ca: Path, server: Path, more: Sequence[str] = ()) -> Iterator[Mosquitto]:
    if (why := missing()) is not None:
        pytest.skip(why)
    one = Mosquitto(folder, [f"cafile {ca}", f"certfile {server}", f"keyfile {server.with_suffix('.key')}", *more])
    one.start()
    try:
        yield one
    finally:
        one.end()


def told_of(log: SqliteLog, address: str) -> str:
    """Run a bridge until it tells something, and return it."""

    async def run() -> str:
        async with Bridged(log, source_of(address)) as bridge:
            await bridge.until(lambda _: bridge.told, "a line")
            return bridge.told[0]

    text = run_whole(run())
    assert "\n" not in text and "Traceback" not in text
    return text.partition(": ")[2]


@pytest.mark.parametrize(("issued", "says"), THEIRS)
def test_a_wrong_certificate_of_a_broker_is_one_line(log: SqliteLog, tmp_path: Path, authority: Authority, issued: dict[str, Any], says: str) -> None:
    with broker(tmp_path / "broker", authority.file, authority.issue("server", **issued)) as one:
        assert told_of(log, f"mqtts://127.0.0.1:{one.port}/m?ca={authority.file}").startswith(says)


def test_an_unknown_authority_and_a_wrong_certificate_of_ours_are_one_line(log: SqliteLog, tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", "other")
    with broker(tmp_path / "broker", authority.file, authority.issue("server"), ["require_certificate true"]) as one:
        address = f"mqtts://127.0.0.1:{one.port}/m?ca="
        unknown = told_of(log, f"{address}{other.file}")
        assert unknown.startswith("its certificate is not accepted: ") and "give ca=FILE, the authority that signed it" in unknown
        # In TLS 1.3 the broker's reason may be lost.
        text = told_of(log, f"{address}{authority.file}")
        assert "of ours" in text and text.lower().endswith(
            "give cert=file and key=file, which its administrator knows); asked again until it answers"
        )
        theirs = other.issue("client")
        text = told_of(log, f"{address}{authority.file}&cert={theirs}&key={theirs.with_suffix('.key')}")
        assert f"have its administrator trust the authority that signed {theirs}" in text or f"does it accept {theirs}?" in text
        ours = authority.issue("expired", days=(-10, -1))
        text = told_of(log, f"{address}{authority.file}&cert={ours}&key={ours.with_suffix('.key')}")
        assert text.startswith(f"our certificate {ours} expired on 20") and "(renew it; its files are read again at each try); asked again" in text


def test_files_that_are_replaced_half_way_are_waited_for(authority: Authority) -> None:
    """What cannot be used at the beginning is an error; later its other half may be on its way."""
    ours = authority.issue("client")
    key = ours.with_suffix(".key")
    files = f"ca={authority.file}&cert={ours}&key={key}"
    source = source_of(f"mqtts://127.0.0.1:{free_port()}/m?{files}")
    old = key.read_bytes()
    halves: list[Callable[[], object]] = [
        lambda: (authority.issue("client"), key.write_bytes(old)),
        lambda: ours.write_bytes(ours.read_bytes()[:99]),
        ours.unlink,
    ]
    for half in halves:
        half()
        with pytest.raises(Unavailable, match=r"cannot be read.*its files are read again at each try"):
            asyncio.run(source.open(None))
        with pytest.raises(EnvironmentFault, match=r"client\.pem, .*: cannot be read") as wrong:
            source_of(f"mqtts://127.0.0.1:1/m?{files}")
        assert not isinstance(wrong.value, Unavailable)
    make = client_of(str(authority.file))
    authority.file.write_bytes(authority.file.read_bytes()[:99])
    with pytest.raises(Unavailable, match="cannot be read"):
        make()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (": certificate is not yet valid (_ssl.c:1006)", "its certificate is not valid yet"),
        (
            ": IP address mismatch, certificate is not valid for '::1'. (_ssl.c:1006)",
            "is for another host: IP address mismatch, certificate is not valid for '::1';",
        ),
        (": unable to get local issuer certificate (_ssl.c:1006)", "is not accepted: unable to get local issuer certificate; give sslrootcert=FILE"),
        ("", "is not accepted: certificate verify failed; give sslrootcert=FILE"),
    ],
)
def test_what_libraries_say_as_text_is_understood(text: str, says: str) -> None:
    fault = fault_of_text(f"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed{text}", "sslrootcert")
    assert says in str(fault)
    assert fault_of_text("connection refused", "sslrootcert") is None


def test_the_first_certificate_of_a_chain_is_ours_and_the_last_authority_of_a_list_counts(tmp_path: Path, authority: Authority) -> None:
    ours, gone = authority.issue("client", days=(-1, 99)), authority.issue("gone", days=(-9, -1))
    chain, listed = tmp_path / "chain.pem", tmp_path / "list.pem"
    chain.write_bytes(ours.read_bytes() + gone.read_bytes())
    check_own(str(chain))
    assert "expired" in (expiring(str(chain)) or "")
    (tmp_path / "new").mkdir()
    new = Authority(tmp_path / "new")
    new.issue("ca", days=(-1, 99), host=None)
    listed.write_bytes(authority.file.read_bytes() + new.file.read_bytes())
    assert "expires in" in (expiring(str(authority.file)) or "")
    assert expiring(str(listed)) is None


def test_a_bridge_goes_on_when_certificates_are_renewed_on_disk(log: SqliteLog, tmp_path: Path, authority: Authority) -> None:
    ours, server = authority.issue("client", days=(-10, -1)), authority.issue("server")
    key = ours.with_suffix(".key")
    with broker(tmp_path / "broker", authority.file, server, ["require_certificate true"]) as one:
        source = source_of(f"mqtts://127.0.0.1:{one.port}/m?ca={authority.file}&cert={ours}&key={key}")

        def publish(value: int) -> None:
            files = ["--cafile", str(authority.file), "--cert", str(ours), "--key", str(key)]
            one.publish("m", json.dumps({"value": value}), options=files)

        async def run() -> None:
            async with Bridged(log, source) as bridge:
                await bridge.until(lambda _: any("expired on" in line for line in bridge.told), "our certificate has expired")
                authority.issue("client")
                await bridge.until(lambda _: one.log.count("Sending SUBACK") == 1, "the bridge subscribes")
                await asyncio.to_thread(publish, 1)
                await bridge.until(lambda found: len(found) == 1, "the first message")
                one.end()
                authority.issue("server", days=(-10, -1))
                one.start()
                await bridge.until(lambda _: any("has expired" in line for line in bridge.told), "the broker's certificate has expired")
                one.end()
                renewed = Authority(tmp_path)  # another authority signs all of them anew
                renewed.issue("server")
                renewed.issue("client")
                one.start()
                await bridge.until(lambda _: one.log.count("Sending SUBACK") == 2, "the bridge subscribes again")
                await asyncio.to_thread(publish, 2)
                await bridge.until(lambda found: len(found) == 2, "the second message")

        run_whole(run())
    assert [one["value"] for one in readings(log)] == [1, 2]


# HTTP


class Https:
    """A server with TLS that answers each request with one record, and takes what is posted."""

    def __init__(self, certificate: Path) -> None:
        self.taken: list[bytes] = []
        taken = self.taken

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(b'{"value": 1}')

            def do_POST(self) -> None:
                taken.append(self.rfile.read(int(self.headers["Content-Length"])))
                self._answer(b"")

            def _answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.use(certificate)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.socket = self._context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )  # a client that stands still holds up its own thread only
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def use(self, certificate: Path) -> None:
        self._context.load_cert_chain(certificate, certificate.with_suffix(".key"))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.mark.parametrize(("issued", "says"), THEIRS)
def test_a_wrong_certificate_of_a_server_of_http_is_one_line(log: SqliteLog, authority: Authority, issued: dict[str, Any], says: str) -> None:
    with Https(authority.issue("server", **issued)) as server:
        assert told_of(log, f"https+poll://127.0.0.1:{server.port}/x?ca={authority.file}").startswith(says)


def test_polling_and_posting_go_on_when_certificates_are_renewed(log: SqliteLog, tmp_path: Path, authority: Authority) -> None:
    log.create("out", 1)
    log.append("out", [b'{"a":1}'])
    with Https(authority.issue("server", days=(-10, -1))) as server:
        source = source_of(f"https+poll://127.0.0.1:{server.port}/x?ca={authority.file}&interval=50ms")

        told: list[str] = []
        target = target_of(f"https+out://127.0.0.1:{server.port}/x?ca={authority.file}")

        async def run() -> None:
            async with Bridged(log, source) as bridge:
                with closing(SqliteLog(log.path)) as own, closing(Forward(own, "out", target, "out", told=told.append)) as forward:
                    posting = asyncio.create_task(forward.run(records=1))
                    await bridge.until(lambda _: told and any("has expired" in line for line in bridge.told), "expired")
                    renewed = Authority(tmp_path)
                    server.use(renewed.issue("server"))
                    await bridge.until(lambda found: len(found) >= 1, "a record")
                    await asyncio.wait_for(posting, LIMIT)

        run_whole(run())
        assert [line.partition("/x: ")[2] for line in told] == [f"{EXPIRED}; tried again until it answers"]
        assert server.taken == [b'{"a":1}']


def test_a_receiver_shows_its_renewed_certificate(log: SqliteLog, authority: Authority) -> None:
    cert, port = authority.issue("server"), free_port()
    address = f"https+post://127.0.0.1:{port}/x?token=a%20long%20token&cert={cert}&key={cert.with_suffix('.key')}"

    def shown() -> str:
        with suppress(OSError):
            return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port))).hex()
        return ""

    async def run() -> None:
        async with Bridged(log, source_of(address)) as bridge:
            for _ in range(2):
                expected = ssl.PEM_cert_to_DER_cert(cert.read_text()).hex()
                while await asyncio.to_thread(shown) != expected:
                    await bridge.until(lambda _: True)
                authority.issue("server")

    run_whole(asyncio.wait_for(run(), LIMIT))


def test_what_expires_soon_is_noted_by_check(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    soon, late, gone = authority.issue("soon", days=(-1, 9)), authority.issue("late", days=(-1, 99)), authority.issue("gone", days=(-9, -1))
    assert [expiring(str(one)) is None for one in (soon, late, gone, tmp_path / "none")] == [False, True, False, True]
    Path("headrace.toml").write_text(
        f"[[in]]\nfrom = 'mqtts://h/m?ca={late}&cert={soon}&key={soon.with_suffix('.key')}'\nto = 'a'\n"
        f"[[out]]\nfrom = 'a'\nto = 'https+out://h/x'\nca = '{gone}'\n"
    )
    assert main(["check"]) == 0
    assert [line.partition(" on 20")[0] for line in capsys.readouterr().err.splitlines()] == [
        f"headrace: headrace.toml line 2, column 1: the certificate {soon} expires in 8 days,",
        f"headrace: headrace.toml line 6, column 1: the certificate {gone} expired",
    ]
