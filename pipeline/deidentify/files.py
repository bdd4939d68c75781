"""One file in, one de-identified file out, or the reason why not."""

from __future__ import annotations

import io
import os
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import pydicom
from pydicom.dataset import Dataset

from data_contracts.reasons import ReasonCode
from pipeline.deidentify.burned_in import BurnedInAction, Policy, burned_in_action
from pipeline.deidentify.engine import Deidentifier
from pipeline.deidentify.identity import HeaderIdentity, header_identity
from pipeline.deidentify.pixels import PixelsError, blank_pixels, facts_of, hide_unused_bits
from pipeline.deidentify.writer import to_chunks
from pipeline.headers.values import integer_of, silence_pydicom, text_of, texts_of

#: objects whose identity stands in attributes and known pixels: images and segmentations
_IMAGES = (
    "1.2.840.10008.5.1.4.1.1.1",  # CR, DX, MG and the like
    "1.2.840.10008.5.1.4.1.1.2",  # CT, enhanced, legacy converted
    "1.2.840.10008.5.1.4.1.1.3",  # US multi-frame
    "1.2.840.10008.5.1.4.1.1.4",  # MR
    "1.2.840.10008.5.1.4.1.1.6",  # US
    "1.2.840.10008.5.1.4.1.1.7",  # secondary capture
    "1.2.840.10008.5.1.4.1.1.12",  # XA, XRF
    "1.2.840.10008.5.1.4.1.1.13",  # X-ray 3D, breast tomosynthesis
    "1.2.840.10008.5.1.4.1.1.20",  # NM
    "1.2.840.10008.5.1.4.1.1.30",  # parametric map
    "1.2.840.10008.5.1.4.1.1.66.4",  # segmentation
    "1.2.840.10008.5.1.4.1.1.128",  # PET
    "1.2.840.10008.5.1.4.1.1.130",  # enhanced PET
)
_DIRECTORY = "1.2.840.10008.1.3.10"


@dataclass(frozen=True)
class FileOutcome:
    """What became of a file. target: relative to the output; None where it was refused (then `reason` says why).

    state: written, there (an equal file stood there already), or refused. counts: elements by action.
    """

    state: Literal["written", "there", "refused"]
    target: str | None = None
    reason: ReasonCode | None = None
    detail: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    identity: HeaderIdentity | None = field(default=None, repr=False)


def deidentify_file(path: Path, out: Path, engine: Deidentifier) -> FileOutcome:
    """Read, de-identify and write one file to <patient key>/<study>/<series>/<instance>.dcm below `out`.

    The file appears whole or not at all. One that stands there already is left alone if it is equal, else refused.

    Raises
    ------
    OSError: `out` cannot be written.
    """
    silence_pydicom()
    try:
        content = path.read_bytes()
    except OSError:
        return FileOutcome("refused", reason=ReasonCode.UNREADABLE, detail="the file cannot be read")
    try:
        dataset = _parse(content)
        if dataset is None:
            return FileOutcome("refused", reason=ReasonCode.NOT_DICOM)
        return _deidentify(dataset, out, engine)
    except OSError:
        raise
    except PixelsError as error:
        return FileOutcome("refused", reason=ReasonCode.PIXEL_DECODE_FAILED, detail=str(error))
    except Exception as error:  # a broken file breaks the parser in any way
        return FileOutcome("refused", reason=ReasonCode.UNREADABLE, detail=type(error).__name__)


def _parse(content: bytes) -> Dataset | None:
    """The dataset of a file, or None where it is no DICOM."""
    has_preamble = content[128:132] == b"DICM"
    try:
        dataset = pydicom.dcmread(io.BytesIO(content), force=not has_preamble)
    except Exception:  # without a preamble anything may be taken for a header
        if has_preamble:
            raise
        return None
    if not has_preamble and 0x00080016 not in dataset:
        return None
    return dataset


def _refusal(dataset: Dataset, identity: HeaderIdentity) -> FileOutcome | None:
    """Objects that hold free text, or that are nothing to hand out."""
    sop_class = identity.sop_class_uid
    if sop_class == _DIRECTORY or 0x00041220 in dataset:
        return FileOutcome("refused", reason=ReasonCode.NOT_AN_IMAGE, detail="a DICOMDIR")
    if not any(sop_class == known or sop_class.startswith(known + ".") for known in _IMAGES):
        return FileOutcome("refused", reason=ReasonCode.NOT_AN_IMAGE, detail="a document or an object with free text")
    if not (identity.sop_instance_uid and identity.study_instance_uid and identity.series_instance_uid):
        return FileOutcome("refused", reason=ReasonCode.UNREADABLE, detail="the object has no UIDs")
    return None


def burned_in_of(dataset: Dataset, policy: Policy) -> BurnedInAction:
    """What the policy makes of the text in the pixels of an object."""
    facts = facts_of(dataset)
    elements = tuple(facts.items())
    if all(element.is_raw for _, element in elements):
        return _burned_in_of_raw(elements, facts.original_encoding, policy)
    return _burned_in(facts, policy)


@lru_cache(maxsize=256)
def _burned_in_of_raw(elements: tuple[Any, ...], encoding: tuple[Any, Any], policy: Policy) -> BurnedInAction:
    """The same for elements as the file has them, which the objects of a series share."""
    facts = Dataset(dict(elements))
    facts.set_original_encoding(*encoding)
    return _burned_in(facts, policy)


def _burned_in(facts: Dataset, policy: Policy) -> BurnedInAction:
    rows, columns = (integer_of(facts, word, 0) for word in ("Rows", "Columns"))
    return burned_in_action(
        text_of(facts, "Manufacturer"),
        text_of(facts, "ManufacturerModelName"),
        text_of(facts, "SOPClassUID"),
        texts_of(facts, "ImageType"),
        rows,
        columns,
        text_of(facts, "BurnedInAnnotation"),
        policy,
    )


def _deidentify(dataset: Dataset, out: Path, engine: Deidentifier) -> FileOutcome:
    identity = header_identity(dataset)
    if (refusal := _refusal(dataset, identity)) is not None:
        return refusal
    action = burned_in_of(dataset, engine.params.burned_in)
    if action.what == "refuse":
        return FileOutcome("refused", reason=ReasonCode.BURNED_IN_ANNOTATION, detail=action.why)
    if action.what == "blank":
        blank_pixels(dataset, action.regions)
    hide_unused_bits(dataset)
    clean, counts = engine.apply(dataset, pixels_cleaned=action.what == "blank")
    key, uid = identity.patient_key(engine.pseudonymizer), engine.pseudonymizer.pseudonymous_uid
    names = (uid(identity.study_instance_uid), uid(identity.series_instance_uid), uid(identity.sop_instance_uid))
    target = f"{key}/{'/'.join(names)}.dcm"
    state = _write(out / target, to_chunks(clean))
    if state is None:
        detail = "another object with this SOP Instance UID was written before"
        return FileOutcome("refused", reason=ReasonCode.CONFLICTING_DUPLICATES, detail=detail)
    return FileOutcome(state, target=target, counts=counts, identity=identity)


def _write(path: Path, chunks: list[bytes]) -> Literal["written", "there"] | None:
    """Write the file, whole or not at all; None where another one stands there."""
    if path.exists():
        return "there" if path.read_bytes() == b"".join(chunks) else None
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.writelines(chunks)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
    return "written"
