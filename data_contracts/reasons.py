"""Why an input was refused or flagged: one code, what it means, what to do."""

from __future__ import annotations

from enum import StrEnum


class ReasonCode(StrEnum):
    """Codes in rejected.parquet and in the findings of a series; `meaning` and `todo` explain each."""

    NOT_DICOM = "not_dicom"
    UNREADABLE = "unreadable"
    INCOMPLETE_SOURCE = "incomplete_source"
    NOT_CT = "not_ct"
    NOT_AN_IMAGE = "not_an_image"
    LOCALIZER = "localizer"
    DERIVED_IMAGE = "derived_image"
    MISSING_GEOMETRY = "missing_geometry"
    MIXED_ORIENTATION = "mixed_orientation"
    MIXED_MATRIX = "mixed_matrix"
    MIXED_SPACING = "mixed_spacing"
    MIXED_FRAME_OF_REFERENCE = "mixed_frame_of_reference"
    MISSING_SLICES = "missing_slices"
    SLICES_INTERPOLATED = "slices_interpolated"
    IRREGULAR_SPACING = "irregular_spacing"
    UNEVEN_POSITIONS = "uneven_positions"
    SPARSE_SLICES = "sparse_slices"
    DUPLICATE_SLICES = "duplicate_slices"
    CONFLICTING_DUPLICATES = "conflicting_duplicates"
    MULTIPLE_ACQUISITIONS = "multiple_acquisitions"
    TOO_FEW_SLICES = "too_few_slices"
    GANTRY_TILT = "gantry_tilt"
    NO_RESCALE = "no_rescale"
    RESCALE_TYPE_NOT_HU = "rescale_type_not_hu"
    IMPLAUSIBLE_HU = "implausible_hu"
    HU_OFFSET_SUSPECTED = "hu_offset_suspected"
    PIXEL_DECODE_FAILED = "pixel_decode_failed"
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported_transfer_syntax"
    WRONG_TRANSFER_SYNTAX = "wrong_transfer_syntax"
    UNSUPPORTED_MULTIFRAME = "unsupported_multiframe"
    LOSSY_COMPRESSION = "lossy_compression"
    PADDING_REPLACED = "padding_replaced"
    HU_OUT_OF_RANGE = "hu_out_of_range"
    BURNED_IN_ANNOTATION = "burned_in_annotation"
    BURNED_IN_BLANKED = "burned_in_blanked"
    UNSAFE_ARCHIVE_MEMBER = "unsafe_archive_member"
    NESTED_ARCHIVE = "nested_archive"
    INCOMPLETE_TRANSFER = "incomplete_transfer"
    LOW_DISK_SPACE = "low_disk_space"
    IMAGE_TOO_LARGE = "image_too_large"
    PATIENT_UNKNOWN = "patient_unknown"
    ANNOTATION_UNMATCHED = "annotation_unmatched"
    ANNOTATION_OUTSIDE_VOLUME = "annotation_outside_volume"
    ANNOTATION_MALFORMED = "annotation_malformed"
    ANNOTATION_REPEATED = "annotation_repeated"
    INTERNAL_ERROR = "internal_error"

    @property
    def meaning(self) -> str:
        """One sentence: what was found."""
        return _EXPLANATIONS[self][0]

    @property
    def todo(self) -> str:
        """One sentence: what the site can do."""
        return _EXPLANATIONS[self][1]


_EXPLANATIONS: dict[ReasonCode, tuple[str, str]] = {
    ReasonCode.NOT_DICOM: ("The file is not DICOM.", "Nothing, unless it should have been an image."),
    ReasonCode.UNREADABLE: ("The header or the file cannot be read to its end.", "Fetch the file again."),
    ReasonCode.INCOMPLETE_SOURCE: (
        "DICOM files that cannot be read lie beside the series; slices at its ends may be missing.",
        "Fetch the files again.",
    ),
    ReasonCode.NOT_CT: ("The modality is not CT.", "Nothing; only CT is taken."),
    ReasonCode.NOT_AN_IMAGE: ("The object holds no CT pixels (a report, a key object, a directory).", "Nothing."),
    ReasonCode.LOCALIZER: ("The image is a localizer (scout).", "Nothing; the axial series is taken."),
    ReasonCode.DERIVED_IMAGE: ("The image is a derived or secondary capture.", "Send the original series."),
    ReasonCode.MISSING_GEOMETRY: (
        "Position, orientation or pixel spacing is missing.",
        "Export the series again with full geometry.",
    ),
    ReasonCode.MIXED_ORIENTATION: ("Slices of one series lie at different angles.", "Send the parts as series."),
    ReasonCode.MIXED_MATRIX: ("Slices of one series have different numbers of pixels.", "Send the parts as series."),
    ReasonCode.MIXED_SPACING: ("Slices of one series have different pixel spacing.", "Send the parts as series."),
    ReasonCode.MIXED_FRAME_OF_REFERENCE: (
        "Slices of one series belong to different frames of reference.",
        "Send the parts as series.",
    ),
    ReasonCode.MISSING_SLICES: ("Slices are missing between others.", "Fetch the whole series again."),
    ReasonCode.SLICES_INTERPOLATED: (
        "Missing slices were interpolated between their neighbours, as the policy allows.",
        "Fetch the whole series again; do not measure in the slices named.",
    ),
    ReasonCode.IRREGULAR_SPACING: ("The distance between slices changes.", "Send the parts as series."),
    ReasonCode.UNEVEN_POSITIONS: (
        "Slices lie a little beside the even grid that the volume places them on.",
        "Nothing, unless the figures matter to you.",
    ),
    ReasonCode.SPARSE_SLICES: (
        "The slices are much thinner than they lie apart: tissue between them was not imaged, or slices are missing "
        "at equal distances.",
        "Fetch the whole series again, unless it was scanned so.",
    ),
    ReasonCode.DUPLICATE_SLICES: ("The same slice was there more than once; one was kept.", "Nothing."),
    ReasonCode.CONFLICTING_DUPLICATES: (
        "Two different slices claim the same position, or the same SOP Instance UID.",
        "Send the acquisitions as separate series.",
    ),
    ReasonCode.MULTIPLE_ACQUISITIONS: (
        "One series held several acquisitions or reconstructions; the findings say which part this is.",
        "Check that each part is the one you meant.",
    ),
    ReasonCode.TOO_FEW_SLICES: ("Too few slices to make a volume.", "Send the whole series."),
    ReasonCode.GANTRY_TILT: (
        "The gantry was tilted; by policy the affine carries the shear, the volume was resampled, or is refused.",
        "Nothing, or choose another policy for tilt.",
    ),
    ReasonCode.NO_RESCALE: ("No rescale slope and intercept, so no HU.", "Export the series again."),
    ReasonCode.RESCALE_TYPE_NOT_HU: ("The rescaled values are not HU.", "Send the HU reconstruction."),
    ReasonCode.IMPLAUSIBLE_HU: (
        "The values do not look like HU (no air, no body, or a slice that jumps).",
        "Check the reconstruction and its rescale values.",
    ),
    ReasonCode.HU_OFFSET_SUSPECTED: (
        "Soft tissue peaks at another HU than it should.",
        "Look at the volume in a tissue window and check its rescale values.",
    ),
    ReasonCode.PIXEL_DECODE_FAILED: ("The pixel data cannot be decoded.", "Fetch the file again."),
    ReasonCode.UNSUPPORTED_TRANSFER_SYNTAX: (
        "No decoder for this transfer syntax.",
        "Transcode to Explicit VR Little Endian.",
    ),
    ReasonCode.WRONG_TRANSFER_SYNTAX: (
        "The header names another transfer syntax than the one the data are in; they were read as what they are.",
        "Correct the sender.",
    ),
    ReasonCode.UNSUPPORTED_MULTIFRAME: (
        "Multi-frame objects of this kind are not taken.",
        "Send the series as single-frame CT images.",
    ),
    ReasonCode.LOSSY_COMPRESSION: ("The pixels were compressed with loss.", "Use the lossless original if it exists."),
    ReasonCode.PADDING_REPLACED: ("Pixels outside the field of view were set to a stated value.", "Nothing."),
    ReasonCode.HU_OUT_OF_RANGE: ("Values beyond int16 were clipped.", "Check the reconstruction."),
    ReasonCode.BURNED_IN_ANNOTATION: (
        "Text is burned into the pixels, by the header or by the rules of known scanners.",
        "Send the image without burned-in text.",
    ),
    ReasonCode.BURNED_IN_BLANKED: (
        "Regions of the image where text is or may be burned in were set to the padding value.",
        "Nothing, unless the regions hold anatomy.",
    ),
    ReasonCode.UNSAFE_ARCHIVE_MEMBER: (
        "An archive member leaves its folder, is a link or is far too large.",
        "Pack the archive again from plain files.",
    ),
    ReasonCode.NESTED_ARCHIVE: (
        "An archive or a compressed file lies inside the source; it was not opened.",
        "Give it as a SOURCE of its own if it holds images.",
    ),
    ReasonCode.INCOMPLETE_TRANSFER: (
        "The server did not give every instance of the series whole.",
        "Run the pull again; where it stays so, mend the instances on the server.",
    ),
    ReasonCode.LOW_DISK_SPACE: ("The disk has no room for the volume.", "Free disk space and run again."),
    ReasonCode.IMAGE_TOO_LARGE: (
        "An image file has more bytes, or claims more pixels, than are safe to open.",
        "Cut the nodule out, or scale the image down.",
    ),
    ReasonCode.PATIENT_UNKNOWN: (
        "The table of patients has no row for the image, so its split could leak.",
        "Add a row for it, or take the file out of the folder.",
    ),
    ReasonCode.ANNOTATION_UNMATCHED: (
        "No series of the workspace matches the annotation.",
        "Ingest the series first, or name another file.",
    ),
    ReasonCode.ANNOTATION_OUTSIDE_VOLUME: (
        "The annotated point lies outside its volume.",
        "Check units (mm) and the axis convention (LPS).",
    ),
    ReasonCode.ANNOTATION_MALFORMED: ("The annotation cannot be read.", "Check the file against its format."),
    ReasonCode.ANNOTATION_REPEATED: ("The same mark of the same reader was given before; one was kept.", "Nothing."),
    ReasonCode.INTERNAL_ERROR: ("An error of this program; nothing was written.", "Run again with --debug."),
}
