"""The rows of a dataset that each part of training may see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_contracts.errors import NothingUsableError, UsageError
from data_contracts.features import FEATURE_TABLE, pooled_matrix
from data_contracts.manifest import Split
from data_contracts.params import TrainParams
from data_contracts.records import digest_of, sha256_file
from flows.datasets.labelled import labelled_patches, learned_concepts, patches_of
from models.fitting.data import FitData, LabelledPatches
from pipeline.cohort.dataset import PatchReader
from pipeline.cohort.split import check_no_leak


class TrainingCohort:
    """A dataset seen with the parameters of one training; raises LeakError where a patient is in two splits.

    feature_table: pooled features of every patch, where the backbone stays frozen and they were computed before.
    """

    def __init__(self, dataset_dir: Path, params: TrainParams, feature_table: Path | None = None) -> None:
        self._dir = dataset_dir
        self.reader = PatchReader(dataset_dir)
        self.index = self.reader.index
        check_no_leak(self.index)
        self.params = params
        self.concepts = learned_concepts(self.index, params)
        self._features = None if feature_table is None else FEATURE_TABLE.read(feature_table)
        known = sorted(set(self.index["site"]))
        for site in (params.source_site, params.target_site):
            if site and site not in known:
                raise UsageError(f"the dataset has no site {site!r}", todo=f"Known: {', '.join(known)}.")

    def check(self) -> None:
        """Whether the dataset's bytes are those its card was written for; raises ContractError where they are not."""
        self.reader.verify()

    def digest(self) -> str:
        """sha256 over the card and the digests of shards and index: which bytes were learned from."""
        shards = {shard.file: shard.sha256 for shard in (*self.reader.card.shards, *self.reader.card.masks)}
        return digest_of([self.reader.card.dataset_id, shards, sha256_file(self._dir / "index.parquet")], length=64)

    def train(self) -> pd.DataFrame:
        """Training rows of the source; with a soft-label term also the indeterminate ones.

        A model of several members learns from the validation patients, too, each member without a part of them all.
        """
        rows = self._rows(*self._learned_splits, site=self.params.source_site, labelled=self._needs_label)
        return self._both_labels(rows, "training")

    def labelled_target(self) -> pd.DataFrame:
        """Training rows of the target site that a joint training learns from, as `train` chooses the source's."""
        rows = self._rows(Split.TRAIN, site=self.params.target_site, labelled=self._needs_label)
        return self._both_labels(rows, f"training (site {self.params.target_site})")

    def learned(self, *, joint: bool) -> pd.DataFrame:
        """Rows whose labels a network learns from: the source's, then in a joint training the target's."""
        return pd.concat([self.train(), self.labelled_target()]) if joint else self.train()

    def validation(self) -> pd.DataFrame:
        """Labelled validation rows that calibrate: of the source, in a run with joint training of the target, too."""
        rows = self.source_validation()
        if self.params.target_label_weight > 0:
            rows = pd.concat([rows, self._rows(Split.VALIDATION, site=self.params.target_site, labelled=True)])
        return rows

    def source_validation(self) -> pd.DataFrame:
        """Labelled validation rows of the source; all labelled rows that several members learn from."""
        splits = (Split.VALIDATION,) if self.params.members == 1 else self._learned_splits
        rows = self._rows(*splits, site=self.params.source_site, labelled=True)
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

    def fit_data(self, *, adapted: bool, joint: bool = False) -> FitData:
        """What fitting sees; labels of the target are not in it, unless it is a `joint` training.

        A joint training learns from both sites and chooses its epoch by validation patients of both.
        """
        if joint:
            rows = self.learned(joint=True)
            both = replace(self._labelled(rows), from_target=np.arange(len(rows)) >= len(self.train()))
            return FitData(train=both, validation=self._labelled(self.validation()), concepts=self.concepts)
        return FitData(
            train=self._labelled(self.train()),
            validation=self._labelled(self.source_validation()),
            target=self.patches(self.target()) if adapted else None,
            concepts=self.concepts,
        )

    @property
    def _learned_splits(self) -> tuple[Split, ...]:
        return (Split.TRAIN,) if self.params.members == 1 else (Split.TRAIN, Split.VALIDATION)

    @property
    def _needs_label(self) -> bool:
        return self.params.soft_label_weight == 0

    def _labelled(self, rows: pd.DataFrame) -> LabelledPatches:
        return labelled_patches(self.reader, rows, self.params, features=self.features(rows))

    def _rows(self, *splits: Split, site: str = "", labelled: bool = False) -> pd.DataFrame:
        chosen = self.index["split"].isin([split.value for split in splits])
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
