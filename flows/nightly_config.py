"""The configuration of a whole run: sources, annotations, presets, policy, schedule."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_serializer, model_validator

from data_contracts.errors import UsageError
from data_contracts.params import IngestParams, LabelParams, Params, PatchParams, SplitParams, TrainParams
from data_contracts.promotion import PromotionPolicy


class SourcePlan(Params):
    """One place studies come from: a folder, file or archive, or a DICOMweb service."""

    path: Path | None = None
    dicomweb: str = ""
    site: str = "site"

    @model_validator(mode="after")
    def _is_one_place(self) -> Self:
        if (self.path is None) == (not self.dicomweb):
            raise ValueError("a source has a path or a dicomweb address, one of them")
        return self


class SchedulePlan(Params):
    """When `serve` and `deploy` run the jobs: cron lines, empty for never.

    whole_run: every stage in order, as `run`. timezone: of every line, an IANA name such as Europe/Berlin.
    """

    ingest_watch: str = "*/5 * * * *"
    nightly_review: str = "0 2 * * *"
    weekly_retrain: str = "0 4 * * 0"
    drift_check: str = "0 6 * * *"
    whole_run: str = ""
    timezone: str = "UTC"


class AnnotationPlan(Params):
    """Annotation files of one format, as `annotate` takes them."""

    files: tuple[Path, ...]
    format: str
    coordinates: str = ""
    series: str = ""


class RunPlan(Params):
    """Everything `noduleflow run` does, in order.

    presets: each becomes a registered version; promote: ask the gate for each.
    review: number of held-out studies to write reports of.
    cron, timezone: when `serve` runs all of it, in place of the jobs of `schedule`.
    """

    sources: tuple[SourcePlan, ...]
    annotations: tuple[AnnotationPlan, ...] = ()
    keep_identity: bool = False
    ingest: IngestParams = IngestParams()
    patches: PatchParams = PatchParams()
    split: SplitParams = SplitParams()
    labels: LabelParams = LabelParams()
    presets: tuple[str, ...] = ("probe",)
    train: dict[str, Any] = {}
    promote: bool = True
    policy: PromotionPolicy = PromotionPolicy()
    review: int = Field(1, ge=0)
    cron: str = ""
    timezone: str = "UTC"
    schedule: SchedulePlan | None = None

    def train_params(self) -> list[TrainParams]:
        """Training parameters of every preset with this plan's overrides."""
        from flows.presets import train_params

        return [train_params(preset, self.train) for preset in self.presets]


class PrivatePlan(Params):
    """A plan as a flow's parameter; its paths stay in this process."""

    plan: RunPlan

    @model_serializer
    def hide(self) -> dict[str, Any]:
        return {"n_sources": len(self.plan.sources), "presets": list(self.plan.presets)}


def read_config(path: Path) -> RunPlan:
    """The plan of a TOML file; relative paths are taken from the file's folder.

    Raises
    ------
    UsageError: no such file, not TOML, or a key or value that no parameter has.
    """
    try:
        values = tomllib.loads(path.read_text())
    except OSError:
        raise UsageError("the configuration cannot be read", where=str(path)) from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the configuration is not TOML ({error})", where=path.name) from None
    plan = RunPlan.from_mapping(values, where=path.name)
    folder = path.resolve().parent
    sources = tuple(
        source.model_copy(update={"path": folder / source.path}) if source.path is not None else source
        for source in plan.sources
    )
    annotations = tuple(
        annotation.model_copy(update={"files": tuple(folder / file for file in annotation.files)})
        for annotation in plan.annotations
    )
    plan.train_params()
    return plan.model_copy(update={"sources": sources, "annotations": annotations})
