"""Invented people, places and identifiers of the phantom; each is easy to find, so a leak can be searched for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from pydicom.uid import generate_uid

from data_contracts.params import PhantomParams
from pipeline.cohort.phantom_plan import site_of

#: pydicom's root, meant for UIDs made without a registered root of one's own
UID_PREFIX = "1.2.826.0.1.3680043.8.498."

_ONSETS = ("Quorv", "Zyxt", "Vrangl", "Xophr", "Jaskw", "Wimbq", "Kvozd", "Pfliv")
_ENDINGS = ("athoom", "ellivund", "oskipel", "umbrecq", "igorrax", "antwhisk", "yndelfop")
_FEMALE = ("Ondrellqa", "Mirvexia", "Talzunde", "Yslobeth", "Perquinna")
_MALE = ("Borvaldix", "Hexemund", "Ulfraznor", "Dorwiqqet", "Gandrovex")
_SITES = {
    "a": ("Wexlodean Thoraxklinik", "Marblequay 7, Phantomstadt", "Grimsvotny^Ardelqua^^Dr", "WXLCT01", "SN-QWX-60713"),
    "b": ("Bruxhollow Pneumocentre", "Fenwhistle 22, Trugbildau", "Oxmoldane^Percivox^^Dr", "BRXCT02", "SN-ZBR-91842"),
}


@dataclass(frozen=True)
class PhantomIdentity:
    """What the header of one phantom patient says about who, where and when."""

    patient_name: str
    patient_id: str
    other_patient_id: str
    birth_date: str
    sex: str
    age: str
    accession_number: str
    study_id: str
    study_date: str
    study_time: str
    institution: str
    address: str
    physician: str
    operator: str
    station: str
    serial_number: str
    study_uid: str
    series_uid: str
    frame_uid: str

    def strings(self) -> list[str]:
        """Every string that identifies someone or something; left out are sex, age, study date and study id."""
        surname, given = self.patient_name.split("^")
        return [
            self.patient_name, surname, given, self.patient_id, self.other_patient_id, self.birth_date,
            self.accession_number, self.institution, self.address, self.physician, self.physician.split("^")[0],
            self.operator, self.operator.split("^")[0], self.station, self.serial_number, self.study_uid,
            self.series_uid, self.frame_uid,
        ]  # fmt: skip


def uid(params: PhantomParams, *parts: object) -> str:
    """A UID that depends on the cohort's parameters and the parts only."""
    return str(generate_uid(UID_PREFIX, entropy_srcs=[params.digest(), *(str(part) for part in parts)]))


def slice_count(params: PhantomParams, site: str) -> int:
    """Slices of a series of this site."""
    spacing_mm = params.spacing_a_mm if site == "a" else params.spacing_b_mm
    return max(3, round(params.length_mm / spacing_mm))


def phantom_identity(params: PhantomParams, index: int) -> PhantomIdentity:
    """The identity of patient `index` of the cohort."""
    rng = np.random.default_rng([params.seed, index, 2])
    site = site_of(params, index)
    female = bool(rng.integers(2))
    surname = _ONSETS[index % len(_ONSETS)] + _ENDINGS[(index // len(_ONSETS)) % len(_ENDINGS)]
    given = str(rng.choice(_FEMALE if female else _MALE))
    age = int(rng.integers(45, 85))
    studied = date(2019, 1, 7) + timedelta(days=int(rng.integers(0, 1200)))
    born = date(studied.year - age, 1, 1) + timedelta(
        days=int(rng.integers(0, (studied - date(studied.year, 1, 1)).days + 1))
    )
    institution, address, physician, station, serial = _SITES[site]
    return PhantomIdentity(
        patient_name=f"{surname}{index:03d}^{given}",
        patient_id=f"NFPX{params.seed % 100:02d}{index:04d}Q",
        other_patient_id=f"KVNR-X{rng.integers(10**8, 10**9)}",
        birth_date=f"{born:%Y%m%d}",
        sex="F" if female else "M",
        age=f"{age:03d}Y",
        accession_number=f"ACQ{rng.integers(10**7, 10**8)}",
        study_id=f"{index + 1}",
        study_date=f"{studied:%Y%m%d}",
        study_time=f"{rng.integers(8, 18):02d}{rng.integers(60):02d}{rng.integers(60):02d}",
        institution=institution,
        address=address,
        physician=physician,
        operator=f"Techniqvar{site.upper()}^Rolf",
        station=station,
        serial_number=serial,
        study_uid=uid(params, index, "study"),
        series_uid=uid(params, index, "series"),
        frame_uid=uid(params, index, "frame"),
    )


def invented_identities(params: PhantomParams) -> list[str]:
    """Every identity string of the cohort, SOP Instance UIDs included: none may be found downstream of intake."""
    found: dict[str, None] = {}
    for index in range(params.n_patients):
        found.update(dict.fromkeys(phantom_identity(params, index).strings()))
        for number in range(slice_count(params, site_of(params, index))):
            found[uid(params, index, "instance", number)] = None
    return list(found)
