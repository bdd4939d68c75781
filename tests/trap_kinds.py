"""Kinds of trap: what is done to a sound series, what is then wanted of it, and which slices are concerned.

`KINDS` maps each name to its maker. A kind may change the plan before the series is made and the planes after.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from trap_series import Plan, Plane, Truth, oblique

from data_contracts.reasons import ReasonCode as Code


@dataclass(repr=False)
class Draft:
    """A series under way to a trap.

    expect: as judges read it. codes: at least one of these must name a flagged case; empty asks for none.
    must, may: SOP Instance UIDs that refusal or finding must name, and may name beside them; None asks for none.
    others: truths of further series that must come out. accepted: how many series must.
    """

    rng: random.Random
    plan: Plan
    patient: str
    truth: Truth
    planes: list[Plane]
    expect: str = "convert"
    codes: frozenset[Code] = frozenset()
    must: set[str] = field(default_factory=set)
    may: set[str] | None = None
    others: list[Truth] = field(default_factory=list)
    junk: list[tuple[str, bytes]] = field(default_factory=list)
    slack_mm: float = 0.0
    slack_hu: float = 0.0

    def __repr__(self) -> str:
        return f"<{self.patient}: wanted {self.expect}, {len(self.planes)} planes>"

    def flag(self, expect: str, *codes: Code, must: Iterable[Plane] = (), may: Iterable[Plane] | None = None) -> None:
        """Say what is wanted, and which planes are concerned."""
        self.expect, self.codes = expect, frozenset(codes)
        self.must = {plane.uid for plane in must}
        self.may = None if may is None else self.must | {plane.uid for plane in may}

    def around(self, *numbers: int) -> list[Plane]:
        """Planes at and beside these numbers."""
        near = {number + offset for number in numbers for offset in (-1, 0, 1)}
        return [self.planes[number] for number in sorted(near) if 0 <= number < len(self.planes)]

    def anywhere(self) -> int:
        """The first, last, second or any slice."""
        n = len(self.planes)
        return self.rng.choice([0, n - 1, 1, n - 2, n // 2, self.rng.randrange(n)])


@dataclass(frozen=True)
class Kind:
    """prepare changes the plan, damage the draft; reference: number of the kind in the reference list of 51."""

    name: str
    reference: str
    prepare: Callable[[Plan, random.Random], None]
    damage: Callable[[Draft], None]
    fixed: frozenset[str] = frozenset()


KINDS: dict[str, Kind] = {}


def _nothing(*_: object) -> None:
    return None


def planned(name: str, reference: str = "", fixed: str = "") -> Callable[[Callable[[Plan, random.Random], None]], None]:
    """Register a kind that is sound, made by a change of the plan. fixed: what of the plan nothing else may draw."""

    def register(prepare: Callable[[Plan, random.Random], None]) -> None:
        KINDS[name] = Kind(name, reference, prepare, _nothing, frozenset(fixed.split()))

    return register


def damaged(name: str, reference: str = "", fixed: str = "") -> Callable[[Callable[[Draft], None]], None]:
    """Register a kind made by a change of the planes."""

    def register(damage: Callable[[Draft], None]) -> None:
        KINDS[name] = Kind(name, reference, _nothing, damage, frozenset(fixed.split()))

    return register


def both(
    name: str,
    prepare: Callable[[Plan, random.Random], None],
    damage: Callable[[Draft], None],
    reference: str = "",
    fixed: str = "",
) -> None:
    """Register a kind that changes the plan and then the planes."""
    KINDS[name] = Kind(name, reference, prepare, damage, frozenset(fixed.split()))


# --- sound series -----------------------------------------------------------------------------------------------


@planned("baseline", "01")
def _baseline(plan: Plan, rng: random.Random) -> None:
    return None


def _posed(name: str, pose: str, reference: str = "") -> None:
    def prepare(plan: Plan, rng: random.Random) -> None:
        plan.pose, plan.iop = pose, oblique(rng) if pose == "oblique" else None

    KINDS[name] = Kind(name, reference, prepare, _nothing)


for _pose, _number in (("prone", "28"), ("feet_first", "29"), ("decubitus_right", "30"), ("oblique", "31"),
                       ("sagittal", "32"), ("coronal", ""), ("decubitus_left", "")):  # fmt: skip
    _posed(_pose, _pose, _number)


def _stored_as(name: str, syntax: str, reference: str = "", preamble: bool = True) -> None:
    def prepare(plan: Plan, rng: random.Random) -> None:
        plan.syntax, plan.preamble = syntax, preamble

    def damage(draft: Draft) -> None:
        if syntax in (JPEG2000Lossless, JPEGLSLossless, RLELossless, JPEGLosslessSV1, JPEGLossless, HTJ2KLossless):
            for plane in draft.planes:
                plane.options["fragments"] = 1 if syntax == RLELossless else draft.rng.choice([1, 1, 2])
                plane.options["table"] = draft.rng.random() < 0.5
                plane.options["signed_stream"] = draft.rng.random() < 0.5

    KINDS[name] = Kind(name, reference, prepare, damage, frozenset({"syntax"}))


_stored_as("jpegls_lossless", JPEGLSLossless, "15")
_stored_as("j2k_lossless", JPEG2000Lossless, "16")
_stored_as("rle", RLELossless, "17")
_stored_as("jpeg_lossless_sv1", JPEGLosslessSV1, "18")
_stored_as("jpeg_lossless_57", JPEGLossless)
_stored_as("htj2k_lossless", HTJ2KLossless)
_stored_as("deflated", DeflatedExplicitVRLittleEndian, "19")
_stored_as("big_endian", ExplicitVRBigEndian, "20")
_stored_as("implicit", ImplicitVRLittleEndian)
_stored_as("no_preamble_implicit", ImplicitVRLittleEndian, "21", preamble=False)
_stored_as("no_preamble_explicit", ExplicitVRLittleEndian, preamble=False)


@damaged("mixed_transfer_syntaxes", "44", fixed="syntax")
def _mixed_syntaxes(draft: Draft) -> None:
    some = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless, JPEG2000Lossless,
            ExplicitVRBigEndian, JPEGLosslessSV1, DeflatedExplicitVRLittleEndian]  # fmt: skip
    chosen = draft.rng.sample(some, draft.rng.randint(2, 4))
    for plane in draft.planes:
        plane.syntax = draft.rng.choice(chosen)


@planned("rescale_per_slice", "22", fixed="rescale")
def _rescale_per_slice(plan: Plan, rng: random.Random) -> None:
    step, slopes = rng.choice([0, 1, 10, 300]), rng.choice([(1.0,), (1.0, 2.0), (0.5, 1.0, 1.5), (1.0, 1.00048828)])
    plan.signed = True
    plan.rescale_of = lambda number: (slopes[number % len(slopes)], -1024.0 + step * (number % 7))


@planned("fractional_slope", fixed="rescale")
def _fractional_slope(plan: Plan, rng: random.Random) -> None:
    plan.slope, plan.intercept, plan.signed = rng.choice([0.244200, 0.1, 1.5, 3.7]), -1024.0, False


@planned("twelve_bits")
def _twelve_bits(plan: Plan, rng: random.Random) -> None:
    plan.bits, plan.signed, plan.slope, plan.intercept = (16, 12, 11), rng.random() < 0.5, 1.0, -1024.0
    plan.intercept = 0.0 if plan.signed else -1024.0
    plan.high = 2047 if plan.signed else 3071


@planned("twelve_bits_at_the_top", fixed="syntax")
def _high_bit(plan: Plan, rng: random.Random) -> None:
    plan.bits, plan.signed, plan.slope, plan.intercept = (16, 12, 15), False, 1.0, -1024.0


def _twelve_unsigned(plan: Plan, rng: random.Random) -> None:
    plan.bits, plan.signed, plan.slope, plan.intercept = (16, 12, 11), rng.random() < 0.3, 1.0, -1024.0
    if plan.signed:
        plan.intercept, plan.high = 0.0, 2047


def _overlay_bits(draft: Draft) -> None:
    for plane in draft.planes:
        plane.options["high_bits"] = draft.rng.choice([0x4000, 0x1000, 0xF000])


both("overlay_bits_above_12bit", _twelve_unsigned, _overlay_bits, "42", fixed="syntax")


@planned("thirty_two_bits", fixed="syntax")
def _thirty_two_bits(plan: Plan, rng: random.Random) -> None:
    plan.bits = (32, 32, 31) if rng.random() < 0.5 else (32, 16, 15)


@planned("eight_bits", fixed="syntax rescale")
def _eight_bits(plan: Plan, rng: random.Random) -> None:
    plan.bits, plan.signed, plan.slope, plan.intercept = (8, 8, 7), False, 12.0, -1024.0
    plan.high = 2000


@planned("metal", fixed="rescale")
def _metal(plan: Plan, rng: random.Random) -> None:
    plan.signed, plan.slope, plan.intercept, plan.high = False, 1.0, -8192.0, 30000


@planned("descending", "35")
def _descending(plan: Plan, rng: random.Random) -> None:
    plan.step_mm = -abs(plan.step_mm)


@planned("position_jitter", "37")
def _jitter(plan: Plan, rng: random.Random) -> None:
    plan.jitter_mm, plan.decimals = 0.004, 6


@planned("anisotropic_pixel_spacing", "50")
def _anisotropic(plan: Plan, rng: random.Random) -> None:
    plan.ps = (round(rng.uniform(0.3, 1.2), 4), round(rng.uniform(0.3, 1.2), 4))


@planned("tiny_matrix")
def _tiny(plan: Plan, rng: random.Random) -> None:
    plan.rows = plan.columns = 16


@planned("orientation_noise")
def _orientation_noise(plan: Plan, rng: random.Random) -> None:
    noise = np.random.default_rng(rng.getrandbits(32)).uniform(-2e-7, 2e-7, 6)
    plan.iop, plan.iop_decimals = tuple(np.array([1, 0, 0, 0, 1, 0]) + noise), 9


@planned("three_slices")
def _three_slices(plan: Plan, rng: random.Random) -> None:
    plan.n = rng.choice([3, 4, 5])


def _quirk_kind(name: str, reference: str, *quirks: str) -> None:
    def prepare(plan: Plan, rng: random.Random) -> None:
        plan.quirks = (*plan.quirks, *quirks)

    KINDS[name] = Kind(name, reference, prepare, _nothing)


_quirk_kind("zero_length_tags", "33", "zero_length_tags")
_quirk_kind("shuffled_instance_numbers", "34", "shuffled_numbers")
_quirk_kind("descending_instance_numbers", "35", "descending_numbers")
_quirk_kind("misleading_spacing_tags", "41", "misleading_spacing")
_quirk_kind("wrong_character_set", "", "wrong_charset")
_quirk_kind("private_and_nested", "", "private_and_nested", "icon_image")
_quirk_kind("untidy_numbers", "", "untidy_numbers")
_quirk_kind("negative_zeros", "", "negative_zeros")
_quirk_kind("one_frame", "", "one_frame")
_quirk_kind("huge_instance_numbers", "", "huge_numbers")


def _layout_kind(name: str, layout: str, reference: str = "") -> None:
    def prepare(plan: Plan, rng: random.Random) -> None:
        plan.layout = layout

    KINDS[name] = Kind(name, reference, prepare, _nothing, frozenset({"layout"}))


_layout_kind("nested_no_extension", "nested", "48")
_layout_kind("renamed_files", "renamed")
_layout_kind("scattered_over_folders", "scattered")
_layout_kind("odd_file_names", "odd_names")


@damaged("monochrome1", "36")
def _monochrome1(draft: Draft) -> None:
    for plane in draft.planes:
        plane.ds.PhotometricInterpretation = "MONOCHROME1"


def _unsigned_small(plan: Plan, rng: random.Random) -> None:
    plan.signed, plan.slope, plan.intercept = False, 1.0, -1024.0


@damaged("acquisition_number_of_each_slice")
def _acquisition_of_each(draft: Draft) -> None:
    for number, plane in enumerate(draft.planes):
        plane.ds.AcquisitionNumber = number + 1


@damaged("derived_reformat")
def _reformat(draft: Draft) -> None:
    for plane in draft.planes:
        plane.ds.ImageType = ["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"]


@damaged("no_frame_of_reference")
def _no_frame(draft: Draft) -> None:
    for plane in draft.planes:
        del plane.ds.FrameOfReferenceUID


@damaged("trailing_bytes", fixed="syntax")
def _trailing_bytes(draft: Draft) -> None:
    count = draft.rng.choice([2, 4, 8])
    for plane in draft.planes:
        width = int(plane.ds.BitsAllocated) // 8
        data = (plane.stored.astype(np.int64) & ((1 << 8 * width) - 1)).astype(f"<u{width}").tobytes()
        plane.options["pixels"] = data + bytes(count + len(data) % 2)


def _missing_representation(draft: Draft) -> None:
    for plane in draft.planes:
        del plane.ds.PixelRepresentation


both("no_pixel_representation", _unsigned_small, _missing_representation, fixed="rescale")


def _padded(name: str, signed: bool, reference: str) -> None:
    def prepare(plan: Plan, rng: random.Random) -> None:
        plan.signed, plan.slope, plan.intercept = signed, 1.0, -1024.0

    def damage(draft: Draft) -> None:
        value = draft.rng.choice([-2000, -3024, -32768, -1] if signed else [63536, 65535, 62512])
        rows, columns = draft.planes[0].stored.shape
        y, x = np.mgrid[:rows, :columns]
        outside = ((y - rows / 2) / (0.48 * rows)) ** 2 + ((x - columns / 2) / (0.48 * columns)) ** 2 > 1
        for plane in draft.planes:
            plane.stored[outside] = value
            vr = "SS" if signed != (draft.rng.random() < 0.2) else "US"
            plane.ds.add_new(0x00280120, vr, value & 0xFFFF if vr == "US" else (value + 2**15) % 2**16 - 2**15)
        draft.truth.mask = ~outside

    KINDS[name] = Kind(name, reference, prepare, damage, frozenset({"rescale"}))


_padded("signed_padding", True, "23")
_padded("unsigned_padding", False, "24")
