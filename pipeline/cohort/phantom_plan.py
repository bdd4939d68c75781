"""Which LIDC nodules go to which phantom patient, and which patient to which site."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np

from data_contracts.errors import UsageError
from data_contracts.params import PhantomParams
from pipeline.cohort.lidc_database import LidcDatabase, LidcNodule

#: shares of malignant, benign and indeterminate nodules (mean of the readers above, below and at 3)
_LABEL_SHARES = {1: 0.45, -1: 0.45, 0: 0.10}

_planning = threading.Lock()


@dataclass(frozen=True, eq=False)
class PatientPlan:
    """One phantom patient: number from 0, site ("a" or "b") and the LIDC nodules it gets."""

    index: int
    site: str
    nodules: tuple[LidcNodule, ...]


def builtin_reserved_patients() -> tuple[str, ...]:
    """LIDC patients set aside for an independent measurement; their nodules are in no phantom by default."""
    text = resources.files("pipeline.cohort").joinpath("phantom_reserved_patients.txt").read_text("ascii")
    return tuple(text.split())


def site_of(params: PhantomParams, index: int) -> str:
    """Site of a patient: "a" and "b" take turns in the proportion that the parameters ask for."""
    share = params.site_b_fraction
    return "b" if int((index + 1) * share + 1e-9) > int(index * share + 1e-9) else "a"


def plan_cohort(params: PhantomParams) -> tuple[PatientPlan, ...]:
    """All patients of the cohort; the same parameters give the same plan.

    The nodules of one LIDC patient go to one phantom patient, none is used twice, labels are balanced as far
    as the database goes.

    Raises
    ------
    UsageError: the database has too few nodules for this cohort.
    """
    with _planning:
        return _plan_cohort(params)


@lru_cache(maxsize=4)
def _plan_cohort(params: PhantomParams) -> tuple[PatientPlan, ...]:
    rng = np.random.default_rng([params.seed, 1])
    reserved = params.reserved_patients
    pool = _NodulePool(params, set(builtin_reserved_patients() if reserved is None else reserved), rng)
    total = params.n_patients * params.nodules_per_patient
    deck = np.repeat(list(_LABEL_SHARES), [round(share * total) + 1 for share in _LABEL_SHARES.values()])
    deck = rng.permutation(deck)[:total]
    plans = []
    for index in range(params.n_patients):
        labels = deck[index * params.nodules_per_patient : (index + 1) * params.nodules_per_patient]
        nodules = tuple(pool.take(index, int(label)) for label in labels)
        plans.append(PatientPlan(index, site_of(params, index), nodules))
    return tuple(plans)


class _NodulePool:
    """Nodules by LIDC patient; a LIDC patient belongs to the first phantom patient that takes a nodule of it."""

    def __init__(self, params: PhantomParams, reserved: set[str], rng: np.random.Generator) -> None:
        self._params = params
        self._database = LidcDatabase()
        patients = [patient for patient in self._database.patients() if patient not in reserved]
        self._patients = [patients[number] for number in rng.permutation(len(patients))]
        self._left: dict[str, list[LidcNodule]] = {}
        self._owner: dict[str, int] = {}

    def take(self, owner: int, label: int) -> LidcNodule:
        """A nodule with this label, or with another where none is left."""
        own = [patient for patient, of in self._owner.items() if of == owner]
        for wanted in (label, None):
            for group in (own, (patient for patient in self._patients if patient not in self._owner)):
                for patient in group:
                    for nodule in self._nodules(patient):
                        if wanted is None or _label(nodule) == wanted:
                            self._left[patient].remove(nodule)
                            self._owner[patient] = owner
                            return nodule
        raise UsageError(
            "LIDC has too few nodules for this phantom cohort",
            where=f"{self._params.n_patients} patients with {self._params.nodules_per_patient} nodules",
            todo="Ask for fewer patients or nodules, or widen the range of diameters.",
        )

    def _nodules(self, patient: str) -> list[LidcNodule]:
        if patient not in self._left:
            low, high = self._params.min_diameter_mm, self._params.max_diameter_mm
            found = self._database.nodules(patient)
            self._left[patient] = [nodule for nodule in found if low <= nodule.diameter_mm <= high]
        return self._left[patient]


def _label(nodule: LidcNodule) -> int:
    mean = nodule.mean_ratings["malignancy"]
    return int(mean > 3) - int(mean < 3)
