"""Does the network need what the map says it needs? Deletion and insertion (Petsiuk, Das & Saenko, BMVC 2018)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.networks.network import NoduleNetwork

#: shares of the pixels that are taken away or put back; a nodule covers few per cent of its patch
SHARES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5)
_BATCH = 16


def deletion_insertion(
    network: NoduleNetwork, images: Tensor, maps: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(deletion (N,), insertion (N,)): mean logit of malignancy while pixels go, or come back, in the map's order.

    The network needs what the map shows where deletion is low and insertion high. What is gone has the median of its
    plane, by channel: lung, in a patch of lung.

    Parameters
    ----------
    images: (N, P, C, *plane). maps: (N, P, *plane); the order is over all planes of a patch, equal values at random.
    """
    flat = images.flatten(3)
    nothing = flat.median(dim=3, keepdim=True).values.expand_as(flat).reshape(images.shape)
    order = _ranks(maps)
    deleted, inserted = [], []
    network = network.eval()
    with torch.inference_mode():
        for share in SHARES:
            taken = torch.from_numpy(order < share)[:, :, None]
            deleted.append(_logits(network, torch.where(taken, nothing, images)))
            inserted.append(_logits(network, torch.where(taken, images, nothing)))
    return np.mean(deleted, axis=0), np.mean(inserted, axis=0)


def _ranks(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """Rank of every pixel within its patch, 0 for the most important one, as a share of all pixels."""
    flat = maps.reshape(len(maps), -1)
    ties = np.random.default_rng(0).random(flat.shape)
    order = np.lexsort((ties, -flat), axis=1)
    ranks = np.empty(flat.shape, dtype=np.float64)
    np.put_along_axis(ranks, order, np.arange(flat.shape[1], dtype=np.float64)[None].repeat(len(flat), axis=0), axis=1)
    return (ranks / flat.shape[1]).reshape(maps.shape)


def _logits(network: NoduleNetwork, images: Tensor) -> NDArray[np.float64]:
    return np.concatenate([network(part).double().numpy() for part in images.split(_BATCH)])
