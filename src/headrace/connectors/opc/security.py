"""Secure channels: which policy, whose certificates, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from asyncua import Client, ua
from asyncua.crypto import security_policies, uacrypto
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256

from headrace.connectors.address import Address
from headrace.connectors.certificates import check_own
from headrace.connectors.protocol import Unavailable
from headrace.errors import EnvironmentFault, PlanError

__all__ = ["PARAMETERS", "Security", "offers"]

PARAMETERS = ("security", "policy", "certificate", "key", "server_certificate")
_POLICIES = {
    "Basic256Sha256": security_policies.SecurityPolicyBasic256Sha256,
    "Aes128Sha256RsaOaep": security_policies.SecurityPolicyAes128Sha256RsaOaep,
    "Aes256Sha256RsaPss": security_policies.SecurityPolicyAes256Sha256RsaPss,
}
_MODES = {"Sign": ua.MessageSecurityMode.Sign, "SignAndEncrypt": ua.MessageSecurityMode.SignAndEncrypt}
_ANY = "any"


@dataclass(frozen=True)
class Security:
    """How messages are signed and encrypted.

    Attributes
    ----------
    mode
        None, Sign or SignAndEncrypt.
    policy
        The name of the policy.
    certificate, key
        Files of our own, PEM or DER.
    server_certificate
        The file of the certificate that the server must have; `any`: it may have any.
    """

    mode: str = "None"
    policy: str = "Basic256Sha256"
    certificate: str = ""
    key: str = ""
    server_certificate: str = ""

    @classmethod
    def of(cls, address: Address) -> Security:
        """Return what an address says. Raises PlanError if files are missing in it."""
        mode = address.choice("security", ("None", *_MODES))
        policy = address.choice("policy", _POLICIES)
        files = {name: address.get(name) for name in ("certificate", "key", "server_certificate")}
        for name, file in files.items():
            if mode != "None" and file is None:
                fix = "any is possible too, and protects from no impostor" if name == "server_certificate" else f"{name}=FILE.pem"
                raise PlanError(f"security={mode} needs the parameter {name}", where=address.where, fix=f"give it: {fix}")
            if mode == "None" and file is not None:
                raise PlanError(f"parameter {name} is only for a secure channel", where=address.where, fix="add security=SignAndEncrypt")
        return cls(mode, policy, *(file or "" for file in files.values()))

    async def apply(self, client: Client, server: str) -> None:
        """Prepare a client that is not connected yet, by the files as they are now.

        Raises
        ------
        PlanError, EnvironmentFault
            If a certificate is wrong.
        Unavailable
            If one is not valid now.
        """
        if self.mode == "None":
            return
        own, key = _certificate(self.certificate, "certificate"), _key(self.key)
        if own.public_key() != key.public_key():
            raise PlanError(f"does not belong to the certificate {self.certificate}", where=self.key, fix="give the key with which it was made")
        check_own(self.certificate)
        endpoints = await client.connect_and_get_server_endpoints()
        policy = _POLICIES[self.policy]
        try:
            endpoint = Client.find_endpoint(endpoints, _MODES[self.mode], policy.URI)
        except ua.UaError:
            what = f"does not offer security={self.mode} with policy={self.policy}"
            raise PlanError(what, where=server, fix=f"it offers {offers(endpoints)}") from None
        offered = uacrypto.x509_from_der(endpoint.ServerCertificate)
        if self.server_certificate != _ANY:
            pinned = _certificate(self.server_certificate, "server_certificate")
            if pinned != offered:
                fingerprint = offered.fingerprint(SHA256()).hex(":")
                what = f"has another certificate than {self.server_certificate}: SHA-256 {fingerprint}"
                raise PlanError(what, where=server, fix="if its administrator confirms this, store the new one in that file")
            _check_dates(offered)
        names = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value if _has_names(own) else None
        uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []
        client.application_uri = uris[0] if uris else client.application_uri
        der = uacrypto.CertProperties(uacrypto.der_from_x509(offered), "der")
        ours = uacrypto.CertProperties(uacrypto.der_from_x509(own), "der")
        pem = uacrypto.CertProperties(uacrypto.pem_from_key(key), "pem")
        await client.set_security(policy, ours, pem, server_certificate=der, mode=_MODES[self.mode])


def offers(endpoints: Sequence[ua.EndpointDescription]) -> str:
    """Return what a server offers, as parameters of an address."""
    found = {
        f"security={one.SecurityMode.name.removesuffix('_')}"
        + ("" if one.SecurityMode == ua.MessageSecurityMode.None_ else f"&policy={one.SecurityPolicyUri.rpartition('#')[2].replace('_', '')}")
        for one in endpoints
    }
    return ", ".join(sorted(found)) or "no endpoint"


def _has_names(certificate: x509.Certificate) -> bool:
    return any(one.oid == x509.SubjectAlternativeName.oid for one in certificate.extensions)


def _read(path: str, parameter: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise EnvironmentFault(f"cannot be read: {what}", where=path, fix=f"give the file of {parameter}") from None


def _certificate(path: str, parameter: str) -> x509.Certificate:
    data = _read(path, parameter)
    try:
        return x509.load_pem_x509_certificate(data) if b"-----BEGIN" in data else x509.load_der_x509_certificate(data)
    except ValueError:
        raise PlanError("is not a certificate", where=path, fix="give an X.509 certificate, as PEM or DER") from None


def _key(path: str) -> PrivateKeyTypes:
    data = _read(path, "key")
    load = serialization.load_pem_private_key if b"-----BEGIN" in data else serialization.load_der_private_key
    try:
        return load(data, None)
    except (ValueError, TypeError):
        raise PlanError("is not a private key without a password", where=path, fix="give an RSA key, as PEM or DER") from None


def _check_dates(certificate: x509.Certificate) -> None:
    """Raise Unavailable if the server's certificate is not valid now: another may be there at the next try."""
    now = datetime.now(UTC)
    if certificate.not_valid_after_utc < now:
        fix = "its administrator has to renew it; store the new one in the file of server_certificate"
        raise Unavailable(f"its certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d}", fix=fix)
    if certificate.not_valid_before_utc > now:
        what = f"its certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d} only"
        raise Unavailable(what, fix="is this machine's clock right?")
