"""From a stored patch to the images, or the volume, that a backbone sees.

HU values become windows (lung, mediastinal, bone) as channels; grey planes keep their slices or colours as channels,
or are replicated. Every operation is traced by torch.export.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from data_contracts.errors import UsageError
from data_contracts.model_card import InputSpec, Volumetric, named_window
from data_contracts.params import TrainParams
from models.networks.backbones import is_volumetric
from models.networks.resize import resize_planes, resize_volumes

if TYPE_CHECKING:
    from data_contracts.patches import DatasetCard

CHANNELS = 3
#: images a pass: their activations then stay in the processor's cache (ResNet50: about three times as fast as 48)
_IMAGES_A_PASS = 16
_VOLUMES_A_PASS = 2
#: of a volume with one channel in 0..1; MedicalNet standardises each volume instead, so its weights see another scale
_ONE_CHANNEL = {"mean": (0.5,), "std": (0.25,)}


def input_spec(card: DatasetCard, params: TrainParams) -> InputSpec:
    """What a network trained on the dataset `card` with `params` expects.

    Raises
    ------
    UsageError: a volume is wanted of patches that are none, or is to be inflated for a backbone that takes volumes.
    """
    volumetric: Volumetric = params.volumetric
    if is_volumetric(params.backbone):
        if volumetric != "planes":
            raise UsageError(
                f"{params.backbone} takes volumes as they are", where=f"volumetric={volumetric}", todo="Leave it out."
            )
        volumetric = "native"
    if volumetric != "planes" and card.kind != "3d":
        raise UsageError(
            f"the dataset holds {card.kind} patches, no volumes",
            where=f"backbone={params.backbone}, volumetric={params.volumetric}",
            todo="Prepare it with `noduleflow prepare --set kind=3d`, or set volumetric=planes.",
        )
    windows = params.windows[:1] if volumetric == "native" else params.windows
    return InputSpec(
        kind=card.kind,
        patch_shape=card.patch_shape,
        value_unit=card.value_unit,
        spacing_mm=card.spacing_mm or params.common_spacing_mm or None,
        windows=tuple(named_window(name) for name in windows),
        views=params.views,
        input_size_px=params.input_size_px,
        volumetric=volumetric,
        **(_ONE_CHANNEL if volumetric == "native" else {}),
    )


def plane_count(spec: InputSpec) -> int:
    """How many images one patch gives, 1 for a volume; raises UsageError for a shape the kind cannot have."""
    shape = spec.patch_shape
    if spec.volumetric != "planes" and not (spec.kind == "3d" and len(shape) == 3):
        raise UsageError(f"a {spec.kind} patch of shape {tuple(shape)} is no volume", todo="3d is (D, H, W).")
    if spec.kind == "2d" and (len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, CHANNELS))):
        return shape[0] if len(shape) == 3 and spec.value_unit == "HU" else 1
    if spec.kind == "2.5d" and len(shape) == 3:
        return shape[0]
    if spec.kind == "3d" and len(shape) == 3:
        return 3 if spec.volumetric == "planes" else 1
    raise UsageError(
        f"a {spec.kind} patch of shape {tuple(shape)} cannot become images",
        todo="2d is (H, W), (1, H, W) or (3, H, W), 2.5d (P, H, W), 3d (D, H, W).",
    )


def axes_of(spec: InputSpec) -> int:
    """2 where the network sees planes, 3 where it sees volumes."""
    return 2 if spec.volumetric == "planes" else 3


def patches_a_pass(spec: InputSpec) -> int:
    """How many patches go through a network at once."""
    return _VOLUMES_A_PASS if axes_of(spec) == 3 else max(_IMAGES_A_PASS // plane_count(spec), 1)


def to_images(patches: NDArray[np.generic] | Tensor, spec: InputSpec) -> Tensor:
    """Normalised images, float32 (N, P, C, S, S), or volumes (N, 1, C, S, S, S), of patches (N, *patch_shape).

    3d patches give their central axial, coronal and sagittal planes where `spec.volumetric` is "planes", else
    themselves; S is `spec.input_size_px`, C the number of `spec.mean`.

    Raises
    ------
    UsageError: patches of another shape than the specification's.
    """
    values = _as_tensor(patches)
    if tuple(values.shape[1:]) != tuple(spec.patch_shape):
        raise UsageError(
            f"patches of shape {tuple(values.shape[1:])}, the network expects {tuple(spec.patch_shape)}",
            todo="Prepare the patches with the parameters the network was trained with.",
        )
    plane_count(spec)
    axes = axes_of(spec)
    if axes == 3:
        images = _volumes(values, spec)
    else:
        images = _hu_images(values, spec) if spec.value_unit == "HU" else _grey_images(values, spec)
    mean = torch.tensor(spec.mean, dtype=torch.float32).view(1, 1, -1, *[1] * axes)
    std = torch.tensor(spec.std, dtype=torch.float32).view(1, 1, -1, *[1] * axes)
    return (images - mean) / std


def as_batch(images: Tensor) -> Tensor:
    """Images (N, P, C, [d,] h, w) -> (N * P, C, [d,] h, w), channels last in memory: what CPUs convolve fastest."""
    batch = images.flatten(0, 1)
    return batch.contiguous(memory_format=torch.channels_last if batch.ndim == 4 else torch.channels_last_3d)


def _as_tensor(patches: NDArray[np.generic] | Tensor) -> Tensor:
    if isinstance(patches, Tensor):
        return patches.to(torch.float32)
    return torch.from_numpy(np.ascontiguousarray(patches)).to(torch.float32)


def _planes(values: Tensor, spec: InputSpec) -> list[Tensor]:
    """The planes of the patches, each (N, H, W)."""
    if spec.kind == "3d":
        depth, height, width = spec.patch_shape
        return [values[:, depth // 2], values[:, :, height // 2], values[:, :, :, width // 2]]
    if values.ndim == 3:
        return [values]
    return [values[:, plane] for plane in range(values.shape[1])]


def _volumes(values: Tensor, spec: InputSpec) -> Tensor:
    """(N, D, H, W) -> (N, 1, C, S, S, S) in 0..1."""
    resized = resize_volumes(values, spec.input_size_px)
    if spec.value_unit == "HU":
        return torch.stack(_windowed(resized, spec), dim=1)[:, None]
    return (resized / 255)[:, None, None].expand(-1, -1, len(spec.mean), -1, -1, -1)


def _hu_images(values: Tensor, spec: InputSpec) -> Tensor:
    # Resizing comes before the windows: it is linear in HU, a window is not.
    resized = [resize_planes(plane[:, None], spec.input_size_px)[:, 0] for plane in _planes(values, spec)]
    return torch.stack(_windowed(torch.stack(resized, dim=1), spec), dim=2)


def _windowed(values_hu: Tensor, spec: InputSpec) -> list[Tensor]:
    """The values in each window, 0..1."""
    return [
        ((values_hu - (window.center_hu - window.width_hu / 2)) / window.width_hu).clamp(0, 1)
        for window in spec.windows
    ]


def _grey_images(values: Tensor, spec: InputSpec) -> Tensor:
    scaled = values / 255
    if spec.kind == "2d" and len(spec.patch_shape) == 3 and spec.patch_shape[0] == CHANNELS:
        return resize_planes(scaled, spec.input_size_px)[:, None]
    planes = torch.stack([resize_planes(plane[:, None], spec.input_size_px) for plane in _planes(scaled, spec)], dim=1)
    return planes.expand(-1, -1, CHANNELS, -1, -1)


def to_common_spacing(
    patches: NDArray[np.generic], spacing_mm: NDArray[np.floating], target_mm: float, *, batch_size: int = 256
) -> NDArray[np.generic]:
    """Patches (N, C, H, W) of different pixel spacings on one in-plane grid, same shape and dtype.

    Crops cut at native resolution show a nodule of the same size in mm with different numbers of
    pixels; on a common grid the image itself says how large the nodule is. The centre stays; what
    lies outside a crop repeats its border. Patches whose spacing is NaN are left as they are.
    """
    out = np.array(patches)
    known = np.flatnonzero(np.isfinite(spacing_mm))
    low, high = (np.iinfo(out.dtype).min, np.iinfo(out.dtype).max) if out.dtype.kind in "iu" else (-np.inf, np.inf)
    for start in range(0, len(known), batch_size):
        rows = known[start : start + batch_size]
        scale = torch.from_numpy(target_mm / np.asarray(spacing_mm, dtype=np.float64)[rows]).to(torch.float32)
        theta = torch.zeros(len(rows), 2, 3)
        theta[:, 0, 0] = scale
        theta[:, 1, 1] = scale
        values = torch.from_numpy(np.ascontiguousarray(out[rows])).to(torch.float32)
        grid = functional.affine_grid(theta, list(values.shape), align_corners=False)
        warped = functional.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)
        result = warped.numpy()
        if out.dtype.kind in "iu":
            result = np.rint(result).clip(low, high)
        out[rows] = result.astype(out.dtype)
    return out
