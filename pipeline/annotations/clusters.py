"""Which marks of several readers are the same nodule."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

#: marks of very small nodules may miss each other by this much and still be the same, in mm
_LEAST_REACH_MM = 3.0


def cluster_marks(
    centers_mm: NDArray[np.floating],
    diameters_mm: NDArray[np.floating],
    readers: Sequence[str],
) -> NDArray[np.int64]:
    """Group marks into nodules, at most one mark of a reader in each.

    Pairs of marks by different readers are joined closest first, while the centre of the smaller lies
    inside the sphere of the larger (the LUNA16 rule, Setio 2017, Med Image Anal 42:1, is looser: closer than the sum
    of the radii) and the joined group still has one mark a reader, as pylidc's clustering ensures by shrinking its
    tolerance. The result does not depend on the order of the marks, but for the numbering.

    Parameters
    ----------
    centers_mm: (n, 3) positions, any one coordinate system.
    diameters_mm: (n,).
    readers: n names.

    Returns
    -------
    int64 (n,): group of each mark, numbered from 0 in order of first appearance.
    """
    centers = np.asarray(centers_mm, dtype=np.float64).reshape(-1, 3)
    diameters = np.asarray(diameters_mm, dtype=np.float64)
    count = len(centers)
    group = list(range(count))
    members: dict[int, set[str]] = {index: {readers[index]} for index in range(count)}

    own_reach = np.maximum(diameters / 2, _LEAST_REACH_MM)
    pairs = cKDTree(centers).query_pairs(float(own_reach.max(initial=0.0)), output_type="ndarray")
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    distance = np.linalg.norm(centers[pairs[:, 0]] - centers[pairs[:, 1]], axis=1)
    near = distance <= own_reach[pairs].max(axis=1)
    (first, second), distance = pairs[near].T, distance[near]
    # position decides between equal distances, so that the order of the marks does not
    middle = np.round((centers[first] + centers[second]) / 2, 6)
    nearness = np.round(distance, 6)
    for pair in np.lexsort((middle[:, 2], middle[:, 1], middle[:, 0], nearness)):
        one, other = group[first[pair]], group[second[pair]]
        if one == other or members[one] & members[other]:
            continue
        members[one] |= members.pop(other)
        group = [one if label == other else label for label in group]

    order = {label: number for number, label in enumerate(dict.fromkeys(group))}
    return np.array([order[label] for label in group], dtype=np.int64)
