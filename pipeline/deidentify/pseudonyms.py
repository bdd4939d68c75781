"""Keyed pseudonyms: what of a header may pass the door, and under which name.

Every key is HMAC-SHA256 with the secret of the workspace, so the same input has the same keys at every
ingest, and nobody without the secret can tell whose they are or try candidates.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import PurePosixPath

#: longest header string that is kept (kernel, manufacturer, model)
_LABEL_LENGTH = 32
#: dates move back by 1 day to about 10 years
_SHIFT_DAYS = 3650
#: ages above are given as this, as the HIPAA safe harbour does (45 CFR 164.514(b)(2)(i)(C))
_HIGHEST_AGE_YEARS = 90
_NUMBER_LIKE = re.compile(r"\d{6,}|\d+\.\d+\.\d+\.\d+|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}")
_LABEL_CHARACTERS = re.compile(r"[^A-Za-z0-9 _.,+*()/\\-]")


@dataclass(frozen=True)
class Pseudonymizer:
    """Keyed digests of identifiers, dates and paths.

    secret: bytes of the workspace's key file.
    keep_identity: the site asked for identifiers beside the keys; the keys stay the same.
    """

    secret: bytes = field(repr=False)
    keep_identity: bool = False

    def key(self, kind: str, value: str, length: int = 16) -> str:
        """`length` hex digits for `value`; one value of two kinds has two unrelated keys."""
        message = kind.encode() + b"\0" + value.encode("utf-8", "surrogateescape")
        return hmac.new(self.secret, message, hashlib.sha256).hexdigest()[:length]

    def uid_key(self, uid: str) -> str:
        """Key of a DICOM UID."""
        return self.key("uid", uid.strip().rstrip("\0"))

    def pseudonymous_uid(self, uid: str) -> str:
        """The UID that stands for `uid` in what leaves the house: 2.25.<128 bits> (PS3.5 B.2), at most 44 characters.

        Its first 64 bits are `uid_key(uid)`, so `key_of_pseudonym` finds the key without the original.
        """
        return self.uid_of_key(self.uid_key(uid))

    def uid_of_key(self, uid_key: str) -> str:
        """The pseudonymous UID of an original of which only the key is left, as in the tables of a workspace."""
        return f"2.25.{int(uid_key + self.key('uid-tail', uid_key), 16)}"

    @staticmethod
    def key_of_pseudonym(uid: str) -> str:
        """`uid_key` of the UID that a pseudonymous one stands for; "" where `uid` is none of that form."""
        digits = uid.strip().rstrip("\0").removeprefix("2.25.")
        if not uid.strip().startswith("2.25.") or not re.fullmatch(r"[0-9]{1,39}", digits) or int(digits) >= 2**128:
            return ""
        return f"{int(digits):032x}"[:16]

    def patient_key(self, patient_id: str, issuer: str = "") -> str:
        """Key of a patient; the issuer tells two hospitals' patient 1 apart."""
        return self.key("patient", patient_id.strip() + "\0" + issuer.strip())

    def header_patient_key(self, patient_id: str, issuer: str, study_instance_uid: str) -> str:
        """Key of the patient of a header; nobody's id is no id: such patients are told apart by their study."""
        return self.patient_key(patient_id or f"study {study_instance_uid}", issuer)

    def shift_days(self, patient_key: str) -> int:
        """By how many days the dates of a patient move back."""
        return int(self.key("date", patient_key), 16) % _SHIFT_DAYS + 1

    def shift_date(self, patient_key: str, yyyymmdd: str) -> str:
        """The date moved back by the patient's own offset, so intervals stay; "" where it is no date."""
        try:
            day = datetime.strptime(yyyymmdd.strip()[:8], "%Y%m%d")
            return f"{day - timedelta(days=self.shift_days(patient_key)):%Y%m%d}".zfill(8)
        except (ValueError, OverflowError):
            return ""

    def path(self, relative_path: str) -> str:
        """A path with each part replaced by its key, so that files of one folder still share it."""
        if self.keep_identity:
            # a file name need not be UTF-8; a table must
            return relative_path.encode("utf-8", "replace").decode()
        return "/".join(self.key("path", part, 8) for part in PurePosixPath(relative_path).parts)

    def uids(self, uids: Iterable[str]) -> tuple[str, ...]:
        """UIDs as they go into a table: keys, or themselves where identity is kept."""
        return tuple(uid if self.keep_identity else self.uid_key(uid) for uid in uids)


def clean_label(text: str, identifiers: Iterable[str]) -> str:
    """A technical header string fit to keep: short, printable, without numbers that could name someone.

    identifiers: the patient's name, ids and the like; a label that holds a part of one (3 characters or more)
    is dropped whole.
    """
    label = " ".join(_LABEL_CHARACTERS.sub(" ", text).split())[:_LABEL_LENGTH].strip()
    if _NUMBER_LIKE.search(label):
        return ""
    lower = label.lower()
    for identifier in identifiers:
        parts = [part for part in re.split(r"[\W_]+", identifier.lower()) if len(part) >= 3]
        if any(part in lower for part in parts):
            return ""
    return label


def clean_age_years(text: str) -> int | None:
    """Whole years of a DICOM age string (`057Y`), capped at 90; None where it is none."""
    found = re.fullmatch(r"\s*(\d{1,3})([DWMY])\s*", text)
    if found is None:
        return None
    days = int(found[1]) * {"D": 1.0, "W": 7.0, "M": 30.44, "Y": 365.25}[found[2]]
    return min(int(days / 365.25 + 1e-9), _HIGHEST_AGE_YEARS)
