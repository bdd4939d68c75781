"""A trained lung segmenter from its folder: a MONAI network, its card, and tensors in safetensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional

from data_contracts.errors import WeightsDigestError, WeightsError
from data_contracts.records import sha256_file
from data_contracts.segmenter import SegmenterCard

CARD_FILE, WEIGHTS_FILE = "network.json", "weights.safetensors"


class TrainedLungSegmenter:
    """Lungs by a network; the form that `pipeline.imaging.lungs.segment_lungs` takes.

    spacing_mm: of the grid it wants.
    """

    def __init__(self, card: SegmenterCard, network: nn.Module) -> None:
        self.card = card
        self.spacing_mm = card.spacing_mm
        self._network = network.eval()

    def __call__(self, hu: NDArray[np.int16]) -> NDArray[np.bool_]:
        """Where lung is, bool (k, j, i), of int16 HU (k, j, i) on a patient-oriented grid of `spacing_mm`."""
        card = self.card
        values = torch.from_numpy(np.ascontiguousarray(hu)).to(torch.float32)
        values = ((values - card.low_hu) / (card.high_hu - card.low_hu)).clamp(0, 1)
        padding = [-size % card.multiple_of for size in hu.shape]
        # functional.pad wants the last axis first
        padded = functional.pad(values, [0, padding[2], 0, padding[1], 0, padding[0]])
        with torch.inference_mode():
            scores: Tensor = self._network(padded[None, None])[0]
        classes = scores.argmax(dim=0) if len(scores) > 1 else (scores[0] > 0).long()
        mask = torch.isin(classes, torch.tensor(card.lung_channels)).numpy()
        return np.asarray(mask[: hu.shape[0], : hu.shape[1], : hu.shape[2]])


def load_lung_segmenter(folder: Path) -> TrainedLungSegmenter:
    """The segmenter of a folder.

    Raises
    ------
    WeightsError: no such folder, or tensors that do not fit the network.
    WeightsDigestError: other weights than the card was written for; nothing of them is loaded.
    """
    if not (folder / CARD_FILE).is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise WeightsError(
            f"no lung segmenter {folder.name!r}",
            where=folder.parent.name,
            todo=f"Put {CARD_FILE} and {WEIGHTS_FILE} into a folder of that name, or take the classical mask.",
        )
    card = SegmenterCard.read(folder / CARD_FILE)
    if sha256_file(folder / WEIGHTS_FILE) != card.weights_sha256:
        raise WeightsDigestError(
            "the segmenter's weights are not those its card names", where=folder.name, todo="Fetch them again."
        )
    from monai.networks import nets

    try:
        network = getattr(nets, card.network)(**card.arguments)
        network.load_state_dict(load((folder / WEIGHTS_FILE).read_bytes()))
    except Exception:
        raise WeightsError(
            f"the tensors do not fit a {card.network} with these arguments", where=folder.name, todo="Mend its card."
        ) from None
    return TrainedLungSegmenter(card, network)
