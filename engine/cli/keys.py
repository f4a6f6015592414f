"""``onsale keys …``: who may call where ``AUTH=token``."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.base import (
    DATA,
    AsJson,
    DataFolder,
    group,
    instant,
    print_json,
    print_table,
    refuse,
    talking,
)
from engine.permissions import Permission  # noqa: TC001 - typer reads it

if TYPE_CHECKING:
    from engine.ledger import KeyRow

app = group("Make, list and revoke the keys of services that call when AUTH=token.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose it is: letters, digits, dots, dashes.")],
    *,
    scopes: Annotated[
        list[Permission], typer.Option("--scope", help="What it is for; more than once for more.")
    ],
    as_json: AsJson = False,
    data: DataFolder = DATA,
) -> None:
    """Make a key and print it. It is nowhere afterwards: the ledger keeps its hash.

    Exits with 0; 2: the name is taken, or could not run.
    """
    from engine import service_keys  # noqa: PLC0415 - see engine/cli/__init__.py

    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise typer.BadParameter("a name is 1 to 64 letters, digits, dots, dashes or underscores")
    secret = asyncio.run(service_keys.create(talking(data), name, set(scopes)))
    if secret is None:
        raise refuse(f"there is a key {name} already: revoke it, or choose another name")
    if as_json:
        print_json({"name": name, "scopes": sorted(set(scopes)), "key": secret})
    else:
        typer.echo(secret)


@app.command("list")
def list_keys(*, as_json: AsJson = False, data: DataFolder = DATA) -> None:
    """List the keys by name: what each is for, and since when. No key can be printed again.

    Exits with 0, also if there are none; 2: could not run.
    """
    from engine import service_keys  # noqa: PLC0415 - see engine/cli/__init__.py

    rows = asyncio.run(service_keys.every(talking(data)))
    if as_json:
        print_json({"keys": [_facts(row) for row in rows]})
    elif rows:
        shown = [[row.name, " ".join(row.scopes), instant(row.created_at_ms)] for row in rows]
        print_table(("name", "scopes", "created"), shown)
    else:
        typer.echo("no keys")


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Whose key.")],
    *,
    as_json: AsJson = False,
    data: DataFolder = DATA,
) -> None:
    """Revoke a key: every API process that hears Postgres refuses it within moments.

    Exits with 0; 2: there is no key of this name, or could not run.
    """
    from engine import service_keys  # noqa: PLC0415 - see engine/cli/__init__.py

    if not asyncio.run(service_keys.revoke(talking(data), name)):
        raise refuse(f"there is no key {name}")
    if as_json:
        print_json({"name": name, "revoked": True})
    else:
        typer.echo(f"{name} is revoked")


def _facts(row: KeyRow) -> dict[str, object]:
    """A key's columns by name."""
    return {
        "name": row.name,
        "scopes": list(row.scopes),
        "created_at": instant(row.created_at_ms),
    }
