"""The way back: what the pseudonyms of a study stand for, encrypted so that only holders of the key can read it.

One file a study, AES-256-GCM (NIST SP 800-38D) with a key derived from the secret by HKDF-SHA256 (RFC 5869). The name
of the study is authenticated with the content, so files cannot be swapped.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from filelock import FileLock

from data_contracts.errors import NothingUsableError, UsageError
from data_contracts.records import Record, atomic_path
from pipeline.deidentify.identity import HeaderIdentity
from pipeline.deidentify.pseudonyms import Pseudonymizer

_MAGIC = b"NFVAULT1"
_NONCE_BYTES = 12
_KEY = re.compile(r"[0-9a-f]{16}")


class PatientIdentity(Record):
    """One patient. shift_days: by how many days the dates of the pseudonymous objects lie before the true ones."""

    patient_id: str
    patient_name: str
    issuer: str
    shift_days: int


class StudyIdentity(Record):
    """What the pseudonyms of one study stand for.

    patients: by patient key; more than one where two hospitals gave one study UID. series, instances, frames (of
    reference): original UIDs by their keys, which are the first half of their pseudonymous UIDs. header: what else the
    objects of the study share, by keyword, for new objects that join it; empty for files sealed without it.
    """

    study_key: str
    study_instance_uid: str
    accession_numbers: tuple[str, ...] = ()
    patients: dict[str, PatientIdentity] = {}
    series: dict[str, str] = {}
    instances: dict[str, str] = {}
    frames: dict[str, str] = {}
    header: dict[str, str] = {}

    @classmethod
    def of(
        cls, header: HeaderIdentity, pseudonymizer: Pseudonymizer, instance_uids: Iterable[str] = ()
    ) -> StudyIdentity:
        """The identity that one header gives, with the instances of its series, or the one that it is itself."""
        key = header.patient_key(pseudonymizer)
        patient = PatientIdentity(
            patient_id=header.patient_id,
            patient_name=header.patient_name,
            issuer=header.issuer,
            shift_days=pseudonymizer.shift_days(key),
        )
        uids = set(instance_uids) or {header.sop_instance_uid}
        return cls(
            study_key=pseudonymizer.uid_key(header.study_instance_uid),
            study_instance_uid=header.study_instance_uid,
            accession_numbers=(header.accession_number,) if header.accession_number else (),
            patients={key: patient},
            series={pseudonymizer.uid_key(header.series_instance_uid): header.series_instance_uid},
            instances={pseudonymizer.uid_key(uid): uid for uid in uids},
        )

    def merged(self, other: StudyIdentity) -> StudyIdentity:
        """Both of them; what the other knows of a patient counts."""
        return StudyIdentity(
            study_key=self.study_key,
            study_instance_uid=self.study_instance_uid,
            accession_numbers=tuple(dict.fromkeys((*self.accession_numbers, *other.accession_numbers))),
            patients={**self.patients, **other.patients},
            series={**self.series, **other.series},
            instances={**self.instances, **other.instances},
            frames={**self.frames, **other.frames},
            header={**self.header, **other.header},
        )

    def originals(self) -> dict[str, str]:
        """Original UIDs of study, series, instances and frames of reference by their keys."""
        return {self.study_key: self.study_instance_uid, **self.series, **self.instances, **self.frames}


class Vault:
    """Sealed identities below `folder`, one file a study, readable by the owner of the files with the secret alone."""

    def __init__(self, folder: Path, secret: bytes) -> None:
        self._folder = folder
        derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"noduleflow identity vault 1").derive(secret)
        self._cipher = AESGCM(derived)

    def seal(self, study_key: str, identity: StudyIdentity) -> bool:
        """Add what is known of a study; False where nothing is new. Safe beside other threads and processes.

        Raises
        ------
        UsageError: the file of the study was sealed with another secret.
        OSError: the folder cannot be written.
        """
        path = self._path(study_key)
        locks = self._folder / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        with FileLock(locks / f"{study_key[:2]}.lock"):
            known = self.open(study_key) if path.exists() else None
            whole = identity if known is None else known.merged(identity)
            if whole == known:
                return False
            nonce = os.urandom(_NONCE_BYTES)
            packed = zlib.compress(whole.model_dump_json().encode(), 1)
            content = _MAGIC + nonce + self._cipher.encrypt(nonce, packed, study_key.encode())
            with atomic_path(path, mode=0o600) as temporary:
                temporary.write_bytes(content)
        return True

    def open(self, study_key: str) -> StudyIdentity:
        """What is known of a study.

        Raises
        ------
        NothingUsableError: nothing is sealed under this key.
        UsageError: the secret is another one, or the file was changed.
        """
        path = self._path(study_key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise NothingUsableError(
                "no identity is sealed for this study",
                where=study_key,
                todo="It was ingested elsewhere, or with keep_vault=false.",
            ) from None
        body = content[len(_MAGIC) :]
        try:
            if not content.startswith(_MAGIC):
                raise InvalidTag
            packed = self._cipher.decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], study_key.encode())
        except (InvalidTag, ValueError):
            raise UsageError(
                "the sealed identity does not open with this key",
                where=study_key,
                todo="Use the secret of the ingest: its secret.key, or NODULEFLOW_SECRET.",
            ) from None
        return StudyIdentity.model_validate_json(zlib.decompress(packed))

    def _path(self, study_key: str) -> Path:
        if not _KEY.fullmatch(study_key):
            raise UsageError("not a study key", todo="A study key has 16 hex digits; series.parquet lists them.")
        return self._folder / f"{study_key}.sealed"
