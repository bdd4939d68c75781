"""Judgement of an ingest of one trap: the way judge_traps.py reads it, and a stricter one.

The strict one asks for every voxel and every corner of what was accepted, and for the right slices in what was refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import map_coordinates
from trap_kinds import Draft
from trap_series import Truth

from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from data_contracts.series import Rejection, SeriesRecord
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.intake.discover import discover
from pipeline.intake.ingest_series import ingest_series

#: findings that a sound series may carry
HARMLESS = {
    ReasonCode.SPARSE_SLICES,
    ReasonCode.PADDING_REPLACED,
    ReasonCode.DERIVED_IMAGE,
    ReasonCode.RESCALE_TYPE_NOT_HU,
    ReasonCode.HU_OUT_OF_RANGE,
}
CORNER_MM = 0.01


@dataclass
class Outcome:
    """What an ingest made of one folder."""

    accepted: list[SeriesRecord]
    rejected: list[Rejection]
    root: Path

    def codes(self) -> set[ReasonCode]:
        return {item.reason for item in self.rejected} | self.findings()

    def findings(self) -> set[ReasonCode]:
        return {finding.code for record in self.accepted for finding in record.findings}

    def told(self) -> str:
        """The outcome in one line."""
        refused = [f"{item.reason.value} ({item.detail}; {len(item.sop_instance_uids)} UIDs)" for item in self.rejected]
        taken = [
            f"{record.n_slices} slices {[f'{finding.code.value}: {finding.detail}' for finding in record.findings]}"
            for record in self.accepted
        ]
        return f"accepted {taken}, refused {refused}"


def run_ingest(source: Path, workspace: Path, **params: object) -> Outcome:
    """Discover and ingest in this process, identity kept."""
    policy, pseudonymizer = IngestParams.from_mapping(dict(params)), Pseudonymizer(b"secret", keep_identity=True)
    discovery = discover(source, pseudonymizer, policy, workspace / "scratch")
    outcomes = [
        item
        for raw in discovery.series
        for item in ingest_series(raw, pseudonymizer, policy, workspace / "series", "s")
    ]
    rejected = [*discovery.rejections, *(item for item in outcomes if isinstance(item, Rejection))]
    return Outcome([item for item in outcomes if isinstance(item, SeriesRecord)], rejected, workspace)


@dataclass
class Reading:
    """A volume on disk, (i, j, k) with its affine to LPS, as nibabel reads it."""

    hu: np.ndarray
    lps: np.ndarray

    @classmethod
    def of(cls, path: Path) -> Reading:
        image = nib.load(path)
        return cls(np.asarray(image.dataobj), np.diag([-1.0, -1, 1, 1]) @ image.affine)

    def at(self, world: np.ndarray) -> np.ndarray:
        """Voxel indices of LPS positions (..., 3)."""
        inverse = np.linalg.inv(self.lps)
        return np.asarray(world @ inverse[:3, :3].T + inverse[:3, 3])


def world_of(truth: Truth, k: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """LPS mm of pixel centres of slice k (PS3.3 C.7.6.2.1.1)."""
    return np.asarray(
        truth.ipp[k]
        + columns[..., None] * truth.ps[1] * truth.iop[k][:3]
        + rows[..., None] * truth.ps[0] * truth.iop[k][3:]
    )


def p95_hu(volume: Reading, truth: Truth) -> float:
    """p95 of the worst slice, looked up at true places: the figure of judge_traps.py."""
    rows, columns = np.mgrid[: truth.hu.shape[1], : truth.hu.shape[2]]
    worst = []
    for k in range(len(truth.hu)):
        ijk = np.moveaxis(volume.at(world_of(truth, k, rows, columns)), -1, 0)
        top = np.array(volume.hu.shape)[:, None, None] - 1
        ijk = np.where((ijk < 0) & (ijk > -0.05), 0, ijk)
        ijk = np.where((ijk > top) & (ijk < top + 0.05), top, ijk)
        got = map_coordinates(volume.hu.astype(np.float32), ijk, order=1, mode="constant", cval=np.nan)
        off = np.abs(got - truth.hu[k])
        off = off[truth.mask] if truth.mask is not None else off
        worst.append(float(np.nanpercentile(off, 95)) if np.isfinite(off).any() else np.inf)
    return max(worst)


def exact(volume: Reading, truth: Truth, slack_mm: float = 0.0, slack_hu: float = 0.0) -> str:
    """Why a volume is not the truth: size, corners beyond 0.01 mm, or any voxel beyond rounding; "" where it is."""
    n, rows, columns = truth.hu.shape
    if sorted(volume.hu.shape) != sorted((n, rows, columns)):
        return f"shape {volume.hu.shape} for {truth.hu.shape}"
    worst = 0.0
    for k, j, i in product((0, n - 1), (0, rows - 1), (0, columns - 1)):
        place = world_of(truth, k, np.array(j), np.array(i))
        index = np.rint(volume.at(place))
        there = volume.lps[:3, :3] @ index + volume.lps[:3, 3]
        if (index < 0).any() or (index >= volume.hu.shape).any():
            return f"corner {(k, j, i)} lies outside, at {index}"
        worst = max(worst, float(np.linalg.norm(there - place)))
    if worst > CORNER_MM + slack_mm:
        return f"a corner is {worst:.4f} mm off"
    grid = np.mgrid[:rows, :columns]
    for k in range(n):
        index = np.moveaxis(np.rint(volume.at(world_of(truth, k, *grid))).astype(int), -1, 0)
        got = volume.hu[tuple(index.clip(0, np.array(volume.hu.shape)[:, None, None] - 1))]
        off = np.abs(got - truth.hu[k])
        off = off[truth.mask] if truth.mask is not None else off
        if off.size and off.max() > 0.5 + 1e-4 + slack_hu:
            return f"slice {k}: up to {off.max():.1f} HU off at {int((off > 0.5).sum())} voxels"
    return ""


def judge(draft: Draft, outcome: Outcome) -> list[str]:
    """What is wrong with an outcome, strictly; [] where nothing is."""
    mine = [record for record in outcome.accepted if record.identity and record.identity.patient_id == draft.patient]
    volumes = [Reading.of(outcome.root / record.volume_path) for record in mine]
    truths = [draft.truth, *draft.others]
    refused = any(item.patient_id == draft.patient for item in outcome.rejected)
    wrong: list[str] = []
    if ReasonCode.INTERNAL_ERROR in outcome.codes():
        wrong.append("an internal error")
    if draft.expect in ("convert", "split"):
        if len(mine) != len(truths):
            wrong.append(f"{len(mine)} series accepted for {len(truths)}")
        for truth in truths:
            whys = [exact(volume, truth, draft.slack_mm, draft.slack_hu) for volume in volumes]
            if whys and all(whys):
                wrong.append("; ".join(whys))
        # a window of a few centimetres may hold one tissue alone
        cut_out = {ReasonCode.HU_OFFSET_SUSPECTED} if draft.plan.voxels != "synthetic" else set()
        if odd := outcome.findings() - HARMLESS - cut_out - draft.codes:
            wrong.append(f"findings on a sound series: {sorted(odd)}")
    else:
        wrong += _judge_flagged(draft, mine, volumes, truths, refused)
    if draft.codes and draft.expect not in ("convert", "split"):
        wrong += _judge_naming(draft, outcome)
    return wrong


def _judge_flagged(
    draft: Draft, mine: list[SeriesRecord], volumes: list[Reading], truths: list[Truth], refused: bool
) -> list[str]:
    if not mine:
        return [] if refused else ["neither accepted nor refused under the patient"]
    wrong = []
    if not refused and not any(record.findings for record in mine):
        wrong.append("accepted without a word")
    best = min(p95_hu(volume, draft.truth) for volume in volumes)
    if best > 30:
        wrong.append(f"accepted {best:.0f} HU off (p95)")
    # what is accepted beside a flag is still right, each volume by some truth
    for number, volume in enumerate(volumes):
        nearest = min(p95_hu(volume, truth) for truth in truths)
        if nearest > 30:
            wrong.append(f"volume {number} is no truth ({nearest:.0f} HU off)")
    return wrong


def _judge_naming(draft: Draft, outcome: Outcome) -> list[str]:
    if not draft.codes & outcome.codes():
        return [f"named {sorted(outcome.codes())}, wanted one of {sorted(draft.codes)}"]
    named: set[str] = set()
    for item in outcome.rejected:
        if item.reason in draft.codes:
            named |= set(item.sop_instance_uids)
    for record in outcome.accepted:
        for finding in record.findings:
            if finding.code in draft.codes:
                named |= set(finding.sop_instance_uids)
    wrong = []
    if draft.must - named:
        wrong.append(
            f"{len(draft.must - named)} of {len(draft.must)} concerned slices are not named ({len(named)} are)"
        )
    if draft.may is not None and named - draft.may:
        wrong.append(f"{len(named - draft.may)} slices are named that are not concerned")
    return wrong
