"""A certificate authority that lives as long as a process, and a TLS context signed by it."""

from __future__ import annotations

import ipaddress
import ssl
import tempfile
from collections.abc import Iterable
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

CA_NAME = "Example target CA"
_USES = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment"]
_USES += ["key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]


def make_tls(names: Iterable[str], ca_file: Path) -> ssl.SSLContext:
    """A server context with a new certificate for the names; its CA's goes to `ca_file`."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = _certificate(CA_NAME, ca_key, ca_key, None)
    certificate = _certificate("Example target", key, ca_key, list(names))
    ca_file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    # The ssl module takes keys from files only; the directory is ours alone and gone at once.
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "target.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context.load_cert_chain(path)
    return context


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    names: list[str] | None,
) -> x509.Certificate:
    """A certificate for the names, or a CA's if there are none."""
    is_ca, now, use = names is None, datetime.now(UTC), dict.fromkeys(_USES, False)
    use |= {"key_cert_sign": True, "crl_sign": True} if is_ca else {"digital_signature": True}
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, CA_NAME)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**use), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(authority, critical=False)
    )
    if names is not None:
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
        builder = builder.add_extension(alternatives, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
