"""What a network reads out beside malignancy."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from data_contracts.model_card import InputSpec
from models.augmentation.orbit import orbit
from models.networks.inputs import to_images
from models.networks.network import NoduleNetwork

_BATCH = 16


def predict_concepts(
    network: NoduleNetwork, patches: NDArray[np.generic], spec: InputSpec, batch_size: int = _BATCH
) -> NDArray[np.float64]:
    """Concepts (n, k) in 0..1 of patches (n, *patch_shape), in the order of the model card; k may be 0.

    The mean over `spec.views` flips and quarter turns, as for the logit.
    """
    network.eval()
    n_concepts = 0 if network.concepts is None else network.concepts.out_features
    out = np.zeros((len(patches), n_concepts), dtype=np.float64)
    if n_concepts == 0:
        return out
    with torch.inference_mode():
        for start in range(0, len(patches), batch_size):
            images = to_images(patches[start : start + batch_size], spec)
            views = [torch.sigmoid(network.with_concepts(view)[1]) for view in orbit(images, spec.views)]
            out[start : start + batch_size] = torch.stack(views).mean(dim=0).double().numpy()
    return out
