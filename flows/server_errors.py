"""What errors of Prefect's and MLflow's clients mean, in one line: a server is away, or does not let us in."""

from __future__ import annotations

import os
import re

from data_contracts.errors import ExchangeError, NoduleflowError, RegistryError, WorkspaceError

_REFUSED = (401, 403)


def prefect_error(why: str, status: int | None = None) -> WorkspaceError:
    """The Prefect server does not answer, or refuses."""
    address = os.environ.get("PREFECT_API_URL", "")
    todo = "Set NODULEFLOW_PREFECT_AUTH." if status in _REFUSED else "Start it, or mend NODULEFLOW_PREFECT_API_URL."
    said = f"HTTP {status}" if status else why
    return WorkspaceError(f"the Prefect server does not answer ({said})", where=address, todo=todo)


def server_error(error: BaseException) -> NoduleflowError | None:
    """One of our errors for one of a client, or None for any other trouble. Nothing is imported."""
    module, kind = type(error).__module__.partition(".")[0], type(error).__name__
    if module == "mlflow":
        return _of_mlflow(error)
    if module == "prefect" and kind == "PrefectHTTPStatusError":
        status = getattr(getattr(error, "response", None), "status_code", None)
        return prefect_error(kind, status) if status in _REFUSED or (status or 0) >= 500 else None
    if kind == "RuntimeError" and "Failed to reach API" in str(error):
        return prefect_error("ConnectError")
    if module == "httpx" and kind in ("ConnectError", "ConnectTimeout"):
        request = getattr(error, "_request", None)
        if request is not None and str(request.url).startswith(os.environ.get("PREFECT_API_URL") or "\0"):
            return prefect_error(kind)
    if module == "builtins" and kind == "ConnectionError" and "ray client connection" in str(error):
        return ExchangeError(
            "the Ray cluster does not take this client",
            where=os.environ.get("NODULEFLOW_RUNNER", ""),
            todo="See that its port for clients is named and that both have the same RAY_AUTH_MODE and token.",
        )
    return None


def _of_mlflow(error: BaseException) -> RegistryError | None:
    text, address = str(error), os.environ.get("MLFLOW_TRACKING_URI", "")
    if not address.startswith("http"):
        return None
    refused = re.search(r"failed with (?:error code|status code|status)?\s*(\d{3})|\b(401|403)\b", text)
    status = int(refused.group(1) or refused.group(2)) if refused else None
    if status in _REFUSED:
        return RegistryError(
            f"the MLflow server refuses (HTTP {status})",
            where=address,
            todo="Set NODULEFLOW_MLFLOW_USER and _PASSWORD.",
        )
    if "API request to" in text and ("Max retries" in text or "Timeout" in text or "timed out" in text):
        return RegistryError(
            "the MLflow server does not answer",
            where=address,
            todo="Start it, or mend NODULEFLOW_MLFLOW_TRACKING_URI.",
        )
    return None
