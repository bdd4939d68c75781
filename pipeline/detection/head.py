"""The nodule / non-nodule head: boosted decision trees as numbers in head.json, and their sum."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from data_contracts.detection import DetectionHead
from data_contracts.errors import ContractError
from pipeline.detection.features import FEATURES

HEAD_FILE = "head.json"


@lru_cache(maxsize=1)
def builtin_head() -> DetectionHead:
    """The head that comes with the program; its fields say what it was learned from and what it found.

    Raises ContractError where it was learned on other features than this program computes.
    """
    text = resources.files("pipeline.detection").joinpath(HEAD_FILE).read_text("utf-8")
    head = DetectionHead.from_json(text, where=HEAD_FILE)
    if head.features != FEATURES:
        raise ContractError(
            "the detection head was learned on other features than this program computes",
            where=HEAD_FILE,
            todo="Learn it again with tests/benchmarks/fit_detection_head.py.",
        )
    return head


def score(head: DetectionHead, features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability-like score (n,), 0 to 1, of features (n, len(head.features))."""
    log_odds = np.full(len(features), head.baseline)
    rows = np.arange(len(features))
    for tree in head.trees:
        asked, threshold = np.array(tree.feature), np.array(tree.threshold)
        left, right = np.array(tree.left), np.array(tree.right)
        node = np.zeros(len(features), dtype=np.int64)
        while True:
            is_inner = asked[node] >= 0
            if not is_inner.any():
                break
            goes_left = features[rows, np.maximum(asked[node], 0)] <= threshold[node]
            node = np.where(is_inner, np.where(goes_left, left[node], right[node]), node)
        log_odds += np.array(tree.value)[node]
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(log_odds, -50, 50))))
