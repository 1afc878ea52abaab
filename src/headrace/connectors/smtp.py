"""Mail: records as messages, by SMTP. `smtp://…` with STARTTLS, `smtps://…` with TLS from the start."""

from __future__ import annotations

import asyncio
import re
import smtplib
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from headrace.connectors.address import Address
from headrace.connectors.certificates import context_again, context_of, fault_of_certificate
from headrace.connectors.halving import sent
from headrace.connectors.objects import object_of
from headrace.connectors.protocol import Record, Target, Unavailable
from headrace.errors import PlanError

__all__ = ["Mail", "target"]

_EXAMPLE = "smtp://plant:${MAIL_PASSWORD}@mail.plant.local?from=headrace@plant.local&to=shift@plant.local"
_KNOWN = ("to", "from", "subject", "batch", "tls", "ca", "timeout")
_MAILBOX = re.compile(r"[^@\s<>\",;:\\]+@[^@\s<>\",;:\\]+", re.ASCII)
_FIELD = re.compile(r"\{([^{}]+)\}")
_SUBJECT = 200


class Server(NamedTuple):
    """Where mail is handed in. `tls` is `starttls`, `tls` or `none`."""

    host: str
    port: int
    tls: str
    ca: str | None
    user: str | None
    password: str
    timeout: float


class _Fields(NamedTuple):
    record: Record
    fields: Mapping[str, Any]


def target(address: str) -> Mail:
    """Return what mails records to the recipients of an address `smtp://user:password@host:port?from=…&to=…`.

    Raises
    ------
    PlanError
        If the address is wrong.
    EnvironmentFault
        If a secret or a certificate is not there.
    """
    one = Address(address, _KNOWN, _EXAMPLE, "TO")
    if one.scheme not in {"smtp", "smtps"} or one.host is None or one.path not in {"", "/"}:
        raise one.wrong("is not the address of a mail server")
    to = one.names("to")
    if to is None:
        raise one.wrong("names no recipient: parameter to")
    sender = one.get("from") or (one.user if one.user and "@" in one.user else None)
    if sender is None:
        raise one.wrong("names no sender: parameter from")
    for name, mailbox in (("from", sender), *(("to", mailbox) for mailbox in to)):
        if not _MAILBOX.fullmatch(mailbox):
            raise PlanError(f"parameter {name} is {mailbox!r}", where="TO", fix="give addresses such as shift@plant.local")
    server = _server(one, one.host)
    name = f"{one.scheme}://{one.host}:{server.port}?to={','.join(to)}"
    return Mail(name, server, sender, to, one.get("subject") or "{topic}", int(one.number("batch", 100, 1, 1000)))


def _server(one: Address, host: str) -> Server:
    tls = "tls" if one.scheme == "smtps" else one.choice("tls", ["starttls", "none"])
    if one.scheme == "smtps" and one.get("tls") is not None:
        raise PlanError("parameter tls is for smtp://", where="TO", fix="leave it out: smtps:// has TLS from the start")
    if tls == "none" and one.user is not None:
        raise PlanError("has a password, and no TLS to keep it secret", where="TO", fix="leave tls=none out, or the user")
    port = one.port or (465 if tls == "tls" else 25 if one.user is None else 587)
    if tls != "none":
        context_of(one.get("ca"))
    return Server(host, port, tls, one.get("ca"), one.user, one.password or "", one.seconds("timeout", 30.0, 0.1))


class Mail(Target):
    """Mails records, those that are sent together in one message.

    Parameters
    ----------
    name
        The address without secrets.
    server
        Where messages are handed in.
    sender, to
        Addresses of the sender and the recipients.
    subject
        `{field}` in it is that of the first record, `{topic}` its topic.
    most_records
        How many records a message has, at most.
    """

    def __init__(self, name: str, server: Server, sender: str, to: Sequence[str], subject: str, most_records: int) -> None:
        self.name, self._server, self._sender, self._to = name, server, sender, to
        self._subject, self.most_records = subject, most_records

    async def send(self, records: Sequence[Record]) -> Mapping[int, str] | None:
        """Mail records, and return when the server has taken the message. Of one that it refuses the halves are mailed.

        Raises
        ------
        Unavailable
            If the server cannot be reached, its certificate is not accepted, or it cannot take mail now.
        PlanError
            If it takes no mail of ours: password, sender or a recipient are refused.
        """
        return await sent(records, _fields, self._mail)

    async def _mail(self, records: Sequence[_Fields]) -> str | None:
        """Mail records in one message, and return why the server refuses it; None if it takes it."""
        return await asyncio.to_thread(self._hand_in, self.message(records).as_bytes())

    def message(self, records: Sequence[_Fields]) -> EmailMessage:
        """Return the message. Its id is the same at each try, so that mail systems which know ids deliver a repetition once."""
        first, more = records[0], len(records) - 1
        names = {"topic": first.record.topic, **first.fields}
        subject = " ".join(_FIELD.sub(lambda found: _text(names.get(found[1])), self._subject).split())[:_SUBJECT]
        made = EmailMessage(policy=SMTP)
        made["From"], made["To"] = self._sender, ", ".join(self._to)
        made["Subject"] = f"{subject} (and {more} more)" if more else subject
        made["Date"] = formatdate(localtime=True)
        made["Message-ID"] = f"<{sha256(chr(10).join(one.record.id for one in records).encode()).hexdigest()[:40]}@headrace>"
        made["Auto-Submitted"] = "auto-generated"
        made.set_content("\n\n".join("\n".join(_lines(one.fields)) for one in records) + "\n")
        return made

    def _hand_in(self, content: bytes) -> str | None:
        with self._connected() as client:
            for mailbox, step in ((self._sender, client.mail), *((one, client.rcpt) for one in self._to)):
                code, said = step(mailbox)
                if code >= 400:
                    raise self._refused(code, said, f"check {mailbox}")
            try:
                code, said = client.data(content)
            except smtplib.SMTPDataError as error:  # it does not even want to see it
                code, said = error.smtp_code, error.smtp_error if isinstance(error.smtp_error, bytes) else error.smtp_error.encode()
            if code >= 500:
                return f"the server answers {code} {_said(said)}"
            if code >= 400:
                raise Unavailable(f"answers {code} {_said(said)}")
            return None

    @contextmanager
    def _connected(self) -> Iterator[smtplib.SMTP]:
        """Give a client that may hand in mail."""
        server, client = self._server, None
        try:
            client = self._client()
            if server.tls == "starttls":
                client.starttls(context=context_again(server.ca))
            if server.user is not None:
                client.login(server.user, server.password)
            client.ehlo_or_helo_if_needed()
            yield client
            with suppress(smtplib.SMTPException, OSError):  # what it took, it has
                client.quit()
        except smtplib.SMTPNotSupportedError as error:
            fix = "let the server offer STARTTLS, or give tls=none for mail without a password" if server.tls == "starttls" else "leave the user out"
            raise PlanError(f"does not offer what is needed: {error}", where=self.name, fix=fix) from None
        except smtplib.SMTPResponseException as error:
            raise self._refused(error.smtp_code, error.smtp_error, "check the user, and the password that the address names") from None
        except ssl.SSLCertVerificationError as error:
            raise fault_of_certificate(error) or Unavailable(f"cannot be reached: {error}") from None
        except (smtplib.SMTPException, OSError) as error:
            raise Unavailable(f"cannot be reached: {getattr(error, 'strerror', None) or error}") from None
        finally:
            if client is not None:
                client.close()

    def _client(self) -> smtplib.SMTP:
        server, ours = self._server, socket.gethostname()  # without a look-up of the domain, which may take long
        if server.tls == "tls":
            return smtplib.SMTP_SSL(server.host, server.port, ours, timeout=server.timeout, context=context_again(server.ca))
        return smtplib.SMTP(server.host, server.port, ours, timeout=server.timeout)

    def _refused(self, code: int, said: bytes | str, fix: str) -> PlanError | Unavailable:
        """Return the error of an answer: for now, or for good."""
        answers = f"answers {code} {_said(said)}"
        return PlanError(answers, where=self.name, fix=fix) if code >= 500 else Unavailable(answers)


def _fields(record: Record) -> _Fields:
    return _Fields(record, object_of(record.value))


def _lines(fields: Mapping[str, Any]) -> Iterator[str]:
    for name, value in fields.items():
        if value is not None:
            yield f"{' '.join(name.split())}: {_text(value)}"


def _text(value: Any) -> str:  # noqa: ANN401  (a value of JSON)
    if value is None:
        return ""
    return " ".join(value.split()) if isinstance(value, str) else msgspec.json.encode(value).decode()


def _said(text: bytes | str) -> str:
    return " ".join((text.decode(errors="replace") if isinstance(text, bytes) else text).split())[:200]
