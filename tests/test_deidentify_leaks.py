"""Nothing of an identity gets through, wherever in an object it stands."""

from __future__ import annotations

import io
import random
from itertools import count

import pydicom
import pytest
from dicom_identity import (
    BIG,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    UNLISTED,
    Sentinels,
    Writer,
    ct_image,
    element,
    file_of,
    item,
    profile_tags,
    traces,
)

from data_contracts.params import DeidentifyParams
from pipeline.deidentify.engine import Deidentifier
from pipeline.deidentify.identity import header_identity
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.deidentify.writer import to_bytes
from pipeline.headers.values import silence_pydicom

STRICT = DeidentifyParams(retain_dates=False, clean_descriptors=False, retain_safe_private=False)
ALL_OPTIONS = DeidentifyParams(retain_patient=True)


def deidentified(content: bytes, params: DeidentifyParams) -> bytes:
    silence_pydicom()
    original = pydicom.dcmread(io.BytesIO(content))
    for number in count():
        # dates that move by more than the year in which all sentinels lie: none becomes another one
        pseudonymizer = Pseudonymizer(f"secret {number}".encode())
        if pseudonymizer.shift_days(header_identity(original).patient_key(pseudonymizer)) > 366:
            break
    clean, _ = Deidentifier(pseudonymizer, params).apply(original)
    return to_bytes(clean)


def fresh() -> Sentinels:
    return Sentinels(random.Random())


@pytest.fixture(params=[DeidentifyParams(), STRICT, ALL_OPTIONS], ids=["default", "strict", "patient"])
def params(request: pytest.FixtureRequest) -> DeidentifyParams:
    return request.param


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG, DEFLATED])
def test_no_attribute_of_the_profile_leaks_from_a_file_that_holds_all(syntax: str, params: DeidentifyParams) -> None:
    sentinels = fresh()
    writer = Writer(sentinels, syntax)
    content = file_of(
        [*writer.every_attribute(), *ct_image(writer)], sentinels, syntax, b"behind" + sentinels.word().encode()
    )
    if syntax != DEFLATED:
        assert len(traces(content, sentinels)) == len(sentinels.texts) + len(sentinels.times) + len(sentinels.binaries)
    out = deidentified(content, params)
    found = pydicom.dcmread(io.BytesIO(out))
    if syntax == DEFLATED:  # a compressed stream hides what is in it
        found.file_meta.TransferSyntaxUID = EXPLICIT
        buffer = io.BytesIO()
        found.save_as(buffer, implicit_vr=False, little_endian=True)
        out = buffer.getvalue()
    assert traces(out, sentinels, times=not params.retain_dates) == []
    assert found.PixelData == b"\1\0" * 256 if syntax != BIG else len(found.PixelData) == 512


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
def test_none_leaks_from_three_levels_down_in_sequences_that_the_profile_does_not_name(
    syntax: str, params: DeidentifyParams
) -> None:
    sentinels = fresh()
    writer = Writer(sentinels, syntax)
    sequences = tuple(sentinels.rng.sample(UNLISTED, 2))
    content = file_of([*writer.nested(sequences), *ct_image(writer)], sentinels, syntax)
    out = deidentified(content, params)
    assert traces(out, sentinels, times=not params.retain_dates) == []
    kept = pydicom.dcmread(io.BytesIO(out))
    assert all(tag in kept for tag in sequences), "the sequences themselves stay"


@pytest.mark.parametrize("seed", range(2))
def test_none_leaks_in_a_wrong_representation(seed: int, params: DeidentifyParams) -> None:
    sentinels = Sentinels(random.Random(seed))
    writer = Writer(sentinels, wrong=True)
    content = file_of([*writer.every_attribute(), *writer.nested(UNLISTED[:1]), *ct_image(writer)], sentinels)
    assert traces(deidentified(content, params), sentinels, times=not params.retain_dates) == []


def test_every_attribute_of_the_profile_is_changed_or_gone(params: DeidentifyParams) -> None:
    sentinels = fresh()
    writer = Writer(sentinels)
    original = pydicom.dcmread(io.BytesIO(content := file_of(writer.every_attribute(), sentinels)))
    clean = pydicom.dcmread(io.BytesIO(deidentified(content, params)))
    may_stay = {"TM"} if params.retain_dates else set()
    if params.retain_patient:
        may_stay |= {"US", "DS"}  # pregnancy, size, weight
    same = [
        (hex(tag), vr)
        for tag, vr in profile_tags()
        if tag in clean
        and vr not in may_stay | {"SQ"}
        and clean.get_item(tag).value == original.get_item(tag).value != b""
    ]
    assert same == []
    assert not [tag for tag in clean.keys() if tag.group & 1 or tag.group & 0xFF00 in (0x5000, 0x6000)]  # noqa: SIM118


HOSTILE = ["Rows", "SliceThickness", "Modality", "Manufacturer", "ImageType", "SOPClassUID", "PixelSpacing", "KVP"]


@pytest.mark.parametrize("vr", ["LO", "UN", "UT", "PN", "OB", "DS", "US", "CS", "UI", "DT"])
def test_a_name_in_an_attribute_of_another_kind_does_not_pass(vr: str) -> None:
    sentinels = fresh()
    name = f"{sentinels.word(8)}^{sentinels.word(8)}"
    known = element(0x00100010, "PN", name.encode())
    for keyword in HOSTILE:
        tag = int(pydicom.datadict.tag_for_keyword(keyword) or 0)
        parts = [(0x00100010, known), (tag, element(tag, vr, name.encode()))]
        inner = item(element(tag, vr, name.encode()))
        parts.append((UNLISTED[0], element(UNLISTED[0], "SQ", inner)))
        out = deidentified(file_of(parts, sentinels), DeidentifyParams())
        assert traces(out, sentinels) == [], keyword


@pytest.mark.parametrize(
    ("charset", "encoding", "name"),
    [
        ("ISO_IR 100", "latin-1", "Müßiggänger^Jörgensen"),
        ("ISO_IR 192", "utf-8", "Müßiggänger^Jörgensen"),
        ("ISO_IR 144", "iso8859-5", "Щукин^Юлиян"),
        ("GB18030", "gb18030", "王小东^王小东王"),
        ("\\ISO 2022 IR 87", "iso2022_jp", "山田太郎^田太郎山"),
        ("ISO_IR 13", "shift_jis", "ﾔﾏﾀﾞﾀﾛｳ^ﾀﾛｳﾀﾛ"),
        ("NOT A SET", "latin-1", "Müßiggänger^Jörgensen"),
    ],
)
def test_a_name_is_found_in_any_character_set(charset: str, encoding: str, name: str) -> None:
    sentinels = fresh()
    raw = name.encode(encoding)
    parts = [(0x00080005, element(0x00080005, "CS", charset.encode())), (0x00100010, element(0x00100010, "PN", raw))]
    for tag, vr in ((0x00080070, "LO"), (0x00181210, "SH"), (0x00081090, "LO"), (0x00281055, "LO")):
        parts.append((tag, element(tag, vr, name.replace("^", " ").encode(encoding))))
    out = deidentified(file_of(parts, sentinels), DeidentifyParams())
    for part in name.split("^"):
        assert part.encode(encoding) not in out
        assert part.encode() not in out
    assert pydicom.dcmread(io.BytesIO(out)).SpecificCharacterSet == "ISO_IR 192"


def test_what_stays_of_a_text_is_readable_in_utf_8() -> None:
    sentinels = fresh()
    parts = [(0x00080005, element(0x00080005, "CS", b"ISO_IR 100"))]
    parts.append((0x00281055, element(0x00281055, "LO", "Knochen weiß".encode("latin-1"))))
    out = pydicom.dcmread(io.BytesIO(deidentified(file_of(parts, sentinels), DeidentifyParams())))
    assert out.WindowCenterWidthExplanation == "Knochen weiß"


def test_codes_of_a_house_become_pseudonyms_and_shared_ones_stay() -> None:
    sentinels = fresh()
    secret = sentinels.word(9)

    def code(value: str, scheme: str, meaning: str) -> bytes:
        texts = ((0x00080100, "SH", value), (0x00080102, "SH", scheme), (0x00080104, "LO", meaning))
        return b"".join(element(tag, vr, text.encode()) for tag, vr, text in texts)

    content = item(code("39607008", "SCT", "Lung")) + item(code(secret, "99HOUSE", f"CT chest of {secret}"))
    content += item(code(secret, "SCT", "Lung"))
    parts = [(0x00082218, element(0x00082218, "SQ", content))]
    out = deidentified(file_of(parts, sentinels), DeidentifyParams())
    assert traces(out, sentinels) == []
    shared, own, claimed = pydicom.dcmread(io.BytesIO(out)).AnatomicRegionSequence
    assert (shared.CodeValue, shared.CodeMeaning) == ("39607008", "Lung")
    assert (own.CodingSchemeDesignator, own.CodeMeaning) == ("99LOCAL", "CT chest of")
    assert claimed.CodeValue != secret


def test_a_broken_or_bottomless_sequence_leaves_nothing_behind() -> None:
    sentinels = fresh()
    content = element(0x00100010, "PN", sentinels.word().encode())
    for _ in range(40):
        content = element(UNLISTED[0], "SQ", item(content))
    torn = item(element(0x00100010, "PN", sentinels.word().encode()))[:-6]
    unknown = item(element(0x00100010, "PN", sentinels.word().encode(), implicit=True))
    parts = [
        (UNLISTED[0], content),
        (UNLISTED[1], element(UNLISTED[1], "SQ", torn)),
        (UNLISTED[2], element(UNLISTED[2], "UN", unknown)),
        (UNLISTED[3], element(UNLISTED[3], "LO", sentinels.word().encode())),
    ]
    assert traces(deidentified(file_of(parts, sentinels), DeidentifyParams()), sentinels) == []


@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO_IR 192"])
def test_an_object_built_or_decoded_in_memory_is_treated_as_its_file_is(charset: str) -> None:
    sentinels = fresh()
    encoding = {"ISO_IR 100": "latin-1", "ISO_IR 192": "utf-8"}[charset]
    parts = [(0x00080005, element(0x00080005, "CS", charset.encode()))]
    for tag, vr, text in (
        (0x00100010, "PN", "Müßig^Jörg"),
        (0x00100020, "LO", "ÄÖ-17"),
        (0x00080070, "LO", "Müßig GmbH"),
        (0x00281055, "LO", "Knochen weiß"),
    ):
        parts.append((tag, element(tag, vr, text.encode(encoding))))
    content = file_of(parts, sentinels)
    read, decoded = (pydicom.dcmread(io.BytesIO(content)) for _ in range(2))
    decoded.decode()
    engine = Deidentifier(Pseudonymizer(b"memory"))
    one, other = (to_bytes(engine.apply(dataset)[0]) for dataset in (read, decoded))
    assert one == other
    assert "Knochen weiß".encode() in one
    assert "Müßig".encode() not in one
