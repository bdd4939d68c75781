"""Maps of what speaks for malignancy: Grad-CAM and occlusion sensitivity, both by MONAI.

The networks here take images (N, P, C, *plane): P planes of two dimensions, or P = 1 volume of three. A map has a
value for each pixel of each plane, 0..1, and 1 is the most important place of its patch.
"""

from __future__ import annotations

import copy
import math
import warnings
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from data_contracts.errors import UsageError
from data_contracts.model_card import InputSpec
from models.networks.network import NoduleNetwork

MapMethod = Literal["grad-cam", "occlusion"]
#: a map of fewer cells a side than this says no more than "in the middle" or "at the rim"
LEAST_CELLS = 7
#: side of what is covered at a time, as a part of the plane's or volume's, and how far neighbours overlap: some 120
#: places of a plane, 340 of a volume
_OCCLUDED = {2: (0.2, 0.6), 3: (0.25, 0.5)}
#: images a pass of the occlusion
_BATCH = 16


def saliency_maps(
    network: NoduleNetwork, images: Tensor, method: MapMethod = "grad-cam", *, stage: int | None = None
) -> NDArray[np.float32]:
    """Maps (N, P, *plane) in 0..1 of images (N, P, C, *plane); all zero where nothing speaks for malignancy.

    Parameters
    ----------
    network: is not changed; weights may be frozen.
    stage: of the backbone, whose feature maps Grad-CAM weighs; by default `grad_cam_stage` chooses.
    """
    if method == "grad-cam":
        return grad_cam(network, images, stage=stage)
    return occlusion(network, images)


def grad_cam(network: NoduleNetwork, images: Tensor, *, stage: int | None = None) -> NDArray[np.float32]:
    """Grad-CAM of the logit of malignancy (Selvaraju et al., ICCV 2017): ReLU(sum_k mean(dy/dA_k) A_k), by plane."""
    from monai.visualize import GradCAM

    stage = grad_cam_stage(network, images) if stage is None else stage
    # MONAI leaves its hooks in the network for ever and clears its gradients: it gets one of its own.
    planes = _ByPlane(copy.deepcopy(network).eval(), images.shape[1])
    cam = GradCAM(nn_module=planes, target_layers=f"network.backbone.stages.{stage}")
    with torch.enable_grad():
        inputs = images.detach().flatten(0, 1).clone().requires_grad_(True)
        coarse = cam.compute_map(inputs, class_idx=0).detach()
    mode = "trilinear" if images.ndim == 6 else "bilinear"
    maps = functional.interpolate(coarse, size=images.shape[3:], mode=mode, align_corners=False)
    return _scaled(maps.reshape(images.shape[0], images.shape[1], *images.shape[3:]))


def grad_cam_stage(network: NoduleNetwork, images: Tensor) -> int:
    """The deepest stage whose feature maps have LEAST_CELLS a side; the finest one where none has.

    The last stage, the usual choice, has two or three cells a side for a patch of 64 or 96 pixels.
    """
    sides: list[int] = []
    hooks = [
        part.register_forward_hook(lambda _module, _inputs, output: sides.append(min(output.shape[2:])))
        for part in network.backbone.stages
    ]
    try:
        with torch.no_grad():
            network.eval()(images[:1])
    finally:
        for hook in hooks:
            hook.remove()
    fine_enough = [number for number, side in enumerate(sides) if side >= LEAST_CELLS]
    return fine_enough[-1] if fine_enough else int(np.argmax(sides))


def occlusion(network: NoduleNetwork, images: Tensor) -> NDArray[np.float32]:
    """How far the logit of malignancy falls when a place is covered (Zeiler & Fergus, ECCV 2014); rises count as 0.

    A place fades into the plane's median, by channel: of a patch of lung that is lung, while the zero of a normalised
    image is a grey that looks like a nodule. One plane at a time is covered.
    """
    from monai.visualize import OcclusionSensitivity

    network = network.eval()
    share, overlap = _OCCLUDED[images.ndim - 3]
    side = [max(round(size * share), 2) for size in images.shape[3:]]
    maps = torch.zeros(images.shape[0], images.shape[1], *images.shape[3:])
    with torch.inference_mode():
        whole = network(images)
        for number in range(len(images)):
            for plane in range(images.shape[1]):
                covered = _OnePlane(network, images[number], plane)
                sensitivity = OcclusionSensitivity(
                    covered, mask_size=side, n_batch=_BATCH, overlap=overlap, activate=False, verbose=False
                )
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message="Using a non-tuple sequence")  # MONAI's, of its own
                    logits, _ = sensitivity(covered.centred[None])
                maps[number, plane] = whole[number] - torch.as_tensor(logits)[0, 0]
    return _scaled(maps)


def to_patch_grid(maps: NDArray[np.float32], spec: InputSpec) -> NDArray[np.float32]:
    """Maps (N, P, *plane) on the grid of the patches: (N, P, H, W), or (N, D, H, W) of a volume.

    2d and 2.5d: plane p of the map lies over plane p of the patch. 3d seen as its three central planes: axial,
    coronal and sagittal planes of a cube.

    Raises
    ------
    UsageError: planes of a volume that is no cube have no common grid.
    """
    shape = spec.patch_shape
    volume = maps.ndim == 5
    if spec.kind == "3d" and not volume and len(set(shape)) > 1:
        raise UsageError(
            f"the three planes of a volume of shape {tuple(shape)} have no common grid",
            todo="Prepare cubes, or train on the volume itself.",
        )
    values = torch.from_numpy(np.ascontiguousarray(maps))
    values = values.flatten(0, 1)[:, None]
    size = tuple(shape) if volume else tuple(shape[-2:])
    if tuple(values.shape[2:]) != size:
        mode = "trilinear" if volume else "bilinear"
        values = functional.interpolate(values, size=size, mode=mode, align_corners=False)
    out = values[:, 0].reshape(len(maps), -1, *size).numpy()
    return np.ascontiguousarray(out[:, 0] if volume else out)


class _ByPlane(nn.Module):
    """Planes (N * P, C, *plane) -> (N, 1), for a method that knows nothing of patches of several planes."""

    def __init__(self, network: NoduleNetwork, n_planes: int) -> None:
        super().__init__()
        self.network = network
        self.n_planes = n_planes

    def forward(self, planes: Tensor) -> Tensor:
        return self.network(planes.reshape(-1, self.n_planes, *planes.shape[1:]))[:, None]


class _OnePlane(nn.Module):
    """One plane (B, C, *plane), its median at zero -> (B, 1), with the other planes of the patch as they are."""

    def __init__(self, network: NoduleNetwork, patch: Tensor, plane: int) -> None:
        super().__init__()
        self.network = network
        self.patch = patch
        self.plane = plane
        dims = math.prod(patch.shape[2:])
        median = patch[plane].reshape(patch.shape[1], dims).median(dim=1).values
        self.median = median.reshape(-1, *[1] * (patch.ndim - 2))
        self.centred = patch[plane] - self.median

    def forward(self, plane: Tensor) -> Tensor:
        images = self.patch[None].repeat(len(plane), *[1] * self.patch.ndim)
        images[:, self.plane] = torch.as_tensor(plane) + self.median
        return self.network(images)[:, None]


def _scaled(maps: Tensor) -> NDArray[np.float32]:
    """Negative values to 0, and the largest of each patch to 1."""
    values = maps.clamp(min=0)
    largest = values.flatten(1).amax(dim=1).reshape(-1, *[1] * (values.ndim - 1))
    return np.asarray((values / largest.clamp(min=1e-12)).numpy(), dtype=np.float32)
