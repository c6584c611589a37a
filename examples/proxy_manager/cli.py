"""The command line: serve, or add what a fresh database lacks.

The commands work on the database file directly and may run beside the server. What they print
on stdout is the result alone, so that a script can use it: `TOKEN=$(… add-user alice)`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import uvicorn
from pydantic import BaseModel
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from examples.proxy_manager.database import Database
from examples.proxy_manager.factory import create_app
from examples.proxy_manager.models import BlacklistRule
from examples.proxy_manager.models import Proxy
from examples.proxy_manager.models import User
from examples.proxy_manager.schemas import ProxyIn
from examples.proxy_manager.schemas import RuleIn
from examples.proxy_manager.schemas import TokenIn
from examples.proxy_manager.schemas import UserIn
from examples.proxy_manager.security import issue_token
from examples.proxy_manager.settings import Settings
from examples.proxy_manager.settings import SettingsError
from examples.proxy_manager.settings import load_settings


class CommandError(Exception):
    """The command cannot do its work; the text is one line."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        settings = load_settings(os.environ)
        if args.run is None:
            _serve(settings, args.host, args.port)
        else:
            print(_administer(settings, args))
    except (SettingsError, CommandError) as error:
        print(f"proxy manager: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.proxy_manager",
        description="Serve the proxy manager (without a command), or add to its database.",
        epilog="Settings come from the environment; see examples/proxy_manager/README.md.",
    )
    parser.set_defaults(run=None)
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to serve on (%(default)s)")
    commands = parser.add_subparsers(title="commands", metavar="")

    def command(name: str, run: Callable[..., str], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    add_user = command("add-user", _add_user, "add a user and print a token")
    add_user.add_argument("name")
    token = command("token", _token, "print a new token of a user")
    token.add_argument("name")
    for sub in (add_user, token):
        sub.add_argument("--ttl-seconds", type=int, help="life of the token")
    add_proxy = command("add-proxy", _add_proxy, "add an upstream proxy and print its id")
    add_proxy.add_argument("ip", help="IP address or host name")
    add_proxy.add_argument("port_", metavar="port", type=int)
    add_proxy.add_argument("--protocol", default="http")
    add_proxy.add_argument("--username")
    add_proxy.add_argument("--password-file", type=Path, help="file whose first line is it")
    add_rule = command("add-rule", _add_rule, "add a blacklist rule and print its id")
    add_rule.add_argument("pattern", help="regular expression of Python's `re`")
    add_rule.add_argument("--description")
    return parser


def _serve(settings: Settings, host: str, port: int) -> None:
    uvicorn.run(create_app(settings), host=host, port=port)


def _administer(settings: Settings, args: argparse.Namespace) -> str:
    database = Database(settings.database_url)
    try:
        database.create_schema()
        with database.begin() as session:
            result: str = args.run(settings, session, args)
        return result
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise CommandError(f"{field}: {problem['msg']}") from None
    except IntegrityError:
        raise CommandError("this exists already") from None
    except OperationalError as error:
        raise CommandError(f"the database cannot be used: {error.orig}") from None
    finally:
        database.close()


def _row(row: User | Proxy | BlacklistRule, session: Session) -> int:
    session.add(row)
    session.flush()
    return row.id


def _values(model: BaseModel) -> dict[str, object]:
    return model.model_dump()


def _add_user(settings: Settings, session: Session, args: argparse.Namespace) -> str:
    user_id = _row(User(**_values(UserIn(name=args.name))), session)
    return _issue(settings, user_id, args)


def _token(settings: Settings, session: Session, args: argparse.Namespace) -> str:
    user = session.scalars(select(User).where(User.name == args.name)).one_or_none()
    if user is None or not user.is_active:
        raise CommandError(f"there is no active user {args.name!r}")
    return _issue(settings, user.id, args)


def _issue(settings: Settings, user_id: int, args: argparse.Namespace) -> str:
    wanted = TokenIn(user_id=user_id, ttl_seconds=args.ttl_seconds)
    return issue_token(settings, wanted.user_id, wanted.ttl_seconds)[0]


def _add_proxy(_settings: Settings, session: Session, args: argparse.Namespace) -> str:
    password = None
    if args.password_file is not None:
        try:
            password = args.password_file.read_text().partition("\n")[0]
        except OSError as error:
            raise CommandError(f"--password-file: {error.strerror}") from None
    proxy = ProxyIn(
        ip=args.ip,
        port=args.port_,
        protocol=args.protocol,
        username=args.username,
        password=password,
    )
    return str(_row(Proxy(**_values(proxy)), session))


def _add_rule(_settings: Settings, session: Session, args: argparse.Namespace) -> str:
    rule = RuleIn(pattern=args.pattern, description=args.description)
    return str(_row(BlacklistRule(**_values(rule)), session))
