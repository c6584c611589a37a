"""`python -m mitm_forwarder`: the console command, where no script was installed."""

from mitm_forwarder.cli import main

main(prog_name="mitm-forwarder")
