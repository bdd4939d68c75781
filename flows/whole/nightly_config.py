"""The configuration of a whole run: sources, annotations, presets, policy, schedule."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_serializer, model_validator

from data_contracts.errors import UsageError
from data_contracts.params import (
    DriftParams,
    IngestParams,
    LabelParams,
    Params,
    PatchParams,
    ReviewParams,
    SplitParams,
    TrainParams,
)
from data_contracts.promotion import PromotionPolicy
from flows.running.plan import runner_plan, take_from_file


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


class PushPlan(Params):
    """Where nightly-review stores its results: a DICOMweb address, or host and port of a DICOM node.

    called, calling: AE titles, of the node and ours.
    pseudonymous: under pseudonyms even where the identity is known.
    """

    dicomweb: str = ""
    dicom: str = ""
    called: str = ""
    calling: str = "NODULEFLOW"
    pseudonymous: bool = False

    @model_validator(mode="after")
    def _is_one_place(self) -> Self:
        if bool(self.dicomweb) == bool(self.dicom):
            raise ValueError("results are stored to a dicomweb address or to a dicom node, one of them")
        if self.dicom and not self.called:
            raise ValueError("a dicom node has an AE title: called")
        return self

    def check(self) -> None:
        """Raises UsageError for an address that is none, or credentials that would travel in the open."""
        from flows.intake.peers import dicom_node, dicomweb_server

        if self.dicomweb:
            dicomweb_server(self.dicomweb)
        else:
            dicom_node(self.dicom, self.called, self.calling)


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
    reports: how reports are written, by nightly-review, too.
    drift: bounds of what is watched after every review of the plan, and by drift-check.
    push: the PACS that the reports of nightly-review go to; those of `run` stay here.
    cron, timezone: when `serve` runs all of it, in place of the jobs of `schedule`.
    runner, batch: as NODULEFLOW_RUNNER and NODULEFLOW_BATCH, which go before them.
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
    reports: ReviewParams = ReviewParams()
    drift: DriftParams = DriftParams()
    push: PushPlan | None = None
    cron: str = ""
    timezone: str = "UTC"
    schedule: SchedulePlan | None = None
    runner: str = ""
    batch: int | None = Field(None, ge=0)

    @field_validator("runner")
    @classmethod
    def _names_a_runner(cls, text: str) -> str:
        runner_plan(text)
        return text

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
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UsageError("the configuration cannot be read", where=str(path)) from None
    except UnicodeDecodeError:
        raise UsageError("the configuration is not text in UTF-8", where=path.name) from None
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
    _check_places(plan)
    if plan.push is not None:
        plan.push.check()
    take_from_file(plan.runner, plan.batch)
    return plan.model_copy(update={"sources": sources, "annotations": annotations})


def _check_places(plan: RunPlan) -> None:
    """Raises UsageError for what would fail at night: servers that are none, formats that nobody reads."""
    from flows.intake.peers import dicomweb_server
    from pipeline.annotations.formats import check_format

    for source in plan.sources:
        if source.dicomweb:
            dicomweb_server(source.dicomweb)
    for annotation in plan.annotations:
        check_format(annotation.format)
