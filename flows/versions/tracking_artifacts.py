"""All artifacts of an MLflow server, through the server itself: whatever store stands behind it."""

from __future__ import annotations

from pathlib import Path

from data_contracts.errors import WorkspaceError

#: the root of what a server with --artifacts-destination hands out
_ROOT = "mlflow-artifacts:/"


def fetch_artifacts(tracking_uri: str, target: Path) -> None:
    """Copy everything that the server holds below `target`; raises WorkspaceError where it does not hand it out."""
    import mlflow

    mlflow.set_tracking_uri(tracking_uri)
    target.mkdir(parents=True, exist_ok=True)
    try:
        mlflow.artifacts.download_artifacts(artifact_uri=_ROOT, dst_path=str(target), tracking_uri=tracking_uri)
    except Exception as error:  # of MLflow, of its HTTP client, or of the store
        raise _lost("cannot be read", error) from None


def send_artifacts(tracking_uri: str, source: Path) -> None:
    """Put everything below `source` back into the server's store; raises WorkspaceError."""
    import mlflow
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    mlflow.set_tracking_uri(tracking_uri)
    try:
        get_artifact_repository(_ROOT, tracking_uri=tracking_uri).log_artifacts(str(source))
    except Exception as error:
        raise _lost("cannot be written", error) from None


def _lost(what: str, error: Exception) -> WorkspaceError:
    said = str(error).strip().splitlines()
    return WorkspaceError(
        f"the artifacts of the MLflow server {what} ({type(error).__name__})",
        todo=f"Does it run with --artifacts-destination, and may we in? {said[0][:160] if said else ''}",
    )
