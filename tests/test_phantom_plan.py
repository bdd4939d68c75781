"""Which LIDC nodules go into a phantom cohort, and what shape and density they get there."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from data_contracts.errors import UsageError
from data_contracts.params import PhantomParams
from pipeline.annotations.contours import contour_mask
from pipeline.cohort.lidc_database import LidcDatabase
from pipeline.cohort.phantom_plan import builtin_reserved_patients, plan_cohort
from pipeline.cohort.phantom_shape import consensus_shape, edge_width_mm, nodule_hu


@pytest.fixture(scope="module")
def plan():
    return plan_cohort(PhantomParams())


def test_no_reserved_patient_is_used_by_default(plan):
    reserved = set(builtin_reserved_patients())
    assert len(reserved) == 260
    assert not reserved & {nodule.patient_id for patient in plan for nodule in patient.nodules}


@pytest.mark.realdata
def test_the_built_in_list_is_the_one_of_the_real_data(shared_data):
    listed = (shared_data / "lidc-nodules" / "reserved_patients.txt").read_text().split()
    assert sorted(builtin_reserved_patients()) == sorted(listed)


def test_a_list_of_ones_own_replaces_the_built_in_one():
    small = PhantomParams(n_patients=3, reserved_patients=())
    used = {nodule.patient_id for patient in plan_cohort(small) for nodule in patient.nodules}
    without = plan_cohort(small.model_copy(update={"reserved_patients": tuple(sorted(used))}))
    assert not used & {nodule.patient_id for patient in without for nodule in patient.nodules}


def test_a_lidc_patient_is_in_one_phantom_patient_and_no_nodule_is_used_twice(plan):
    owners: dict[str, set[int]] = {}
    for patient in plan:
        for nodule in patient.nodules:
            owners.setdefault(nodule.patient_id, set()).add(patient.index)
    assert all(len(indices) == 1 for indices in owners.values())
    marks = [mark.annotation_id for patient in plan for nodule in patient.nodules for mark in nodule.marks]
    assert len(set(marks)) == len(marks)


def test_labels_are_balanced_with_some_indeterminate_at_both_sites(plan):
    for site in ("a", "b"):
        means = [n.mean_ratings["malignancy"] for patient in plan if patient.site == site for n in patient.nodules]
        counts = Counter(int(np.sign(mean - 3)) for mean in means)
        assert 0.35 < counts[1] / len(means) < 0.55
        assert 0.35 < counts[-1] / len(means) < 0.55
        assert counts[0] > 0


def test_every_nodule_has_three_readers_three_slices_and_a_diameter_in_range(plan):
    for patient in plan:
        for nodule in patient.nodules:
            assert len(nodule.marks) >= 3
            assert 4.0 <= nodule.diameter_mm <= 30.0
            assert min(len({c.z_mm for c in mark.contours}) for mark in nodule.marks) >= 3


def test_more_patients_than_lidc_can_fill_are_refused():
    with pytest.raises(UsageError, match="too few nodules"):
        plan_cohort(PhantomParams(n_patients=40, min_diameter_mm=28.0))


def test_the_shape_has_the_size_that_the_readers_drew(plan):
    ratios = []
    for patient in plan[:10]:
        for nodule in patient.nodules:
            shape = consensus_shape(nodule)
            inside = shape.distance_mm > 0
            widest = 0.0
            for plane in inside:
                points = np.argwhere(plane) * nodule.pixel_spacing_mm
                if len(points):
                    widest = max(widest, float(np.ptp(points, axis=0).max()))
            # contours run outside the nodule, so a drawn shape is a little smaller than the contours' diameter
            ratios.append((widest + 2 * nodule.pixel_spacing_mm) / nodule.diameter_mm)
    assert 0.75 < np.median(ratios) < 1.1


def test_the_interpolated_volume_agrees_with_the_stack_of_drawn_slices():
    (nodule,) = LidcDatabase().nodules("LIDC-IDRI-0001")
    shape = consensus_shape(nodule)
    volume_mm3 = float((shape.distance_mm > 0).sum() * np.prod(shape.spacing_kji_mm))
    stacks = [contour_mask(mark.contours).mask.sum() * nodule.pixel_spacing_mm**2 * 2.5 for mark in nodule.marks]
    assert volume_mm3 == pytest.approx(float(np.median(stacks)), rel=0.1)


def test_the_field_is_zero_at_the_surface_and_falls_by_a_millimetre_each_millimetre():
    (nodule,) = LidcDatabase().nodules("LIDC-IDRI-0001")
    shape = consensus_shape(nodule)
    steps = np.linspace(-40, 40, 161)
    line = shape.at(np.zeros(1), np.zeros(1), steps)[0, 0]
    assert line[80] > 3
    assert line[0] < 0 and line[-1] < 0
    assert np.abs(np.diff(line)).max() <= 0.5 * 1.5
    assert abs(steps[line > 0]).max() <= shape.radius_mm


def test_hu_follows_the_readers_texture_and_calcification(plan):
    nodules = [nodule for patient in plan for nodule in patient.nodules]
    by_kind: dict[str, list[float]] = {"glass": [], "solid": [], "calcified": []}
    for nodule in nodules:
        ratings = nodule.mean_ratings
        calcification = [mark.ratings["calcification"] for mark in nodule.marks]
        if set(calcification) <= {3.0}:
            kind = "calcified"
        elif min(calcification) < 6:
            continue
        elif ratings["texture"] <= 1.5:
            kind = "glass"
        elif ratings["texture"] >= 4.75:
            kind = "solid"
        else:
            continue
        shape = consensus_shape(nodule)
        hu = nodule_hu(nodule, shape.distance_mm, np.random.default_rng(0))
        by_kind[kind].append(float(hu[shape.distance_mm > 0].mean()))
    assert all(-650 < hu < -450 for hu in by_kind["glass"]) and by_kind["glass"]
    assert all(-20 < hu < 60 for hu in by_kind["solid"]) and len(by_kind["solid"]) > 20
    assert all(hu > 150 for hu in by_kind["calcified"]) and by_kind["calcified"]


def test_a_poorly_defined_margin_fades_over_a_wider_edge():
    assert edge_width_mm({"margin": 1.0}) > 2 * edge_width_mm({"margin": 5.0})
