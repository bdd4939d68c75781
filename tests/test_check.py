"""What slices of one series make: one volume, several, or a refusal with its slices and figures."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from plane_headers import every, plane, stack

from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from pipeline.headers.slice_header import SliceHeader
from pipeline.headers.verdict import Refusal
from pipeline.intake.check import Part, make_parts

EVEN = every(2.0, 24)


def made(planes: Sequence[SliceHeader], **policy: Any) -> list[Part | Refusal]:
    shuffled = list(planes)
    random.Random(7).shuffle(shuffled)
    return make_parts(shuffled, IngestParams.from_mapping(policy))


def part_of(planes: Sequence[SliceHeader], **policy: Any) -> Part:
    (part,) = made(planes, **policy)
    assert isinstance(part, Part), part.detail
    return part


def refusal_of(planes: Sequence[SliceHeader], **policy: Any) -> Refusal:
    (refusal,) = made(planes, **policy)
    assert isinstance(refusal, Refusal)
    return refusal


def parts_of(planes: Sequence[SliceHeader], **policy: Any) -> list[Part]:
    parts = made(planes, **policy)
    assert all(isinstance(part, Part) for part in parts), [getattr(part, "detail", "") for part in parts]
    return [part for part in parts if isinstance(part, Part)]


def numbers(slices: Sequence[SliceHeader]) -> list[int]:
    return [header.instance_number or 0 for header in slices]


def codes(part: Part) -> set[ReasonCode]:
    return {note.reason for note in part.notes}


def test_slices_are_in_the_order_of_their_places_whatever_their_numbers_say() -> None:
    planes = [replace(header, instance_number=97 * n % 24) for n, header in enumerate(stack(EVEN))]
    part = part_of(planes)
    assert [header.position[2] for header in part.slices if header.position] == EVEN.tolist()
    assert part.notes == ()


def test_missing_slices_are_named_place_by_place_with_their_gaps() -> None:
    refusal = refusal_of(stack(np.delete(EVEN, [5, 12, 13])))
    assert refusal.reason is ReasonCode.MISSING_SLICES
    assert refusal.detail == (
        "3 missing at 2 place(s) where 2.00 mm is usual: 1 after slice 5 (4.00 mm); 2 after slice 11 (6.00 mm)"
    )
    assert numbers(refusal.slices) == [5, 6, 11, 12]


def test_a_gap_of_no_whole_number_of_steps_is_irregular_and_named() -> None:
    heights = EVEN.copy()
    heights[10:] += 1.3
    refusal = refusal_of(stack(heights))
    assert refusal.reason is ReasonCode.IRREGULAR_SPACING
    assert "3.30 mm after slice 10" in refusal.detail
    assert numbers(refusal.slices) == [10, 11]


def test_steps_that_change_are_irregular() -> None:
    heights = np.concatenate([every(2.0, 12), every(4.0, 12, 33.0 + 26)])
    refusal = refusal_of(stack(heights))
    assert refusal.reason is ReasonCode.IRREGULAR_SPACING
    assert "from 2.00 to 4.00 mm" in refusal.detail
    assert refusal.slices


def test_a_slice_beside_the_line_of_the_others_is_named_with_its_distance() -> None:
    planes = stack(EVEN)
    planes[8] = plane((-118.0, -98.25, EVEN[8]), 9)
    refusal = refusal_of(planes)
    assert refusal.reason is ReasonCode.IRREGULAR_SPACING
    assert "slice 9 of 24" in refusal.detail
    assert numbers(refusal.slices) == [9]


@pytest.mark.parametrize("step_mm", [0.3, 0.333333, 0.625, 1.25, 5.0, 10.0])
def test_places_rounded_to_a_hundredth_make_an_even_volume_however_long_it_is(step_mm: float) -> None:
    true = 12.345 + step_mm * np.arange(1500)
    part = part_of(stack(np.round(true, 2), slice_thickness_mm=step_mm))
    far = part.grid.affine @ [1499, 0, 0, 1]
    assert abs(far[2] - true[-1]) <= 0.01
    assert abs(part.grid.affine[2, 0] - step_mm) <= 1e-4
    assert part.notes == ()


def test_a_jitter_that_matters_is_a_finding_with_its_slice_and_figure() -> None:
    heights = EVEN.copy()
    heights[17] += 0.09
    part = part_of(stack(heights))
    (note,) = part.notes
    assert note.reason is ReasonCode.UNEVEN_POSITIONS
    assert numbers(note.slices) == [18]
    assert "at slice 18 of 24" in note.detail


def test_evenly_missing_slices_are_a_finding_as_only_their_thickness_shows_them() -> None:
    (note,) = part_of(stack(EVEN[::2])).notes
    assert note.reason is ReasonCode.SPARSE_SLICES
    assert note.detail == "slices of 2 mm every 4 mm"
    assert part_of(stack(EVEN, slice_thickness_mm=1.25)).notes == ()
    assert part_of(stack(EVEN, slice_thickness_mm=None)).notes == ()


def test_overlapping_slices_are_an_even_volume() -> None:
    part = part_of(stack(every(2.5, 30), slice_thickness_mm=5.0))
    assert part.notes == ()


@pytest.mark.parametrize(
    ("facts", "reason", "words"),
    [
        ({"rows": 256, "columns": 300}, ReasonCode.MIXED_MATRIX, "256 x 300 pixels where 512 x 512"),
        ({"pixel_spacing": (0.9, 0.9)}, ReasonCode.MIXED_SPACING, "0.9 x 0.9 mm where 0.7 x 0.7"),
        ({"orientation": (1, 0, 0, 0, 0.99863, 0.05234)}, ReasonCode.MIXED_ORIENTATION, "3.00 degrees"),
        ({"frame_of_reference_uid": "1.8"}, ReasonCode.MIXED_FRAME_OF_REFERENCE, "another frame of reference"),
    ],
)
@pytest.mark.parametrize("odd", [(11,), (23,), (3, 9, 15), (20, 21, 22, 23)])
def test_odd_slices_of_a_stack_refuse_it_and_are_named(
    facts: dict[str, Any], reason: ReasonCode, words: str, odd: tuple[int, ...]
) -> None:
    planes = [replace(header, **facts) if n in odd else header for n, header in enumerate(stack(EVEN))]
    refusal = refusal_of(planes)
    assert refusal.reason is reason
    assert words in refusal.detail
    assert sorted(numbers(refusal.slices)) == [n + 1 for n in odd]
    assert ", ".join(str(n + 1) for n in odd) in refusal.detail


def test_two_whole_stacks_of_other_frames_of_reference_are_two_volumes() -> None:
    head, body = stack(EVEN), stack(every(2.0, 20, 900.0), frame_of_reference_uid="1.8", name="1.4")
    parts = parts_of([*head, *body])
    assert sorted(len(part.slices) for part in parts) == [20, 24]
    assert all(codes(part) == {ReasonCode.MULTIPLE_ACQUISITIONS} for part in parts)


def test_a_whole_stack_and_a_torn_one_of_another_matrix_are_refused_with_the_torn_one() -> None:
    small = stack(np.delete(EVEN, 7), rows=256, columns=256, name="1.4")
    refusal = refusal_of([*stack(EVEN), *small])
    assert refusal.reason is ReasonCode.MISSING_SLICES
    assert "23 slices of 256 x 256 pixels" in refusal.detail


def test_an_image_across_the_others_is_a_localizer_that_does_not_say_so() -> None:
    scout = plane((0, 0, 50), 99, orientation=(1.0, 0, 0, 0, 0, -1.0), rows=800)
    outcome = made([*stack(EVEN), scout])
    (part,) = [item for item in outcome if isinstance(item, Part)]
    (refusal,) = [item for item in outcome if isinstance(item, Refusal)]
    assert len(part.slices) == 24
    assert refusal.reason is ReasonCode.LOCALIZER
    assert numbers(refusal.slices) == [99]


def test_a_whole_coronal_stack_in_the_same_series_is_a_volume_of_its_own() -> None:
    coronal = [
        plane((-120.5, -98.25 + 3 * n, 200), n, name="1.4", orientation=(1.0, 0, 0, 0, 0, -1.0)) for n in range(1, 15)
    ]
    assert sorted(len(part.slices) for part in parts_of([*stack(EVEN), *coronal])) == [14, 24]


def test_slices_without_geometry_are_counted_and_named() -> None:
    planes = stack(EVEN)
    planes[4] = replace(planes[4], position=None)
    planes[6] = replace(planes[6], pixel_spacing=(0.0, 0.7))
    refusal = refusal_of(planes)
    assert refusal.reason is ReasonCode.MISSING_GEOMETRY
    assert refusal.detail.startswith("2 of 24")
    assert sorted(numbers(refusal.slices)) == [5, 7]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("acquisition", [("1", ""), ("2", "")]),
        ("acquisition", [("1", "1"), ("1", "2")]),
        ("kernel", ["B30f", "B70f"]),
        ("image_type", [("ORIGINAL", "PRIMARY", "AXIAL"), ("ORIGINAL", "PRIMARY", "AXIAL", "DE")]),
        ("kvp", [80.0, 140.0]),
        ("acquisition_time", ["101500.00", "101547.25"]),
        ("content_time", ["101500.00", "101547.25"]),
    ],
)
@pytest.mark.parametrize("offset_mm", [0.0, 1.0, 0.7])
def test_two_stacks_in_one_another_are_told_apart_by_whatever_differs(
    name: str, values: list[Any], offset_mm: float
) -> None:
    one, other = stack(EVEN, **{name: values[0]}), stack(EVEN + offset_mm, name="1.4", **{name: values[1]})
    both = [replace(header, instance_number=n) for n, header in enumerate([*one, *other])]
    random.Random(3).shuffle(both)
    both = [replace(header, instance_number=n) for n, header in enumerate(both)]
    if offset_mm == 0:
        # without files there is nothing to compare: slices whose rescale differs are different
        both = [replace(h, rescale_intercept=-1000.0) if getattr(h, name) == values[1] else h for h in both]
    parts = parts_of(both)
    assert [len(part.slices) for part in parts] == [24, 24]
    for part in parts:
        assert len({getattr(header, name) for header in part.slices}) == 1
        assert codes(part) == {ReasonCode.MULTIPLE_ACQUISITIONS}


def _different(planes: Sequence[SliceHeader], number: int) -> list[SliceHeader]:
    """The planes with a rescale of their own, so that they differ from others at the same place."""
    return [replace(header, rescale_intercept=-1024.0 + number) for header in planes]


def test_three_phases_told_by_the_pauses_between_their_times() -> None:
    planes = []
    for phase, start_s in enumerate((0, 41, 97)):
        times = [f"10{(start_s + n // 8) // 60:02d}{(start_s + n // 8) % 60:02d}.{n % 8}" for n in range(24)]
        planes += _different(
            [replace(h, acquisition_time=time) for h, time in zip(stack(EVEN, name=f"1.{phase}"), times, strict=True)],
            phase,
        )
    planes = [replace(header, instance_number=7) for header in planes]
    parts = parts_of(planes)
    assert [len(part.slices) for part in parts] == [24, 24, 24]
    assert all(len({header.rescale_intercept for header in part.slices}) == 1 for part in parts)


def test_two_phases_with_two_kernels_each_are_four_volumes() -> None:
    planes = []
    for number, (phase, kernel) in enumerate([("1", "B30f"), ("1", "B70f"), ("2", "B30f"), ("2", "B70f")]):
        planes += _different(stack(EVEN, acquisition=(phase, ""), kernel=kernel, name=f"1.{number}"), number)
    parts = parts_of(planes)
    assert [len(part.slices) for part in parts] == [24] * 4
    assert {note.detail.split(", told")[0] for part in parts for note in part.notes} == {
        f"part {n} of 4 of one series" for n in (1, 2, 3, 4)
    }


def test_two_stacks_that_differ_in_nothing_but_a_new_start_of_their_numbers() -> None:
    again = [replace(header, instance_number=n) for n, header in enumerate(stack(EVEN, name="1.4"), start=25)]
    parts = parts_of([*stack(EVEN), *_different(again, 1)])
    assert [sorted(numbers(part.slices)) for part in parts] == [list(range(1, 25)), list(range(25, 49))]


def test_two_acquisitions_of_which_one_is_torn_are_refused_with_the_torn_one() -> None:
    torn = stack(np.delete(EVEN, 9), acquisition=("2", ""), name="1.4")
    refusal = refusal_of([*stack(EVEN), *_different(torn, 1)])
    assert "told apart by acquisition number (23 slices): 1 missing at 1 place(s)" in refusal.detail
    assert refusal.slices


@pytest.mark.parametrize("gap", [slice(8, 9), slice(8, 10), slice(12, 15)])
def test_a_hole_is_no_second_acquisition_whatever_times_and_numbers_say(gap: slice) -> None:
    left = np.delete(np.arange(24), np.arange(24)[gap])
    planes = [
        replace(header, instance_number=24 - n, acquisition_time=f"1015{n // 7:02d}", content_time=f"1016{n:02d}")
        for n, header in enumerate(stack(EVEN))
    ]
    assert refusal_of([planes[n] for n in left]).reason is ReasonCode.MISSING_SLICES


def test_numbered_rotations_are_one_volume_and_a_hole_among_them_is_a_hole() -> None:
    planes = stack(EVEN, acquisition=lambda number: (str(1 + (number - 1) // 4), ""))
    assert part_of(planes).notes == ()
    assert refusal_of([header for n, header in enumerate(planes) if n not in (8, 9, 10, 11)]).reason in (
        ReasonCode.MISSING_SLICES,
        ReasonCode.IRREGULAR_SPACING,
    )


def test_two_acquisitions_with_space_between_them_are_two_volumes() -> None:
    upper = stack(every(2.0, 15, 133.3), acquisition=("2", ""), name="1.4")
    assert sorted(len(part.slices) for part in parts_of([*stack(EVEN), *upper])) == [15, 24]


def test_one_slice_of_another_kernel_is_a_finding_that_names_it() -> None:
    planes = stack(EVEN)
    planes[6] = replace(planes[6], kernel="B70f")
    (note,) = part_of(planes).notes
    assert note.reason is ReasonCode.MULTIPLE_ACQUISITIONS
    assert "kernel of 1 slices differs" in note.detail
    assert numbers(note.slices) == [7]


def test_missing_slices_are_left_open_where_the_policy_interpolates_them() -> None:
    planes = stack(np.delete(EVEN, [5, 12, 13]))
    assert refusal_of(planes, missing="interpolate", max_missing=1).reason is ReasonCode.MISSING_SLICES
    part = part_of(planes, missing="interpolate", max_missing=2)
    assert part.grid.missing == (5, 12, 13)
    assert part.grid.n_slices == 24
    assert np.allclose(part.grid.affine[2, 0], 2.0)


def test_no_policy_stretches_over_steps_that_change() -> None:
    heights = np.concatenate([every(2.0, 12), every(4.0, 12, 33.0 + 26)])
    assert refusal_of(stack(heights), missing="interpolate", max_missing=9).reason is ReasonCode.IRREGULAR_SPACING


def test_the_check_of_300_slices_costs_milliseconds() -> None:
    planes = [
        replace(header, acquisition_time=f"1015{n // 10:02d}.{n % 10}", content_time=f"1016{n // 10:02d}.{n % 10}")
        for n, header in enumerate(stack(every(1.0, 300)))
    ]
    random.Random(1).shuffle(planes)
    best_s = 1.0
    for _ in range(10):
        start = time.process_time()
        make_parts(planes, IngestParams())
        best_s = min(best_s, time.process_time() - start)
    # three milliseconds of processor time; the bound is what a loaded machine keeps
    assert best_s < 0.03
