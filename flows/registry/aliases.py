"""The only place that points an alias of MLflow at a version, or takes one away."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient


def point(client: MlflowClient, model_name: str, alias: str, version: str) -> None:
    """Point an alias at a version; MLflow does it in one write."""
    client.set_registered_model_alias(model_name, alias, version)


def remove(client: MlflowClient, model_name: str, alias: str) -> None:
    """Take an alias away."""
    client.delete_registered_model_alias(model_name, alias)
