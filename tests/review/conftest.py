"""A ball in a lung, and a study review that holds everything a report can say."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import numpy as np
import pytest
from card_factory import resnet50_card
from scipy import ndimage

from data_contracts.guidelines import GuidelineNodule, PatientContext, PriorNodule
from data_contracts.params import ReviewParams
from data_contracts.reasons import ReasonCode
from data_contracts.review import Finding, Measurement, MissedPrior, PriorFinding, SeriesSummary, StudyReview
from data_contracts.series import QualityFinding
from data_contracts.volume import CTVolume
from pipeline.review.guidelines.study import assess_study
from pipeline.review.key_images import key_image_name, render_key_images
from pipeline.review.stack import pack_stack, stack_name

MakeNodule = Callable[..., tuple[CTVolume, np.ndarray]]


def _nodule(
    semi_axes_mm: tuple[float, float, float],
    *,
    nodule_hu: float = 30,
    spacing_mm: tuple[float, float, float] = (1.25, 0.7, 0.7),
    noise_hu: float = 18,
    wall_from_mm: float | None = None,
    vessel_radius_mm: float = 0,
    seed: int = 0,
) -> tuple[CTVolume, np.ndarray]:
    """An ellipsoid in lung of -860 HU, drawn three times as fine, blurred by 0.5 mm and averaged over each voxel.

    Semi-axes along z, y, x. The wall is a half space from `wall_from_mm` left of the centre; the vessel runs
    along x through the centre. Returns the volume and the centre in LPS mm.
    """
    side_mm = 2 * max(semi_axes_mm) + 30
    shape = [int(side_mm / step) for step in spacing_mm]
    fine_mm = [step / 3 for step in spacing_mm]
    axes = [(np.arange(3 * n) - (3 * n - 1) / 2) * step for n, step in zip(shape, fine_mm, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    tissue = (z / semi_axes_mm[0]) ** 2 + (y / semi_axes_mm[1]) ** 2 + (x / semi_axes_mm[2]) ** 2 <= 1
    if vessel_radius_mm:
        tissue |= (z**2 + y**2 <= vessel_radius_mm**2) & (x > -side_mm)
    share = tissue.astype(np.float32)
    if wall_from_mm is not None:
        share = np.maximum(share, (x >= wall_from_mm) & (z > -side_mm) & (y > -side_mm)).astype(np.float32)
    share = ndimage.gaussian_filter(share, [0.5 / step for step in fine_mm])
    share = share.reshape(shape[0], 3, shape[1], 3, shape[2], 3).mean(axis=(1, 3, 5))
    noise = np.random.default_rng(seed).normal(0, noise_hu, share.shape)
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing_mm)[::-1]
    affine[:3, 3] = (-40.0, 25.0, -210.0)
    volume = CTVolume(np.rint(-860 + (nodule_hu + 860) * share + noise).astype(np.int16), affine)
    return volume, volume.to_lps_mm((np.array(shape) - 1) / 2)


@pytest.fixture
def make_nodule() -> MakeNodule:
    return _nodule


@pytest.fixture(scope="session")
def key_images() -> dict[str, bytes]:
    """Key images of the three findings of `study_review`, by file name."""
    volume, center = _nodule((4, 4, 4))
    pictures = render_key_images(volume, center, 8.0, ReviewParams())
    return {key_image_name(f"f{n}", view): content for n in (1, 2, 3) for view, content in pictures.items()}


@pytest.fixture(scope="session")
def study_review(key_images: dict[str, bytes]) -> StudyReview:
    card = resnet50_card()
    sizes = {
        "f1": Measurement(mean_diameter_mm=7.2, method="diameter of the mark (not outlined: no lung around the mark)"),
        "f2": Measurement(
            mean_diameter_mm=8.1, long_axis_mm=8.4, short_axis_mm=7.8, volume_mm3=268, mean_hu=-12, method="outlined"
        ),
        "f3": Measurement(mean_diameter_mm=5.0, method="diameter of the mark"),
    }
    probabilities = {"f1": (0.21, 0.12), "f2": (0.87, 0.91), "f3": (None, None)}
    findings = tuple(
        Finding(
            finding_id=finding_id,
            nodule_id=f"nodule-{finding_id}",
            series_key="0123456789abcdef",
            lps_mm=(10.0, -20.0, -130.5),
            kji=(42.0, 100.0, 90.0),
            slice_number=43,
            side="left",
            measurement=sizes[finding_id],
            probability=probabilities[finding_id][0],
            probability_size_only=probabilities[finding_id][1],
            n_readers=4,
            ratings={"malignancy": 4.25, "spiculation": 2.5},
            source="lidc-xml",
            padded=finding_id == "f1",
            key_images=tuple(name for name in key_images if name.startswith(f"key-{finding_id}-")),
        )
        for finding_id in ("f1", "f2", "f3")
    )
    series = SeriesSummary(
        series_key="0123456789abcdef",
        site="site-a",
        n_slices=133,
        spacing_kji_mm=(2.5, 0.703125, 0.703125),
        slice_thickness_mm=2.5,
        kernel="B70f",
        manufacturer="SIEMENS",
        kvp=120,
        contrast=None,
        findings=(QualityFinding(code=ReasonCode.GANTRY_TILT, detail="12.5 degrees"),),
    )
    return StudyReview(
        study_key="b1946ac92492d234",
        patient_key="7c6a180b36896a0a",
        created_utc="2026-11-21T04:30:00Z",
        model_name="noduleflow",
        model_version="3",
        model=card,
        evaluation_summary={"AUC, image + size": "0.902 [0.821-0.955]"},
        series=(series,),
        findings=findings,
        origin_of_findings="Marks of 4 readers.",
        not_examined=("Lymph nodes and mediastinum.",),
    )


@pytest.fixture(scope="session")
def stacks() -> dict[str, bytes]:
    """Slices around the findings f1 and f2 of `told_review`; f3 has none."""
    volume, center = _nodule((4, 4, 4))
    packed = pack_stack(volume, center, 8.0, ReviewParams())
    return {stack_name("f1"): packed, stack_name("f2"): packed}


@pytest.fixture(scope="session")
def told_review(study_review: StudyReview) -> StudyReview:
    """`study_review` with all that a report can say: a prior, guidelines, intervals, calls, what is unfamiliar."""
    context = PatientContext(age_years=63, sex="female", screening=True, study_date=date(2020, 5, 1))
    then = PriorNodule(mean_diameter_mm=6.5, volume_mm3=150, study_date=date(2019, 5, 1))
    nodules = [
        GuidelineNodule(nodule_id="f1", mean_diameter_mm=7.2, nodule_type="solid", status="baseline"),
        GuidelineNodule(
            nodule_id="f2", mean_diameter_mm=8.1, volume_mm3=268, nodule_type="part_solid", solid_diameter_mm=5.5,
            prior=then,
        ),
        GuidelineNodule(nodule_id="f3", mean_diameter_mm=5.0),
    ]  # fmt: skip
    guidelines = assess_study(nodules, context, None)
    growth = guidelines.nodules[1].growth
    f1, f2, f3 = study_review.findings
    f1 = f1.model_copy(
        update={
            "stack": stack_name("f1"), "call": "uncertain", "probability_interval": (0.08, 0.44),
            "unfamiliar": "Its slices are thicker than any it was judged on.", "slice_number": 60,
            "lps_mm": (10.0, -20.0, -88.0),
        }
    )  # fmt: skip
    measurement = f2.measurement.model_copy(
        update={
            "nodule_type": "part_solid", "solid_diameter_mm": 5.5, "solid_volume_mm3": 87.0,
            "diameter_interval_mm": (7.3, 8.9), "volume_interval_mm3": (190.0, 350.0),
        }
    )  # fmt: skip
    f2 = f2.model_copy(
        update={
            "stack": stack_name("f2"), "call": "malignant", "probability_interval": (0.7, 0.95),
            "lobe": "left upper lobe",
            "series_number": 3, "instance_number": 91, "measurement": measurement,
            "prior": PriorFinding(
                study_key="aa46ac92492d2340", finding_id="p2", study_date="20190501", mean_diameter_mm=6.5,
                volume_mm3=150, nodule_type="ground_glass", distance_mm=1.4, growth=growth,
            ),
        }
    )  # fmt: skip
    f3 = f3.model_copy(update={"detection_score": 0.41, "source": "candidate", "n_readers": 0, "ratings": {}})
    missed = MissedPrior(
        study_key="aa46ac92492d2340", finding_id="p9", mean_diameter_mm=4.4, lps_mm=(-41.0, 12.5, -88.0),
        reason="nothing of its size within 15 mm",
    )  # fmt: skip
    series = study_review.series[0].model_copy(
        update={
            "shape_kji": (133, 512, 512),
            "affine_lps": ((0, 0, 0.7, -180.0), (0, 0.7, 0, -160.0), (2.5, 0, 0, -300.0)),
        }
    )
    return study_review.model_copy(
        update={
            "findings": (f1, f2, f3), "series": (series,), "guidelines": guidelines, "context": context,
            "prior_study_key": "aa46ac92492d2340", "missed_priors": (missed,),
            "unfamiliar": ("No series of this manufacturer was among those the model was judged on.",),
        }
    )  # fmt: skip
