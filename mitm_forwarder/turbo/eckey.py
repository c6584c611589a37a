"""A new certificate authority gets an elliptic-curve key.

Replaces `certs.create_ca` for the time before a CA exists: P-256 in place of RSA-2048, which signs
each new TLS connection in a fraction of the instructions (mitmproxy's leaf certificates use the
CA's key). An existing CA stays what it is, and so does a user's own `key_size`.

Clients can tell, by the key in the certificate that they install; everything that validates
certificates has known P-256 for a decade. Hence by the launcher only.
"""

from __future__ import annotations

import types
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from mitmproxy import certs

from .cut import Cut
from .cut import Undo

DEFAULT_KEY_SIZE = 2048
CURVE = types.SimpleNamespace(
    generate_private_key=lambda **_: ec.generate_private_key(ec.SECP256R1())
)


def _install() -> Undo:
    stock = certs.create_ca
    namespace: Any = certs

    def create_ca(organization: str, cn: str, key_size: int) -> Any:
        if key_size != DEFAULT_KEY_SIZE:
            return stock(organization, cn, key_size)
        rsa = namespace.rsa
        namespace.rsa = CURVE
        try:
            return stock(organization, cn, key_size)
        finally:
            namespace.rsa = rsa

    certs.create_ca = create_ca

    def undo() -> None:
        certs.create_ca = stock

    return undo


CUT = Cut(
    name="eckey",
    safe=False,
    replaces=("mitmproxy.certs:create_ca", "mitmproxy.certs:CertStore.create_store"),
    sources={"b81b2063311c4172": "10.1.5 to 12.1.2", "a736e01bf80d4b12": "12.2.3 and 12.3.1"},
    install=_install,
)
