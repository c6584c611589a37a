"""The console command `mitm-forwarder`. A command a file; exit status 2 is a usage or configuration
error, 1 a failure.
"""

from __future__ import annotations

import click

from mitm_forwarder import __version__
from mitm_forwarder.cli.check import check
from mitm_forwarder.cli.demo import demo
from mitm_forwarder.cli.rules import rules
from mitm_forwarder.cli.rules import test
from mitm_forwarder.cli.run import run
from mitm_forwarder.cli.spool import spool


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mitm-forwarder")
def main() -> None:
    """mitmproxy, with an upstream proxy from a FastAPI backend for every request.

    Settings are environment variables, or lines of the file .env in the current directory.
    """


main.add_command(run)
main.add_command(check)
main.add_command(demo)
main.add_command(spool)
main.add_command(test)
main.add_command(rules)
