"""Kinds of trap made of enhanced multi-frame objects."""

from __future__ import annotations

import random

from dicom_factory import ENHANCED
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless
from trap_files import enhanced_plane
from trap_kinds import Draft, both, damaged
from trap_series import Plan

from data_contracts.reasons import ReasonCode as Code

LEGACY_CONVERTED = "1.2.840.10008.5.1.4.1.1.2.2"


def _of_frames(draft: Draft, sop_class: str, rescale_type: str, *, shared: bool = False) -> None:
    for plane in draft.planes:
        plane.options["rescale_type"] = rescale_type
        plane.syntax, plane.preamble, plane.name = draft.planes[0].syntax, True, ""
    if draft.rng.random() < 0.4:
        draft.rng.shuffle(draft.planes)
    whole = enhanced_plane(draft.planes, draft.truth, sop_class, shared_rescale=shared)
    whole.options["table"] = draft.rng.random() < 0.5
    draft.planes = [whole]


def _syntax(draft: Draft) -> None:
    syntax = draft.rng.choice([ExplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, JPEGLSLossless,
                               RLELossless, JPEG2000Lossless])  # fmt: skip
    for plane in draft.planes:
        plane.syntax = syntax


@damaged("enhanced_legacy_converted", "13", fixed="syntax quirks")
def _legacy(draft: Draft) -> None:
    _syntax(draft)
    _of_frames(draft, LEGACY_CONVERTED, "US")


@damaged("enhanced", fixed="syntax quirks")
def _enhanced(draft: Draft) -> None:
    _syntax(draft)
    _of_frames(draft, ENHANCED, "HU", shared=True)


def _many_rescales(plan: Plan, rng: random.Random) -> None:
    plan.signed, plan.slope, plan.intercept = True, 1.0, -1024.0
    plan.rescale_of = lambda number: (1.0 + number % 3, -1024.0 + 10 * number)


def _enhanced_rescale(draft: Draft) -> None:
    _syntax(draft)
    _of_frames(draft, ENHANCED, "HU")


both("enhanced_per_frame_rescale", _many_rescales, _enhanced_rescale, "14", fixed="syntax rescale quirks")


@damaged("enhanced_missing_frame", fixed="syntax quirks")
def _missing_frame(draft: Draft) -> None:
    del draft.planes[draft.rng.randrange(1, len(draft.planes) - 1)]
    _of_frames(draft, ENHANCED, "HU")
    draft.flag("flag", Code.MISSING_SLICES, Code.IRREGULAR_SPACING)


@damaged("enhanced_truncated", fixed="syntax quirks")
def _truncated(draft: Draft) -> None:
    _of_frames(draft, ENHANCED, "HU")
    draft.planes[0].alter = lambda data: data[: -draft.planes[0].stored.shape[1]]
    draft.flag("flag", Code.PIXEL_DECODE_FAILED, must=draft.planes)


@damaged("enhanced_frames_disagree", fixed="syntax quirks")
def _disagree(draft: Draft) -> None:
    _of_frames(draft, ENHANCED, "HU")
    ds = draft.planes[0].ds
    if draft.rng.random() < 0.5:
        ds.NumberOfFrames = int(ds.NumberOfFrames) + draft.rng.choice([-1, 1])
    else:
        del ds.PerFrameFunctionalGroupsSequence[-1]
    codes = (Code.UNSUPPORTED_MULTIFRAME, Code.PIXEL_DECODE_FAILED, Code.MISSING_GEOMETRY, Code.MISSING_SLICES)
    draft.flag("flag", *codes)


@damaged("enhanced_frame_off_by_1024", fixed="syntax quirks rescale")
def _frame_off(draft: Draft) -> None:
    plane = draft.planes[draft.anywhere()]
    plane.ds.RescaleIntercept = float(plane.ds.RescaleIntercept) + 1024
    _of_frames(draft, ENHANCED, "HU")
    draft.flag("flag", Code.IMPLAUSIBLE_HU)


@damaged("enhanced_in_two_objects", fixed="syntax quirks")
def _concatenation(draft: Draft) -> None:
    half = len(draft.planes) // 2
    parts = [draft.planes[:half], draft.planes[half:]]
    wholes = []
    for number, part in enumerate(parts):
        whole = enhanced_plane(part, draft.truth)
        whole.ds.ConcatenationUID, whole.ds.InConcatenationNumber = "1.2.3.4", number + 1
        whole.ds.InConcatenationTotalNumber = 2
        whole.ds.ConcatenationFrameOffsetNumber = 0 if number == 0 else half
        wholes.append(whole)
    draft.planes = wholes
