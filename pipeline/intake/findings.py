"""What a user of an accepted series must know: notes of the check and the assembly, and what the headers say."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydicom.uid import UID

from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from data_contracts.series import QualityFinding
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.headers.slice_header import SliceHeader
from pipeline.headers.verdict import Note
from pipeline.intake.assemble import AssembledVolume
from pipeline.intake.check import Part
from pipeline.intake.discover import RawSeries
from pipeline.intake.triage import is_derived, is_lossy, lossy_detail
from pipeline.pixels.decode import DecodedVolume


def findings_of(
    raw: RawSeries,
    part: Part,
    pixels: DecodedVolume,
    volume: AssembledVolume,
    params: IngestParams,
    pseudonymizer: Pseudonymizer,
) -> tuple[QualityFinding, ...]:
    """Findings of one accepted part of a series, each with its figures and the slices concerned."""
    notes = [*part.notes, *pixels.notes, *volume.notes]
    if volume.padding_voxels:
        detail = f"{volume.padding_voxels} voxels set to {params.padding_hu} HU"
        notes.append(Note(ReasonCode.PADDING_REPLACED, detail))
    if pixels.clipped:
        notes.append(Note(ReasonCode.HU_OUT_OF_RANGE, f"{pixels.clipped} voxels clipped"))
    notes += _notes_of_headers(part.slices, pixels.lossy_slices)
    if raw.unreadable_beside:
        detail = f"{raw.unreadable_beside} DICOM file(s) of the folder cannot be read"
        notes.append(Note(ReasonCode.INCOMPLETE_SOURCE, detail))
    return tuple(finding_of(note, len(part.slices), pseudonymizer) for note in notes)


def finding_of(note: Note, n_slices: int, pseudonymizer: Pseudonymizer) -> QualityFinding:
    """A note as it goes into a table: slices by their UIDs, or none where all are concerned."""
    uids = dict.fromkeys(header.sop_instance_uid for header in note.slices)
    named = pseudonymizer.uids(uids) if len(note.slices) < n_slices else ()
    return QualityFinding(code=note.reason, detail=note.detail, sop_instance_uids=named)


def _notes_of_headers(slices: Sequence[SliceHeader], found_lossy: Sequence[SliceHeader]) -> list[Note]:
    """found_lossy: slices whose code streams are not reversible, whatever their headers say."""
    not_reversible = {id(header) for header in found_lossy}

    def having(has: Callable[[SliceHeader], bool]) -> list[SliceHeader]:
        return [header for header in slices if has(header)]

    notes = []
    if lossy := having(lambda header: is_lossy(header) or id(header) in not_reversible):
        notes.append(Note(ReasonCode.LOSSY_COMPRESSION, lossy_detail(lossy, len(slices)), tuple(lossy)))
    if derived := having(is_derived):
        detail = f"{len(derived)} of {len(slices)} slices computed from other images; values are HU"
        notes.append(Note(ReasonCode.DERIVED_IMAGE, detail, tuple(derived)))
    if unsaid := having(lambda header: header.rescale_type not in ("", "HU")):
        detail = f"unspecified in {len(unsaid)} of {len(slices)} slices; values look like HU"
        notes.append(Note(ReasonCode.RESCALE_TYPE_NOT_HU, detail, tuple(unsaid)))
    if wrong := having(lambda header: bool(header.declared_syntax)):
        pairs = sorted({(header.declared_syntax, header.transfer_syntax) for header in wrong})
        said = "; ".join(f"said {_syntax_name(one)}, is {_syntax_name(other)}" for one, other in pairs[:4])
        detail = f"{len(wrong)} of {len(slices)} slices: {said}"
        notes.append(Note(ReasonCode.WRONG_TRANSFER_SYNTAX, detail, tuple(wrong)))
    return notes


def _syntax_name(uid: str) -> str:
    """The standard's name of a transfer syntax; no word of the header itself."""
    name = UID(uid).name
    return "an unknown one" if name == uid else name
