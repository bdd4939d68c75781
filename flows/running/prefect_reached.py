"""Whether the Prefect server of the settings answers and lets us in, asked before anything is begun."""

from __future__ import annotations

import os
import time

from flows.server_errors import prefect_error

_TIMEOUT_S = 5.0
#: a server that is just started again
_ATTEMPTS, _PAUSE_S = 3, 1.0


def check_prefect(address: str) -> None:
    """Raises WorkspaceError where nobody answers at the address, or our password is refused."""
    import httpx

    user, _, password = os.environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
    auth = (user, password) if user else None
    for attempt in range(_ATTEMPTS):
        try:
            status = httpx.get(f"{address.rstrip('/')}/admin/version", auth=auth, timeout=_TIMEOUT_S).status_code
        except httpx.ConnectError as error:
            if attempt == _ATTEMPTS - 1:
                raise prefect_error(type(error).__name__) from None
            time.sleep(_PAUSE_S)
        except httpx.HTTPError:
            return  # slow is not away: its own client waits longer
        else:
            if status in (401, 403):
                raise prefect_error("", status)
            return
