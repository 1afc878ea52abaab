"""Certificates of TLS: the files that are used, whose fault it is that one is not accepted, and until when those in files are valid."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from headrace.connectors.protocol import Unavailable
from headrace.errors import EnvironmentFault

__all__ = ["check_own", "context_again", "context_of", "expiring", "fault_of_certificate", "fault_of_text", "fault_of_tls"]

_EXPIRED, _NOT_YET, _OTHER_HOST = {10, 12}, {9, 11}, {62, 64}  # X509_V_ERR of OpenSSL: also of lists of revoked certificates, and of hosts and IPs
_WARN_DAYS = 30
_CLOCK = "is this machine's clock right?"
_REREAD = "its files are read again at each try"
_REFUSED = re.compile(r"certificate verify failed(?:: ([^(]*[^(\s.]))?|CERTIFICATE_VERIFY_FAILED(?!\] certificate)")  # as OpenSSL says it


def context_of(ca: str | None, certificate: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """Return how a client speaks TLS, by the files as they are now; without `ca` the system's authorities are accepted.

    Raises
    ------
    EnvironmentFault
        If a file cannot be used.
    """
    file = ca
    try:
        context = ssl.create_default_context(cafile=ca)
        if certificate is not None:
            file = f"{certificate}, {key or 'no key'}"
            context.load_cert_chain(certificate, key, password="")  # without one OpenSSL would ask on the terminal
    except ssl.SSLError as error:
        what = error.reason.replace("_", " ").lower() if error.reason else "is not PEM, or has a password"
        raise EnvironmentFault(f"cannot be read: {what}", where=str(file), fix="give files in PEM's form, without a password") from None
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise EnvironmentFault(f"cannot be read: {what}", where=str(file), fix="name a file that this user may read") from None
    return context


def context_again(ca: str | None, certificate: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """Return the context of files that could be used before. Raises Unavailable where they cannot be now: they may be being replaced."""
    try:
        return context_of(ca, certificate, key)
    except EnvironmentFault as fault:
        raise Unavailable(f"{fault.where} {fault.what}", fix=_REREAD) from None


def fault_of_tls(error: BaseException, ours: str | None = None) -> Unavailable | None:
    """Return what an error, or one that caused it, says of certificates; None if it says nothing of them.

    Trying again may help, because certificates are renewed: at the server, or in the files that an address names.

    Parameters
    ----------
    ours
        The file of our own certificate, if we have one.
    """
    found = next((one for one in _chain(error) if isinstance(one, ssl.SSLError)), None)
    return None if found is None else fault_of_certificate(found, ours)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__ or error.__context__


def fault_of_certificate(error: ssl.SSLError, ours: str | None = None) -> Unavailable | None:
    """Return what an error of TLS says of certificates; None if it says nothing of them."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _of_theirs(error.verify_code, error.verify_message.rstrip("."))
    said = (error.reason or str(error)).replace("_", " ").lower()
    if "alert" not in said or not ("certificate" in said or "unknown ca" in said):
        return None
    if "required" in said or ours is None:
        return Unavailable("asks for a certificate of ours", fix="give cert=FILE and key=FILE, which its administrator knows")
    why = said.partition("alert ")[2]
    fix = f"renew {ours}; {_REREAD}" if "expired" in why else f"have its administrator trust the authority that signed {ours}, or give another cert="
    return Unavailable(f"does not accept our certificate {ours}: {why}", fix=fix)


def fault_of_text(text: str, ca: str) -> Unavailable | None:
    """Return what the text of a library's error says of the server's certificate; `ca` is the parameter that names its authority."""
    if (found := _REFUSED.search(text)) is None:
        return None
    said = found[1] or "certificate verify failed"
    words = {"expired": 10, "not yet valid": 9, "mismatch": 62}
    return _of_theirs(next((code for word, code in words.items() if word in said), 0), said, ca)


def _of_theirs(code: int, said: str, ca: str = "ca") -> Unavailable:
    if code in _EXPIRED:
        return Unavailable("its certificate, or that of its authority, has expired", fix=f"its administrator has to renew it; {_CLOCK}")
    if code in _NOT_YET:
        return Unavailable("its certificate is not valid yet", fix=f"{_CLOCK} It shows {datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    if code in _OTHER_HOST:
        return Unavailable(f"its certificate is for another host: {said}", fix="give the host that it names, or have its administrator add this one")
    return Unavailable(f"its certificate is not accepted: {said}", fix=f"give {ca}=FILE, the authority that signed it; {_REREAD}")


def check_own(path: str) -> None:
    """Raise Unavailable if our own certificate, the first of a file, is not valid now.

    The other side may only close the connection then, without a word. Of the others in the file it may need none.
    """
    if not (found := _validity(path)):
        return
    (first, last, _), now = found[0], datetime.now(UTC)
    if last < now:
        raise Unavailable(f"our certificate {path} expired on {last:%Y-%m-%d}", fix=f"renew it; {_REREAD}")
    if first > now:
        raise Unavailable(f"our certificate {path} is valid from {first:%Y-%m-%d} only", fix=_CLOCK)


def expiring(path: str) -> str | None:
    """Return what is to be said of a file whose certificate expires soon, or has expired; None if there is nothing to say.

    Of a chain the first to expire counts, of a list of authorities the last: when one is replaced, both are in the file for a time.
    """
    if not (found := _validity(path)):
        return None
    ends = [last for _, last, _ in found]
    last = max(ends) if all(own for _, _, own in found) else min(ends)
    if (days := (last - datetime.now(UTC)).days) >= _WARN_DAYS:
        return None
    return f"the certificate {path} {'expired' if days < 0 else f'expires in {days} days,'} on {last:%Y-%m-%d}"


def _validity(path: str) -> list[tuple[datetime, datetime, bool]]:
    """Return from when until when the certificates of a file are valid, and whether each has signed itself; none if it cannot be read."""
    try:
        from cryptography import x509
    except ModuleNotFoundError:  # a connector that needs none is installed alone
        return []
    try:
        data = Path(path).read_bytes()
        found = x509.load_pem_x509_certificates(data) if b"-----BEGIN" in data else [x509.load_der_x509_certificate(data)]
        return [(one.not_valid_before_utc, one.not_valid_after_utc, one.issuer == one.subject) for one in found]
    except (OSError, ValueError, x509.InvalidVersion):
        return []
