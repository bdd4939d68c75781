"""Parameters of the search for nodules."""

from __future__ import annotations

from pydantic import Field

from data_contracts.params.base import Params


class DetectionParams(Params):
    """How nodules are searched for in a series that no reader marked.

    detector: `classic` (or empty) searches blobs and judges them by the learned head that comes with the program,
        `bundle:NAME` by MONAI's nodule detector in the folder NAME of `detectors/` in the workspace, `none` searches
        nothing.
    detection_threshold: candidates with a lower detection score are left out; empty takes the threshold that was frozen
        where the detector was fitted.
    max_candidates: at most so many candidates of a series become findings, the best first.
    smallest_mm, largest_mm: diameters that are searched for.
    """

    detector: str = Field("classic", pattern=r"^(|classic|none|bundle:[A-Za-z0-9_-]{1,100})$")
    detection_threshold: float | None = Field(None, ge=0, le=1)
    max_candidates: int = Field(20, ge=1, le=1000)
    smallest_mm: float = Field(3.0, ge=2, le=40)
    largest_mm: float = Field(40.0, ge=3, le=60)
