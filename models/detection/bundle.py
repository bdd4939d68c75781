"""MONAI's lung nodule detector (bundle lung_nodule_ct_detection) from a local folder.

The network is built here from the card's numbers, by MONAI's own classes; of the folder only the card and the tensors
are read. configs/inference.json, scripts and TorchScript of a bundle are programs and stay closed.
"""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_contracts.detection import DetectorCard
from data_contracts.errors import WeightsDigestError, WeightsError

CARD_FILE = "detector.json"


class BundleDetector:
    """Boxes around nodules in a chest on the grid that the card names."""

    def __init__(self, card: DetectorCard, detector: Any) -> None:
        self.card = card
        self._detector = detector.eval()

    def __call__(self, hu: NDArray[np.int16]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Boxes (n, 6) = (x0, y0, z0, x1, y1, z1) in voxels of `hu`, and scores (n,), by falling score.

        Parameters
        ----------
        hu: int16 (x, y, z), growing to the patient's right, front and head, sampled every `card.spacing_xyz_mm`.
        """
        card = self.card
        values = torch.from_numpy(np.ascontiguousarray(hu)).to(torch.float32)
        values = ((values - card.low_hu) / (card.high_hu - card.low_hu)).clamp(0, 1)[None]
        use_windows = any(size > patch for size, patch in zip(hu.shape, card.patch_xyz, strict=True))
        with torch.inference_mode():
            found: dict[str, Tensor] = self._detector([values], use_inferer=use_windows)[0]
        boxes, scores = found["box"].double().numpy(), found["label_scores"].double().numpy()
        order = np.argsort(-scores, kind="stable")
        return boxes[order], scores[order]


def load_bundle_detector(folder: Path) -> BundleDetector:
    """The detector of a folder.

    Raises
    ------
    WeightsError: no such folder, no card or weights in it, or tensors that do not fit the network of the card.
    WeightsDigestError: other weights than the card was written for; nothing of them is loaded.
    ContractError: a card that says something else than cards do.
    """
    if not folder.is_dir():
        raise WeightsError(
            f"no detector {folder.name!r}",
            where=folder.parent.name,
            todo=f"Put a folder of that name there: {CARD_FILE} and the weights that it names (docs/detection.md).",
        )
    if not (folder / CARD_FILE).is_file():
        raise WeightsError(
            f"the folder has no {CARD_FILE}",
            where=folder.name,
            todo='Write {"name": ..., "weights_file": "models/model.pt", "weights_sha256": ...} (docs/detection.md).',
        )
    card = DetectorCard.read(folder / CARD_FILE)
    path = folder / card.weights_file
    if not path.is_file():
        raise WeightsError(f"the detector has no {card.weights_file}", where=folder.name, todo="Fetch its weights.")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != card.weights_sha256:
        raise WeightsDigestError(
            "the detector's weights are not those its card names", where=folder.name, todo="Fetch them again."
        )
    network = build_network(card)
    try:
        network.load_state_dict(_tensors(content, path.suffix))
    except Exception:
        raise WeightsError(
            f"{card.weights_file} holds no tensors that fit this network",
            where=folder.name,
            todo="It must be safetensors or a plain state dict (no TorchScript, no pickled network) of a RetinaNet as "
            "the card describes it.",
        ) from None
    return BundleDetector(card, _detector(card, network))


def build_network(card: DetectorCard) -> torch.nn.Module:
    """The RetinaNet of a card, with random weights."""
    from monai.apps.detection.networks.retinanet_network import RetinaNet, resnet_fpn_feature_extractor
    from monai.networks.nets import resnet

    body = getattr(resnet, card.backbone)(
        spatial_dims=3,
        n_input_channels=1,
        conv1_t_stride=list(card.conv1_stride),
        conv1_t_size=list(card.conv1_size),
    )
    extractor = resnet_fpn_feature_extractor(body, 3, False, list(card.returned_layers), None)
    return RetinaNet(
        spatial_dims=3,
        num_classes=1,
        num_anchors=len(card.base_anchor_shapes),
        feature_extractor=extractor,
        size_divisible=list(card.size_divisible),
    )


def _detector(card: DetectorCard, network: torch.nn.Module) -> Any:
    from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
    from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape

    anchors = AnchorGeneratorWithAnchorShape(
        feature_map_scales=card.feature_map_scales,
        base_anchor_shapes=[list(shape) for shape in card.base_anchor_shapes],
    )
    detector = RetinaNetDetector(network=network, anchor_generator=anchors, debug=False)
    detector.set_target_keys(box_key="box", label_key="label")
    detector.set_box_selector_parameters(
        score_thresh=card.score_threshold,
        topk_candidates_per_level=1000,
        nms_thresh=card.overlap_threshold,
        detections_per_img=card.most_boxes,
    )
    detector.set_sliding_window_inferer(
        roi_size=list(card.patch_xyz), overlap=0.25, sw_batch_size=1, mode="constant", device="cpu"
    )
    return detector


def _tensors(content: bytes, suffix: str) -> dict[str, Tensor]:
    """The state dict of a file's bytes; of objects other than tensors torch refuses to make any."""
    if suffix == ".safetensors":
        from safetensors.torch import load

        return dict(load(content))
    held = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    return dict(held.get("model", held))
