"""Who may reach a server: everybody on this machine, and others only where they must say who they are."""

from __future__ import annotations

import ipaddress

from data_contracts.errors import UsageError


def is_loopback(host: str) -> bool:
    """Whether an address or name is of this machine alone; any other name may lead anywhere."""
    if host.lower() in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return False


def check_binding(host: str, *, authenticated: bool, server: str, todo: str) -> None:
    """Let a server listen on an address.

    Parameters
    ----------
    authenticated: whether it asks who is there.
    server: what listens, for the message; todo: how it comes to ask.

    Raises
    ------
    UsageError: others could reach it, and it asks nobody.
    """
    if not authenticated and not is_loopback(host):
        raise UsageError(f"{server} would answer everybody who reaches this machine", where=host, todo=todo)
