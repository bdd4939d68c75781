"""What a fit learns from: patches with labels for training and validation, unlabelled ones of a target site."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from data_contracts.errors import NothingUsableError, UsageError
from models.compression.teacher import Teacher


@dataclass(frozen=True, eq=False)
class LabelledPatches:
    """Patches and what is known of them.

    Attributes
    ----------
    patches: (n, *patch_shape), int16 HU or uint8 grey values.
    labels: (n,), 0 or 1, NaN where indeterminate.
    soft_labels: (n,), the readers' mean malignancy mapped to 0..1, NaN where unknown.
    weights: (n,), how much a patch counts; 1 where None.
    auxiliary: (n, k), targets of the concepts mapped to 0..1 (ratings, log-diameter), NaN where unknown.
    from_target: (n,), which patches are the target site's, whose labels are learned from too (joint training).
    masks: (n, c, H, W) uint8, 255 times the share of the readers whose outline covers a pixel, all 0 where unknown.
    features: (n, F), what the frozen backbone makes of the patches, where it was computed before.
    """

    patches: NDArray[np.generic]
    labels: NDArray[np.floating]
    soft_labels: NDArray[np.floating] | None = None
    weights: NDArray[np.floating] | None = None
    auxiliary: NDArray[np.floating] | None = None
    from_target: NDArray[np.bool_] | None = None
    features: NDArray[np.floating] | None = None
    masks: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and len(value) != len(self.patches):
                raise UsageError(f"{field.name} has {len(value)} rows, there are {len(self.patches)} patches")

    def __len__(self) -> int:
        return len(self.patches)

    def rows(self, keep: NDArray[np.bool_] | NDArray[np.integer]) -> LabelledPatches:
        """Some of the patches."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return LabelledPatches(**{name: None if value is None else value[keep] for name, value in values.items()})

    def targets(self, soft_share: float) -> NDArray[np.float32]:
        """(n,) in 0..1: label and readers' mean mixed; the mean alone where there is no label; NaN where neither."""
        hard = np.asarray(self.labels, dtype=np.float32)
        if self.soft_labels is None or soft_share == 0:
            return hard
        soft = np.asarray(self.soft_labels, dtype=np.float32)
        mixed = (1 - soft_share) * hard + soft_share * soft
        mixed = np.where(np.isnan(hard), soft, mixed)
        return np.where(np.isnan(soft), hard, mixed)


@dataclass(frozen=True, eq=False)
class FitData:
    """Training and validation patches of different patients, and unlabelled patches of the target site.

    validation may be empty: the last epoch is then kept. concepts: names of the k columns of `auxiliary`. teacher:
    whose logits are learned beside the labels.
    """

    train: LabelledPatches
    validation: LabelledPatches
    target: NDArray[np.generic] | None = None
    concepts: tuple[str, ...] = ()
    teacher: Teacher | None = None

    def check(self) -> None:
        """Refuse what nothing can be learned from.

        Raises
        ------
        NothingUsableError: no patch, or one class only.
        UsageError: a weight that is not a positive finite number, or no column of `auxiliary` for each concept.
        """
        labels = np.asarray(self.train.labels, dtype=np.float64)
        if not (labels == 1).any() or not (labels == 0).any():
            raise NothingUsableError(
                f"the training split has {int((labels == 1).sum())} malignant and {int((labels == 0).sum())} benign "
                "patches, both are needed",
                todo="Give more annotated studies, or change the split or label parameters.",
            )
        weights = self.train.weights
        if weights is not None and not bool((np.isfinite(weights) & (np.asarray(weights) > 0)).all()):
            row = int(np.flatnonzero(~(np.isfinite(weights) & (np.asarray(weights) > 0)))[0])
            raise UsageError("the weight of a patch must be positive and finite", where=f"training row {row}")
        if self.train.auxiliary is not None and self.concepts and self.train.auxiliary.shape[1] != len(self.concepts):
            raise UsageError(f"{self.train.auxiliary.shape[1]} auxiliary columns, {len(self.concepts)} concepts")

    def digest(self) -> str:
        """sha256 of every array, so that a saved state of another fit is never taken up."""
        total = hashlib.sha256(",".join(self.concepts).encode())
        for part in (self.train, self.validation):
            for field in fields(part):
                if field.name == "masks" and part.masks is None:
                    continue  # states of fits without masks keep their digest
                _update(total, field.name, getattr(part, field.name))
        _update(total, "target", self.target)
        if self.teacher is not None:
            total.update(self.teacher.digest().encode())
        return total.hexdigest()


def _update(total: hashlib._Hash, name: str, values: NDArray[np.generic] | None) -> None:
    total.update(name.encode())
    if values is not None:
        array = np.ascontiguousarray(values)
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(memoryview(array.reshape(-1).view(np.uint8)))
