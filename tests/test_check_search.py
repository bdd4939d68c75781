"""A search over series that are mixed, torn and shuffled: what is accepted is whole, alike and at its place."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from plane_headers import AXIAL, plane

from data_contracts.params import IngestParams
from pipeline.headers.slice_header import SliceHeader
from pipeline.intake.check import Part, make_parts

OBLIQUE = (1.0, 0.0, 0.0, 0.0, 0.939693, 0.34202)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)

stacks = st.fixed_dictionaries(
    {
        "count": st.integers(1, 30),
        "step_mm": st.sampled_from([0.3, 0.625, 1.0, 1.25, 2.0, 5.0]),
        "offset_mm": st.sampled_from([0.0, 0.5, 1.0, 7.3, 60.0]),
        "slip_mm": st.sampled_from([0.0, 0.0, 0.4]),
        "jitter_mm": st.sampled_from([0.0, 0.0, 0.004, 0.08, 0.4]),
        "lost": st.lists(st.integers(0, 29), max_size=4),
        "orientation": st.sampled_from([AXIAL, AXIAL, AXIAL, OBLIQUE, CORONAL]),
        "rows": st.sampled_from([512, 512, 256]),
        "pixel_mm": st.sampled_from([0.7, 0.7, 0.9]),
        "frame": st.sampled_from(["1.9", "1.9", "1.8"]),
        "kernel": st.sampled_from(["B30f", "B70f"]),
        "number": st.sampled_from(["1", "1", "2"]),
        "start_s": st.sampled_from([None, 0, 40]),
    }
)


def planes_of(stack: dict[str, object], name: int) -> list[SliceHeader]:
    rng = np.random.default_rng(name)
    orientation = stack["orientation"]
    row, column = np.array(orientation[:3]), np.array(orientation[3:])  # type: ignore[index]
    normal = np.cross(row, column)
    made = []
    for n in range(stack["count"]):  # type: ignore[call-overload]
        if n in stack["lost"]:  # type: ignore[operator]
            continue
        height = stack["offset_mm"] + n * stack["step_mm"] + rng.uniform(-1, 1) * stack["jitter_mm"]  # type: ignore[operator]
        place = np.round(height * normal + n * stack["slip_mm"] * column, 4)  # type: ignore[operator]
        start_s = stack["start_s"]
        made.append(
            plane(
                place,
                n,
                name=f"1.2.{name}",
                orientation=orientation,
                rows=stack["rows"],
                pixel_spacing=(stack["pixel_mm"], stack["pixel_mm"]),
                frame_of_reference_uid=stack["frame"],
                kernel=stack["kernel"],
                acquisition=(stack["number"], ""),
                acquisition_time="" if start_s is None else f"1015{start_s + n // 8:02d}",
                # slices at one place are never equal: no file is there to compare them by
                rescale_intercept=-1024.0 - name,
            )
        )
    return made


@settings(max_examples=300, deadline=None)
@given(
    drawn=st.lists(stacks, min_size=1, max_size=3),
    seed=st.integers(0, 99),
    policy=st.sampled_from([{}, {"missing": "interpolate", "max_missing": 2}]),
)
def test_what_is_accepted_is_whole_alike_and_at_its_place(
    drawn: list[dict[str, object]], seed: int, policy: dict[str, object]
) -> None:
    planes = [header for name, stack in enumerate(drawn) for header in planes_of(stack, name)]
    if not planes:
        return
    shuffled = list(planes)
    random.Random(seed).shuffle(shuffled)
    params = IngestParams.from_mapping(policy)
    outcome = make_parts(shuffled, params)
    parts = [part for part in outcome if isinstance(part, Part)]
    assert outcome
    assert len({id(header) for part in parts for header in part.slices}) == sum(len(part.slices) for part in parts)
    for part in parts:
        first = part.slices[0]
        for word in ("rows", "orientation", "pixel_spacing", "frame_of_reference_uid"):
            assert {getattr(header, word) for header in part.slices} == {getattr(first, word)}
        places = np.setdiff1d(np.arange(part.grid.n_slices), part.grid.missing)
        assert len(places) == len(part.slices)
        assert not part.grid.missing or params.missing == "interpolate"
        on_grid = part.grid.affine[:3, 3] + places[:, None] * part.grid.affine[:3, 0]
        off = np.linalg.norm(on_grid - np.array([header.position for header in part.slices]), axis=1)
        assert off.max() <= 0.15
        # a volume of two stacks says so, unless they continue each other as one scan does
        owners = {header.sop_instance_uid.rpartition(".")[0] for header in part.slices}
        if len(owners) > 1 and len({header.kernel for header in part.slices}) > 1:
            assert part.notes
    again = make_parts(planes, params)
    assert _shape(again) == _shape(outcome)


def _shape(outcome: list[object]) -> list[tuple[str, ...]]:
    """What was made, apart from the order of the parts."""
    told = []
    for item in outcome:
        if isinstance(item, Part):
            told.append(("part", *(header.sop_instance_uid for header in item.slices)))
        else:
            told.append(("refusal", item.reason.value))  # type: ignore[attr-defined]
    return sorted(told)


def test_one_slice_more_or_less_of_a_second_stack_never_changes_the_places_of_the_first() -> None:
    first = planes_of(
        {
            "count": 24,
            "step_mm": 2.0,
            "offset_mm": 0.0,
            "slip_mm": 0.0,
            "jitter_mm": 0.0,
            "lost": [],
            "orientation": AXIAL,
            "rows": 512,
            "pixel_mm": 0.7,
            "frame": "1.9",
            "kernel": "B30f",
            "number": "1",
            "start_s": None,
        },
        0,
    )
    second = [
        replace(header, sop_instance_uid=f"1.9.{n}", kernel="B70f", rescale_intercept=-1000.0)
        for n, header in enumerate(first)
    ]
    for count in range(25):
        outcome = make_parts([*first, *second[:count]], IngestParams())
        for part in outcome:
            if isinstance(part, Part):
                assert len({header.kernel for header in part.slices}) == 1
                assert abs(part.grid.affine[2, 0] - 2.0) < 1e-9
