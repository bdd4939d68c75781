"""Prepare and features: volumes and nodules in, patch datasets and feature tables out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from data_contracts.errors import NothingUsableError
from data_contracts.features import FEATURE_TABLE, POOLED, FeatureCard
from data_contracts.model_card import InputSpec
from data_contracts.params import FeatureParams, LabelParams, PatchParams, SplitParams
from data_contracts.patches import DatasetCard
from data_contracts.records import digest_of
from data_contracts.series import SeriesRecord
from flows.engine import step
from flows.progress import say, stage
from flows.workspace import Workspace
from pipeline.cohort.consensus import nodules_by_consensus
from pipeline.cohort.dataset import PatchReader, assemble_dataset, extract_series_patches
from pipeline.cohort.split import split_patients
from pipeline.imaging.nifti import read_nifti


@step("extract-patches")
def extract_patches(workspace: Workspace, record: SeriesRecord, nodules: pd.DataFrame, params: PatchParams) -> Any:
    return extract_series_patches(read_nifti(workspace.root / record.volume_path), nodules, params)
