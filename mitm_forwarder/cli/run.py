"""`mitm-forwarder run`: mitmdump with the addon, in this process.

It differs from `mitmdump -s …` in three things: nothing is listened on before the configuration is
known to be good, the port comes from MITM_LISTEN_PORT, and the flow dump is off, since the addon
logs a line of its own for every request. Whatever the user gives mitmdump wins.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from typing import Any

import click

from mitm_forwarder import options
from mitm_forwarder import turbo

ADDON_MODULE = "mitm_forwarder_addon"


def addon_path() -> str:
    """The file for mitmdump's `-s`, of the checkout or of the installed wheel."""
    spec = importlib.util.find_spec(ADDON_MODULE)
    if spec is None or spec.origin is None:
        raise click.ClickException(
            f"{ADDON_MODULE}.py is not installed; run `pip install .` in the checkout again"
        )
    return spec.origin


def report(error: options.ConfigError) -> None:
    """A line for each problem, on stderr."""
    for problem in error.problems:
        click.echo(f"mitm-forwarder: {problem}", err=True)


class _Defaults:
    """What `run` asks of mitmproxy's main: a factory for the master, which sets defaults before
    arguments are read, and `extra`, which is called when they are and nothing listens yet.
    """

    def __init__(self) -> None:
        self.master: Any = None
        self.cuts: list[str] = []

    def make_master(self, opts: Any) -> Any:
        dump = importlib.import_module("mitmproxy.tools.dump")
        addonmanager = importlib.import_module("mitmproxy.addonmanager")
        # mitmproxy makes its CA while it reads its arguments, in which TURBO may still change.
        self.cuts = turbo.select(options.early_turbo(), turbo.EARLY, [])
        self.master = dump.DumpMaster(opts)
        # The script adds the same ones again, which mitmproxy takes for the no-op that it is.
        options.add_options(addonmanager.Loader(self.master))
        opts.update(flow_detail=0)
        return self.master

    def extra(self, args: argparse.Namespace) -> dict[str, Any]:
        opts = self.master.options
        try:
            config = options.load(opts)
        except options.ConfigError as error:
            report(error)
            sys.exit(2)
        self.cuts = turbo.select(config.turbo, turbo.ALL, self.cuts)
        settings: dict[str, Any] = {}
        if opts.listen_port is None:
            settings["listen_port"] = config.mitm_listen_port
        if args.filter_args:
            pattern = " ".join(args.filter_args)
            for name in ("save_stream_filter", "readfile_filter", "dumper_filter"):
                settings[name] = pattern
        return settings


@click.command()
@click.argument("mitmdump_args", nargs=-1, type=click.UNPROCESSED, metavar="[-- MITMDUMP_ARGS...]")
def run(mitmdump_args: tuple[str, ...]) -> None:
    """Run mitmdump with the addon.

    Arguments after `--` are mitmdump's own and win, for example:

    \b
      mitm-forwarder run -- -p 8888 --set forwarder_httpx_timeout=10
    """
    path = addon_path()
    # Before anything can dial: it must stand even if the script cannot be loaded.
    importlib.import_module("mitm_forwarder.guard")
    main = importlib.import_module("mitmproxy.tools.main")
    cmdline = importlib.import_module("mitmproxy.tools.cmdline")
    defaults = _Defaults()
    # What mitmproxy puts in front of its own messages.
    sys.argv = ["mitm-forwarder run", *mitmdump_args]
    main.run(defaults.make_master, cmdline.mitmdump, ["-s", path, *mitmdump_args], defaults.extra)
