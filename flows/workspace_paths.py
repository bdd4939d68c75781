"""One function a path: where everything lies in a workspace folder."""

from __future__ import annotations

from pathlib import Path


class WorkspacePaths:
    """Paths of one workspace folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    @property
    def series_root(self) -> Path:
        return self.root / "series"

    @property
    def series_table(self) -> Path:
        return self.root / "series.parquet"

    @property
    def preference_file(self) -> Path:
        return self.root / "preferred_series.json"

    @property
    def rejected_table(self) -> Path:
        return self.root / "rejected.parquet"

    @property
    def nodule_table(self) -> Path:
        return self.root / "nodules.parquet"

    @property
    def rejected_parts(self) -> Path:
        return self.root / "rejected"

    @property
    def annotation_parts(self) -> Path:
        return self.root / "annotations"

    @property
    def datasets_root(self) -> Path:
        return self.root / "datasets"

    @property
    def features_root(self) -> Path:
        return self.root / "features"

    @property
    def runs_root(self) -> Path:
        return self.root / "runs"

    @property
    def known_root(self) -> Path:
        return self.root / "known"

    @property
    def reviews_root(self) -> Path:
        return self.root / "reviews"

    @property
    def drift_root(self) -> Path:
        return self.root / "drift"

    @property
    def segmenters_root(self) -> Path:
        return self.root / "segmenters"

    @property
    def detectors_root(self) -> Path:
        return self.root / "detectors"

    @property
    def audit_file(self) -> Path:
        return self.root / "audit.jsonl"

    @property
    def mlflow_database(self) -> Path:
        return self.root / "mlflow.db"

    @property
    def mlflow_database_uri(self) -> str:
        return f"sqlite:///{self.mlflow_database}"

    @property
    def mlflow_artifacts(self) -> Path:
        return self.root / "mlartifacts"

    @property
    def prefect_home(self) -> Path:
        return self.root / "prefect"

    @property
    def scratch_root(self) -> Path:
        return self.root / "scratch"

    @property
    def inbox_root(self) -> Path:
        return self.root / "inbox"

    @property
    def exchange_root(self) -> Path:
        return self.root / "exchange"

    @property
    def identity_root(self) -> Path:
        return self.root / "identity"

    @property
    def secret_file(self) -> Path:
        return self.root / "secret.key"

    @property
    def secret_check_file(self) -> Path:
        return self.root / "secret.check"
