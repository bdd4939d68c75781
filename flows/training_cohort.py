"""The rows of a dataset that each part of training may see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_contracts.errors import NothingUsableError, UsageError
from data_contracts.features import FEATURE_TABLE, pooled_matrix
from data_contracts.manifest import Split
from data_contracts.params import TrainParams
from flows.labelled import concept_names, labelled_patches, patches_of
from models.fitting.data import FitData, LabelledPatches
from pipeline.cohort.dataset import PatchReader
from pipeline.cohort.split import check_no_leak


class TrainingCohort:
    """A dataset seen with the parameters of one training; raises LeakError where a patient is in two splits.

    feature_table: pooled features of every patch, where the backbone stays frozen and they were computed before.
    """

    def __init__(self, dataset_dir: Path, params: TrainParams, feature_table: Path | None = None) -> None:
        self.reader = PatchReader(dataset_dir)
        self.index = self.reader.index
        check_no_leak(self.index)
        self.params = params
        self._features = None if feature_table is None else FEATURE_TABLE.read(feature_table)
        known = sorted(set(self.index["site"]))
        for site in (params.source_site, params.target_site):
            if site and site not in known:
                raise UsageError(f"the dataset has no site {site!r}", todo=f"Known: {', '.join(known)}.")

    def train(self) -> pd.DataFrame:
        """Training rows of the source; with a soft-label term also the indeterminate ones."""
        labelled = self.params.soft_label_weight == 0
        return self._both_labels(self._rows(Split.TRAIN, site=self.params.source_site, labelled=labelled), "training")

    def validation(self) -> pd.DataFrame:
        """Labelled validation rows of the source."""
        rows = self._rows(Split.VALIDATION, site=self.params.source_site, labelled=True)
        return self._both_labels(rows, "validation")

    def test(self) -> pd.DataFrame:
        """Held-out rows of every site, indeterminate ones too."""
        return self._rows(Split.TEST)

    def target(self) -> pd.DataFrame:
        """Training rows of the target site, whose labels nobody looks at."""
        return self._rows(Split.TRAIN, site=self.params.target_site)

    def patches(self, rows: pd.DataFrame) -> NDArray[np.generic]:
        """Patches of some rows, in their order."""
        return patches_of(self.reader, rows, self.params)

    def features(self, rows: pd.DataFrame) -> NDArray[np.float32] | None:
        """Pooled features of some rows, in their order, where they were computed before."""
        return None if self._features is None else pooled_matrix(self._features, list(rows["patch_id"]))

    def fit_data(self, *, adapted: bool) -> FitData:
        """What fitting sees; the target's labels are not in it."""
        return FitData(
            train=self._labelled(self.train()),
            validation=self._labelled(self.validation()),
            target=self.patches(self.target()) if adapted else None,
            concepts=concept_names(self.index),
        )

    def _labelled(self, rows: pd.DataFrame) -> LabelledPatches:
        return labelled_patches(self.reader, rows, self.params, features=self.features(rows))

    def _rows(self, split: Split, *, site: str = "", labelled: bool = False) -> pd.DataFrame:
        chosen = self.index["split"] == split.value
        if site:
            chosen &= self.index["site"] == site
        if labelled:
            chosen &= self.index["label"].notna()
        return self.index[chosen]

    @staticmethod
    def _both_labels(rows: pd.DataFrame, what: str) -> pd.DataFrame:
        if rows["label"].dropna().nunique() < 2:
            raise NothingUsableError(
                f"the {what} patients do not show both labels",
                where=f"{len(rows)} nodules",
                todo="Add annotated studies, or change the fractions with `prepare --set train=...`.",
            )
        return rows
