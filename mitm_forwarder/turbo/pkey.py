"""The key and certificate of a TLS server turned into OpenSSL's objects once, not per connection.

Replaces the two class methods of pyOpenSSL by which `TlsConfig.tls_start_client` hands them over:
each exports to DER and parses again, and a new RSA object blinds anew at its first signature. Most
connections of a gateway use the same key, and few certificates.

Nobody can tell the difference: cryptography's keys and certificates are immutable, and OpenSSL
counts references to what it is given. (Only a caller who changes an object that these methods gave
out would change it for others; nobody does, they are deprecated for that reason.) Bounded, and each
entry keeps its source alive, so an address is never taken for another object.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from OpenSSL import crypto

from .cut import Cut
from .cut import Undo

KEYS_MAX = 64
CERTIFICATES_MAX = 1024


def remember(convert: Callable[[Any], Any], limit: int) -> Any:
    """A class method that calls `convert` once for each object, for the latest `limit` of them."""
    known: dict[int, tuple[Any, Any]] = {}

    def converted(cls: type, source: Any) -> Any:
        entry = known.get(id(source))
        if entry is None:
            entry = (source, convert(source))
            if len(known) >= limit:
                del known[next(iter(known))]
            known[id(source)] = entry
        return entry[1]

    return classmethod(converted)


def _install() -> Undo:
    places: tuple[tuple[Any, str, int], ...] = (
        (crypto.PKey, "from_cryptography_key", KEYS_MAX),
        (crypto.X509, "from_cryptography", CERTIFICATES_MAX),
    )
    stock = [cls.__dict__[name] for cls, name, _ in places]
    for cls, name, limit in places:
        setattr(cls, name, remember(getattr(cls, name), limit))

    def undo() -> None:
        for (cls, name, _), original in zip(places, stock, strict=True):
            setattr(cls, name, original)

    return undo


CUT = Cut(
    name="pkey",
    safe=True,
    replaces=("mitmproxy.addons.tlsconfig:TlsConfig.tls_start_client",),
    sources={
        "8ad5ce27cd8aece2": "10.1.5 and 10.4.2",
        "1ba490f03c33b912": "11.0.2 and 11.1.3",
        "4b7f548db9840280": "12.0.1 and 12.1.2",
        "05334c27c22a10ed": "12.2.3",
        "d3093c897eeafc2f": "12.3.1",
    },
    install=_install,
)
