"""The pages that the review server shows of a study: its report, for each way of reading it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from data_contracts.params import FeedbackParams, ReviewParams
from data_contracts.review import Finding, Measurement, StudyReview
from data_contracts.volume import CTVolume
from flows.reviewing.answers import Answers, answers_of, feedback_params, keyed, second_reads
from flows.workspace import Workspace
from pipeline.imaging.nifti import read_nifti
from pipeline.review.answers.blind import blinded, for_adjudication
from pipeline.review.answers.cases import Case
from pipeline.review.answers.second_reads import companions
from pipeline.review.html import render_study
from pipeline.review.key_images import key_image_name, render_key_images
from pipeline.review.stack import pack_stack, stack_name

Reading = Literal["study", "blind", "second", "adjudicate"]
#: how a page says in what way it is read, by the beginning of its address
READINGS: dict[str, str] = {"study": "open", "blind": "blind", "second": "second", "adjudicate": "adjudication"}

_POLICY = re.compile(r'(<meta http-equiv="Content-Security-Policy" content=")([^"]*)(">)')
_BY_READER = "as a reader measured it"


class Pages:
    """Pages of some studies of a workspace; all of its reports where `study_keys` is empty.

    is_blind: first readings show nothing of the model.
    """

    def __init__(self, workspace: Workspace, study_keys: Sequence[str] = (), *, is_blind: bool = False) -> None:
        self.workspace, self.wanted, self.is_blind = workspace, tuple(study_keys), is_blind

    @property
    def first_reading(self) -> Reading:
        """The way in which studies are read first."""
        return "blind" if self.is_blind else "study"

    def study_keys(self) -> list[str]:
        """The studies with a report, the newest first."""
        found = list(self.workspace.reviews_root.glob("*/review.json"))
        keys = [path.parent.name for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]
        return [key for key in keys if not self.wanted or key in self.wanted]

    def has(self, reading: str, study_key: str) -> bool:
        """Whether such a page is served; the key is looked up and never made part of a path before."""
        if reading in ("study", "blind") and reading != self.first_reading:
            return False
        return reading in READINGS and study_key in self.study_keys()

    def page(self, reading: str, study_key: str, token: str) -> str | None:
        """The page of a study, with what lets it post its answers; None where there is nothing to read in that way."""
        folder = self.workspace.reviews_root / study_key
        if reading == "study":
            try:
                html = (folder / "report.html").read_text()
            except OSError:
                return None
            return _posting(html, token)
        review = StudyReview.read(folder / "review.json")
        params, known = feedback_params(), answers_of(self.workspace, [study_key])
        shown = self._shown(reading, review, known, params)
        return None if shown is None else _posting(self._rendered(shown), token)

    def _shown(self, reading: str, review: StudyReview, known: Answers, params: FeedbackParams) -> StudyReview | None:
        if reading == "blind":
            return blinded(review, "blind")
        cases = known.cases(params)
        if reading == "second":
            due = [case.finding_id for case in second_reads(self.workspace, cases, params)]
            names = [finding.finding_id for finding in review.findings]
            if not due:
                return None
            return blinded(review, "second", companions(due, names, keyed(self.workspace).key))
        waiting = {case.finding_id: case for case in cases if case.standing == "differs"}
        extra = [self._added(case) for case in waiting.values() if case.marks]
        return for_adjudication(review, waiting, extra) if waiting else None

    def _added(self, case: Case) -> Finding:
        """A finding for a nodule that a reader added; its pictures are drawn when it is shown."""
        mark = next(item for item in case.opinions if item.lps_mm is not None and item.diameter_mm is not None)
        assert mark.lps_mm is not None and mark.diameter_mm is not None
        volume = _volume(self.workspace, case.series_key)
        k, j, i = (float(value) for value in volume.to_kji(np.array(mark.lps_mm))) if volume else (0.0, 0.0, 0.0)
        return Finding(
            finding_id=case.finding_id,
            nodule_id=case.nodule_id,
            series_key=case.series_key,
            lps_mm=mark.lps_mm,
            kji=(k, j, i),
            slice_number=round(k) + 1,
            measurement=Measurement(mean_diameter_mm=mark.diameter_mm, method=_BY_READER),
            probability=None,
            source="reader",
            stack=stack_name(case.finding_id) if volume else "",
        )

    def _rendered(self, review: StudyReview) -> str:
        """The page with the pictures of the report, and with drawn ones where the report has none."""
        folder = self.workspace.reviews_root / review.study_key
        images: dict[str, bytes] = {}
        stacks: dict[str, bytes] = {}
        findings = []
        for finding in review.findings:
            names = [name for name in finding.key_images if (folder / name).is_file()]
            own = {name: (folder / name).read_bytes() for name in names}
            volume = _volume(self.workspace, finding.series_key) if finding.stack or not own else None
            if volume is not None:
                center, diameter_mm = np.array(finding.lps_mm), finding.measurement.mean_diameter_mm
                if not own:
                    drawn = render_key_images(volume, center, diameter_mm, ReviewParams())
                    own = {key_image_name(finding.finding_id, view): png for view, png in drawn.items()}
                if finding.stack:
                    stacks[finding.stack] = pack_stack(volume, center, diameter_mm, ReviewParams())
            images |= own
            update = {"key_images": tuple(own), "stack": finding.stack if finding.stack in stacks else ""}
            findings.append(finding.model_copy(update=update))
        return render_study(review.model_copy(update={"findings": tuple(findings)}), images, stacks)


def _volume(workspace: Workspace, series_key: str) -> CTVolume | None:
    """The volume of a series; None where the workspace has it no more."""
    for record in workspace.series_records():
        if record.series_key == series_key:
            return _volume_of(workspace.root / record.volume_path)
    return None


@lru_cache(maxsize=2)
def _volume_of(path: Path) -> CTVolume:
    return read_nifti(path)


def _posting(html: str, token: str) -> str:
    """The page with the address and the token of its posts, and the leave to send them."""
    metas = f'<meta name="noduleflow-post" content="feedback"><meta name="noduleflow-token" content="{token}">'
    return _POLICY.sub(lambda found: f"{found[1]}{found[2]}; connect-src 'self'{found[3]}{metas}", html, count=1)
