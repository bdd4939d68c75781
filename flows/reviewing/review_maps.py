"""Whether a report shows where the network looked, and the pictures of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_contracts.errors import ContractError
from data_contracts.explanation import EXPLANATION_FILE, NO_EXPLANATION, SIGNED_AS, ExplanationReport
from data_contracts.model_card import ModelCard
from data_contracts.params import ReviewParams
from data_contracts.volume import CTVolume
from flows.registry.keys import same, sign_record
from models.explanation.maps import saliency_maps, to_patch_grid
from models.networks.inputs import to_images
from models.predict import Predictor
from pipeline.review.map_images import render_map_images

_METHODS = {"grad-cam": "Grad-CAM", "occlusion": "Occlusion"}


@dataclass(frozen=True)
class MapVerdict:
    """What a report says of maps: `sentence` stands with them or in their place; report: None where none is shown."""

    sentence: str
    report: ExplanationReport | None = None


def map_verdict(run_folder: Path, card: ModelCard, version: str, params: ReviewParams, key: bytes) -> MapVerdict:
    """Whether maps were asked for, were tested for exactly these weights, and held. key: of the audit.

    What the tests gave is said with maps off too; it costs reading one record.
    """
    untested = f"the maps of this version were not tested (`noduleflow explain {version}` does it)"
    try:
        report = ExplanationReport.read(run_folder / EXPLANATION_FILE)
    except ContractError:
        return MapVerdict(f"{NO_EXPLANATION}: {untested}.")
    if not same(report.mac, sign_record(key, SIGNED_AS, report)):
        return MapVerdict(f"{NO_EXPLANATION}: the record of the tests is not what `noduleflow explain` wrote.")
    if report.checkpoint_sha256 != card.checkpoint_sha256:
        return MapVerdict(f"{NO_EXPLANATION}: {untested}.")
    if not report.reliable:
        return MapVerdict(f"{NO_EXPLANATION}. Sanity tests of this version's maps: {report.reason}.")
    passed = f"The maps of this version passed {len(report.tests)} sanity tests on {report.n_nodules} held-out nodules"
    if not params.maps:
        return MapVerdict(
            f"{passed}; none is drawn, because maps are off (`noduleflow review --set maps=on` draws them)."
        )
    sentence = (
        f"{_METHODS.get(report.method, report.method)}, red where the picture speaks most for malignancy. "
        f"{passed}; they show where the network looked, not where disease is."
    )
    return MapVerdict(sentence, report)


def map_pictures(
    verdict: MapVerdict,
    predictor: Predictor,
    patches: NDArray[np.generic],
    volume: CTVolume,
    centers_lps_mm: NDArray[np.float64],
) -> list[dict[str, bytes]]:
    """PNG by view, for each of the patches (n, *patch_shape); none where the verdict lets none be shown."""
    spec = predictor.card.input
    if verdict.report is None or spec.spacing_mm is None:
        return [{} for _ in patches]
    method = "occlusion" if verdict.report.method == "occlusion" else "grad-cam"
    pictures = []
    for patch, center in zip(patches, centers_lps_mm, strict=True):
        images = to_images(patch[None], spec)
        maps = saliency_maps(predictor.network, images, method, stage=verdict.report.stage)
        maps = to_patch_grid(maps, spec)[0]
        pictures.append(render_map_images(volume, center, maps, spec.kind, spec.spacing_mm))
    return pictures
