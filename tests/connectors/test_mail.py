"""Mail: one message for what is sent together, again while the server cannot take it, and set aside if it refuses it."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable
from contextlib import closing
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from outside import LIMIT, told_while_away, values_of

from broker import authority, signed
from headrace.cli import main
from headrace.connectors.forward import Forward
from headrace.connectors.smtp import target
from headrace.errors import EnvironmentFault, PlanError
from headrace.topics.sqlite import SqliteLog
from ports import free_port

smtp = pytest.importorskip("aiosmtpd.smtp", reason="the package aiosmtpd is not installed")

pytestmark = pytest.mark.usefixtures("quick")
FROM_TO = "from=headrace@plant.local&to=shift@plant.local,boss@plant.local"
ALARMS = [{"alarm_id": f"north/TI-{number}/H", "to": "unacknowledged", "value": 91.5, "limit": None, "evidence": [0, number]} for number in range(3)]


class Box:
    """What a server of mail does with recipients and messages, and what it has taken."""

    def __init__(self, rcpt: Callable[[str], str] = lambda _: "250 OK", data: Callable[[bytes], str] = lambda _: "250 OK") -> None:
        self.taken: list[EmailMessage] = []
        self.asked = 0
        self._rcpt, self._data = rcpt, data

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any) -> str:  # noqa: N802  (aiosmtpd's name)
        answer = self._rcpt(address)
        if answer.startswith("2"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        self.asked += 1
        answer = self._data(envelope.content)
        if answer == "cut":
            server.transport.abort()
        elif answer.startswith("2"):
            assert envelope.rcpt_tos == ["shift@plant.local", "boss@plant.local"]
            self.taken.append(message_from_bytes(envelope.content, policy=default))
        return answer


def fill(log: SqliteLog, records: list[Any]) -> None:
    log.create("alarms", 1)
    log.append("alarms", [one if isinstance(one, bytes) else json.dumps(one).encode() for one in records])


def run(
    log: SqliteLog, address: str, box: Box, tell: Callable[[str], object] | None = None, *, tls: ssl.SSLContext | None = None, **options: Any
) -> list[str]:
    """Send the topic to a server, which has the port of the address, and return what was told."""
    told: list[str] = []

    async def send() -> None:
        serve = partial(smtp.SMTP, box, hostname="mail.plant.local", **options)
        server = await asyncio.get_running_loop().create_server(serve, "127.0.0.1", 0, ssl=tls)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with closing(Forward(log, "alarms", target(address.format(port=port)), "f", latest=True, told=tell or told.append)) as one:
                await one.run()

    asyncio.run(asyncio.wait_for(send(), LIMIT))
    return told


def body(message: EmailMessage) -> str:
    return str(message.get_content()).replace("\r\n", "\n")


def dead(log: SqliteLog) -> list[dict[str, Any]]:
    return [json.loads(one) for one in values_of(log, "alarms.dead-letter")]


@pytest.fixture
def certified(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's certificate of 127.0.0.1, and its authority's."""
    ca = authority(tmp_path, "ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*signed(tmp_path, ca, "server"))
    return context, ca


def password(_server: Any, _session: Any, _envelope: Any, _mechanism: str, given: Any) -> Any:
    return smtp.AuthResult(handled=False, success=(given.login, given.password) == (b"plant", b"s3cret ?"))


def test_records_that_are_sent_together_are_one_message(log: SqliteLog) -> None:
    fill(log, ALARMS)
    box = Box()
    assert run(log, f"smtp://127.0.0.1:{{port}}?tls=none&{FROM_TO}&subject={{{{alarm_id}}}}%20is%20{{{{to}}}}%20({{{{topic}}}}{{{{no}}}})", box) == []
    (one,) = box.taken
    assert one["Subject"] == "north/TI-0/H is unacknowledged (alarms) (and 2 more)"
    assert (one["From"], one["To"]) == ("headrace@plant.local", "shift@plant.local, boss@plant.local")
    assert one["Auto-Submitted"] == "auto-generated"
    lines = body(one).split("\n\n")
    assert lines[0] == "alarm_id: north/TI-0/H\nto: unacknowledged\nvalue: 91.5\nevidence: [0,0]"
    assert len(lines) == 3


def test_a_message_has_so_many_records_and_the_same_id_at_each_try(log: SqliteLog) -> None:
    fill(log, ALARMS)
    answers = iter(["cut", "451 try later", "250 OK", "cut", "250 OK"])
    ids: list[str] = []

    def data(content: bytes) -> str:
        ids.append(message_from_bytes(content, policy=default)["Message-ID"])
        return next(answers)

    box = Box(data=data)
    run(log, f"smtp://127.0.0.1:{{port}}?tls=none&batch=2&{FROM_TO}", box)
    assert [one["Subject"] for one in box.taken] == ["alarms (and 1 more)", "alarms"]
    assert ids[0] == ids[1] == ids[2] != ids[3] == ids[4]


def test_a_server_that_cannot_take_mail_now_is_waited_for(log: SqliteLog) -> None:
    fill(log, ALARMS)
    answers = iter(["450 mailbox busy", "250 OK"])
    box = Box(rcpt=lambda _: next(answers, "250 OK"))
    (told,) = run(log, f"smtp://127.0.0.1:{{port}}?tls=none&{FROM_TO}", box)
    assert "answers 450 mailbox busy" in told
    assert len(box.taken) == 1


def test_a_recipient_that_is_refused_ends_the_bridge_before_anyone_has_the_mail(log: SqliteLog) -> None:
    fill(log, ALARMS)
    box = Box(rcpt=lambda address: "550 no such user" if address.startswith("boss") else "250 OK")
    with pytest.raises(PlanError, match="answers 550 no such user") as caught:
        run(log, f"smtp://127.0.0.1:{{port}}?tls=none&{FROM_TO}", box)
    assert caught.value.fix == "check boss@plant.local"
    assert box.asked == 0


def test_a_message_that_is_refused_is_halved_and_a_record_alone_set_aside(log: SqliteLog) -> None:
    fill(log, ALARMS)
    box = Box(data=lambda content: "552 too\tbig" if content.count(b"alarm_id") > 2 or b"TI-1" in content else "250 OK")
    run(log, f"smtp://127.0.0.1:{{port}}?tls=none&{FROM_TO}", box)
    assert [body(message).splitlines()[0] for message in box.taken] == ["alarm_id: north/TI-0/H", "alarm_id: north/TI-2/H"]
    (letter,) = dead(log)
    assert (letter["offset"], letter["detail"]) == (1, "the server answers 552 too big")


def test_what_is_no_object_is_set_aside_and_nothing_in_a_record_becomes_a_header(log: SqliteLog) -> None:
    odd = {"x": "a\r\nBcc: thief@elsewhere.net\n\nbody", "Bcc: b\r\n": "ü\u0000\u2028😀", ".": "."}
    fill(log, [b"[1]", odd, b'{"x": "\\ud800"}', b"no"])
    box = Box()
    run(log, f"smtp://127.0.0.1:{{port}}?tls=none&{FROM_TO}&subject={{{{x}}}}{{{{Bcc:%20b}}}}", box)
    (one,) = box.taken
    assert one["Bcc"] is None
    assert one["Subject"].startswith("a Bcc: thief@elsewhere.net body")
    assert "Bcc: b: ü\u0000 😀" in body(one)
    assert [letter["offset"] for letter in dead(log)] == [0, 2, 3]


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_password_goes_over_tls(log: SqliteLog, certified: tuple[ssl.SSLContext, Path], scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIL_PASSWORD", "s3cret ?")
    context, ca = certified
    fill(log, ALARMS)
    box, given = Box(), []

    def signed_in(*asked: Any) -> Any:
        given.append(asked)
        return password(*asked)

    # aiosmtpd does not see that a connection has TLS from its start.
    starttls = {"tls_context": context, "require_starttls": True, "auth_required": True}
    how: dict[str, Any] = starttls if scheme == "smtp" else {"tls": context, "auth_require_tls": False}
    address = f"{scheme}://plant:${{{{MAIL_PASSWORD}}}}@127.0.0.1:{{port}}?{FROM_TO}&ca={ca}"
    assert run(log, address, box, authenticator=signed_in, **how) == []
    assert len(box.taken) == len(given) == 1
    assert "s3cret" not in target(address.format(port=25)).name


def test_what_a_server_refuses_is_one_line(log: SqliteLog, certified: tuple[ssl.SSLContext, Path]) -> None:
    context, ca = certified
    fill(log, ALARMS)
    starttls: dict[str, Any] = {"tls_context": context, "authenticator": password}
    with pytest.raises(PlanError, match="answers 535"):
        run(log, f"smtp://plant:wrong@127.0.0.1:{{port}}?{FROM_TO}&ca={ca}", Box(), **starttls)
    with pytest.raises(PlanError, match="STARTTLS") as plain:
        run(log, f"smtp://127.0.0.1:{{port}}?{FROM_TO}", Box())
    assert "tls=none" in (plain.value.fix or "")


def test_an_authority_that_is_replaced_on_disk_is_read_again(log: SqliteLog, certified: tuple[ssl.SSLContext, Path], tmp_path: Path) -> None:
    context, ca = certified
    (tmp_path / "other").mkdir()
    fill(log, ALARMS)
    box, told = Box(), list[str]()
    mine = tmp_path / "mine.pem"
    mine.write_bytes(authority(tmp_path / "other", "other").read_bytes())

    def tell(line: str) -> None:
        told.append(line)
        mine.write_bytes(ca.read_bytes())

    run(log, f"smtp://127.0.0.1:{{port}}?{FROM_TO}&ca={mine}", box, tell, tls_context=context)
    assert len(told) == 1
    assert "its certificate is not accepted: " in told[0]
    assert len(box.taken) == 1


def test_a_server_that_is_away_is_waited_for(log: SqliteLog) -> None:
    fill(log, ALARMS)
    (told,) = told_while_away(log, "alarms", target(f"smtp://127.0.0.1:{free_port()}?tls=none&{FROM_TO}"))
    assert "cannot be reached: Connection refused" in told


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("smtp://h?from=a@b", "names no recipient"),
        ("smtp://h?to=a@b", "names no sender"),
        ("smtp://h/inbox?to=a@b&from=a@b", "is not the address of a mail server"),
        ("smtp:?to=a@b&from=a@b", "is not the address of a mail server"),
        ("smtp://h?to=a@b,,c@d&from=a@b", "parameter to"),
        ("smtp://h?to=shift&from=a@b", "parameter to is 'shift'"),
        ("smtp://h?to=a@b&from=x%0A@b", "parameter from"),
        ("smtp://u:p@h?to=a@b&from=a@b&tls=none", "no TLS"),
        ("smtps://h?to=a@b&from=a@b&tls=none", "parameter tls is for smtp://"),
        ("smtp://h?to=a@b&from=a@b&batch=0", "parameter batch"),
        ("smtp://h?to=a@b&from=a@b&cc=x", "has no parameter 'cc'"),
        ("smtp://h?to=a@b&from=a@b&ca=nowhere.pem", "cannot be read"),
        ("smtp://u:${NO_SUCH}@h?to=a@b&from=a@b", "NO_SUCH is not set"),
    ],
)
def test_an_address_that_is_wrong(address: str, said: str) -> None:
    with pytest.raises((PlanError, EnvironmentFault), match=said.replace("$", r"\$")):
        target(address)


def test_the_command_line_mails_a_topic(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bridge", "topic:alarms", "smtp://127.0.0.1:1?to=a@b"]) == 2
    assert capsys.readouterr().err.startswith("headrace: TO: names no sender: parameter from; give an address such as smtp://")
