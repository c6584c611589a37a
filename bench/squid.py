"""Squid as a row: all to one upstream proxy, TLS opened (ssl-bump) where it is built with OpenSSL.

Debian's `squid` is built with GnuTLS and cannot open TLS; its `squid-openssl` can. SQUID names
another binary than the one in PATH, SQUID_CERTGEN its security_file_certgen.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

USER = "proxy"
CONFIGURATION = """
http_port 127.0.0.1:{port}{bump}
cache_peer 127.0.0.1 parent {upstream} 0 no-query no-digest default
never_direct allow all
http_access allow all
cache deny all
access_log none
cache_log /dev/null
pid_filename none
shutdown_lifetime 0 seconds
"""
BUMP = """
sslcrtd_program {certgen} -s {database} -M 4MB
sslproxy_cert_error allow all
tls_outgoing_options flags=DONT_VERIFY_PEER
ssl_bump bump all
"""


def binary() -> str | None:
    return os.environ.get("SQUID") or shutil.which("squid", path=os.environ["PATH"] + ":/usr/sbin")


@functools.cache
def opens_tls() -> bool:
    found = binary()
    if found is None:
        return False
    done = subprocess.run([found, "-v"], capture_output=True, text=True, check=True)
    return "--with-openssl" in done.stdout


def command(directory: Path, port: int, upstream: int, ca: Path) -> list[str]:
    """Its configuration written, and how it is started in the foreground."""
    found = binary()
    if found is None:
        sys.exit("the row squid needs Squid: apt-get install squid-openssl")
    text, bump = CONFIGURATION, ""
    if opens_tls():
        certgen = os.environ.get("SQUID_CERTGEN", "/usr/lib/squid/security_file_certgen")
        database = directory / "certificates"
        shutil.rmtree(database, ignore_errors=True)
        make = [certgen, "-c", "-s", str(database), "-M", "4MB"]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
        if os.geteuid() == 0:
            for path in (database, *database.rglob("*")):
                shutil.chown(path, USER, USER)
        text += BUMP.format(certgen=certgen, database=database)
        bump = f" ssl-bump generate-host-certificates=on tls-cert={ca}"
    path = directory / "squid.conf"
    path.write_text(text.format(port=port, upstream=upstream, bump=bump))
    return [found, "-N", "-f", str(path)]
