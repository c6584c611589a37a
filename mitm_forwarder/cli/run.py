"""`mitm-forwarder run`: mitmdump with the addon, in this process or in several workers.

It differs from `mitmdump -s …` in three things: nothing is listened on before the configuration is
known to be good, the port comes from MITM_LISTEN_PORT, and the flow dump is off, since the addon
logs a line of its own for every request. Whatever the user gives mitmdump wins.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import math
import sys
from typing import Any

import click

from mitm_forwarder import options
from mitm_forwarder import turbo
from mitm_forwarder.cli.workers import Control
from mitm_forwarder.cli.workers import Supervisor

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

    def __init__(self, workers: int = 1, control: Control | None = None) -> None:
        self.workers = workers
        self.control = control
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
        if self.control is not None:
            worker = importlib.import_module("mitm_forwarder.cli.worker")
            addon = worker.WorkerAddon(self.control)
            worker.use_sockets(addon)
            self.master.addons.add(addon)
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
        if self.workers > 1:
            share = math.ceil(config.max_concurrent_requests / self.workers)
            settings["forwarder_max_concurrent_requests"] = str(share)
        if args.filter_args:
            pattern = " ".join(args.filter_args)
            for name in ("save_stream_filter", "readfile_filter", "dumper_filter"):
                settings[name] = pattern
        return settings


def serve(mitmdump_args: tuple[str, ...], workers: int = 1, control: Control | None = None) -> None:
    """mitmdump with the addon, until it is told to end."""
    main = importlib.import_module("mitmproxy.tools.main")
    cmdline = importlib.import_module("mitmproxy.tools.cmdline")
    defaults = _Defaults(workers, control)
    arguments = ["-s", addon_path(), *mitmdump_args]
    main.run(defaults.make_master, cmdline.mitmdump, arguments, defaults.extra)


PRELOADED = ("mitmproxy.tools.main", "mitmproxy.tools.dump", "mitm_forwarder.cli.worker")


@click.command()
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Processes that share the port; MAX_CONCURRENT_REQUESTS is divided among them.",
)
@click.argument("mitmdump_args", nargs=-1, type=click.UNPROCESSED, metavar="[-- MITMDUMP_ARGS...]")
def run(workers: int, mitmdump_args: tuple[str, ...]) -> None:
    """Run mitmdump with the addon.

    Arguments after `--` are mitmdump's own and win, for example:

    \b
      mitm-forwarder run -- -p 8888 --set forwarder_httpx_timeout=10
    """
    addon_path()
    # Before anything can dial: it must stand even if the script cannot be loaded.
    importlib.import_module("mitm_forwarder.guard")
    # What mitmproxy puts in front of its own messages.
    sys.argv = ["mitm-forwarder run", *mitmdump_args]
    if workers == 1:
        serve(mitmdump_args)
        return
    for name in PRELOADED:
        importlib.import_module(name)
    # What the script will import, for all workers at once; an unsupported mitmproxy says so later.
    importlib.import_module("mitm_forwarder").addons  # noqa: B018
    supervisor = Supervisor(workers, lambda control: serve(mitmdump_args, workers, control))
    sys.exit(supervisor.run())
