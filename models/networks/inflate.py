"""Two-dimensional backbones made three-dimensional, with the weights they have: I3D and ACS convolutions.

I3D: Carreira & Zisserman, CVPR 2017 (arXiv 1705.07750): a kernel is repeated along the new axis and divided by its
depth. The edges of a volume are repeated, not filled with zeros, along the new axis: so a volume that is constant
along its depth gives exactly the features of its plane, at any depth of the network.
ACS: Yang et al. 2021, IEEE JBHI (arXiv 1911.10477): the output channels of a kernel are split over axial, coronal and
sagittal views, so there is no new parameter.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from data_contracts.errors import UsageError
from data_contracts.model_card import Volumetric
from models.networks.backbones import Backbone, fast_layout

#: layers without weights that work on any number of axes
_ANY_AXES = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Dropout,
)  # fmt: skip
#: layers that act on the last axis, where ConvNeXt moves the channels to
_LAST_AXIS = (nn.Linear, nn.LayerNorm)


def as_volumetric(backbone: Backbone, volumetric: Volumetric) -> Backbone:
    """The backbone for inputs of `InputSpec.volumetric`: itself, or an inflated copy.

    Raises
    ------
    UsageError: an inflation of what is three-dimensional already, planes for it, or a layer that cannot be inflated.
    """
    if volumetric in ("i3d", "acs") and backbone.axes == 2:
        return inflated(backbone, volumetric)
    if (volumetric == "native") != (backbone.axes == 3):
        wanted = "takes volumes as they are" if backbone.axes == 3 else "takes planes, not volumes"
        raise UsageError(
            f"{backbone.name} {wanted}", todo="Train on a dataset of kind 3d, or choose another backbone or volumetric."
        )
    return backbone


def inflated(backbone: Backbone, kind: str) -> Backbone:
    """A copy of a 2D backbone for volumes (N, C, D, H, W), by "i3d" or "acs"; names of its tensors stay."""
    made = copy.deepcopy(backbone)
    made.axes = 3
    for stage in made.stages:
        _inflate_children(stage, kind, backbone.name)
    return fast_layout(made).train(backbone.training)


class InflatedConv(nn.Conv3d):
    """A Conv2d along three axes: kernel w / k, k times along the depth, whose edges are repeated."""

    def __init__(self, plain: nn.Conv2d) -> None:
        kernel, stride, padding, dilation = _square(plain)
        super().__init__(
            plain.in_channels,
            plain.out_channels,
            (kernel[0], *kernel),
            stride=(stride[0], *stride),
            padding=(0, *padding),
            dilation=(dilation[0], *dilation),
            groups=plain.groups,
            bias=plain.bias is not None,
        )
        self.repeated = padding[0]
        with torch.no_grad():
            self.weight.copy_(plain.weight[:, :, None].expand_as(self.weight) / kernel[0])
            if self.bias is not None and plain.bias is not None:
                self.bias.copy_(plain.bias)

    def forward(self, volumes: Tensor) -> Tensor:
        """(N, C, D, H, W) -> (N, C', D', H', W')."""
        if self.repeated:
            first, last = volumes[:, :, :1], volumes[:, :, -1:]
            volumes = torch.cat([*[first] * self.repeated, volumes, *[last] * self.repeated], dim=2)
        return super().forward(volumes)


class AcsConv(nn.Module):
    """A Conv2d whose first output channels look along axial, the next along coronal, the last along sagittal planes."""

    def __init__(self, plain: nn.Conv2d) -> None:
        super().__init__()
        kernel, stride, padding, dilation = _square(plain)
        if kernel[0] != kernel[1] or 2 * padding[0] != dilation[0] * (kernel[0] - 1):
            raise UsageError(
                f"a kernel of {kernel[0]} x {kernel[1]} with a border of {padding[0]} has no three views of one size",
                todo="Use volumetric=i3d.",
            )
        self.weight = nn.Parameter(plain.weight.detach().clone())
        self.bias = None if plain.bias is None else nn.Parameter(plain.bias.detach().clone())
        self.kernel, self.stride, self.padding, self.dilation = kernel[0], stride[0], padding[0], dilation[0]
        self.groups = plain.groups

    def forward(self, volumes: Tensor) -> Tensor:
        """(N, C, D, H, W) -> (N, C', D', H', W')."""
        if self.kernel == 1:  # all views are the same
            return self._view(volumes, self.weight, self.bias, 2, self.groups)
        made = []
        # What is split are groups of channels; in an ordinary convolution, each output channel is one.
        count = self.groups if self.groups > 1 else len(self.weight)
        outputs = len(self.weight) // count
        inputs = volumes.shape[1] // self.groups
        for axis, (start, stop) in zip((2, 3, 4), _thirds(count), strict=True):
            if start == stop:
                continue
            part = slice(start * outputs, stop * outputs)
            seen = volumes if self.groups == 1 else volumes[:, start * inputs : stop * inputs]
            groups = 1 if self.groups == 1 else stop - start
            bias = None if self.bias is None else self.bias[part]
            made.append(self._view(seen, self.weight[part], bias, axis, groups))
        return torch.cat(made, dim=1)

    def _view(self, volumes: Tensor, weight: Tensor, bias: Tensor | None, axis: int, groups: int) -> Tensor:
        """A convolution in the planes across `axis` (2 axial, 3 coronal, 4 sagittal)."""
        padding = [self.padding] * 3
        padding[axis - 2] = 0
        kernel = weight.unsqueeze(axis)
        return functional.conv3d(volumes, kernel, bias, self.stride, tuple(padding), self.dilation, groups)


class _VolumeLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of (N, C, D, H, W)."""

    def forward(self, volumes: Tensor) -> Tensor:
        return super().forward(volumes.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)


def _thirds(count: int) -> tuple[tuple[int, int], ...]:
    """Axial, coronal and sagittal ranges of `count`; of what is left over one goes to the first, one to the second."""
    first, second = (count + 2) // 3, (2 * count + 2) // 3
    return (0, first), (first, second), (second, count)


def _square(plain: nn.Conv2d) -> tuple[tuple[int, int], ...]:
    if plain.padding_mode != "zeros" or isinstance(plain.padding, str):
        raise UsageError(f"a convolution with padding {plain.padding_mode!r} cannot be inflated")
    parts: tuple[Any, ...] = (plain.kernel_size, plain.stride, plain.padding, plain.dilation)
    return tuple((int(one), int(other)) for one, other in parts)


def _inflate_children(module: nn.Module, kind: str, name: str) -> None:
    from torchvision.models.convnext import CNBlock

    for child_name, child in module.named_children():
        replaced = _replacement(child, kind, name)
        if replaced is not None:
            setattr(module, child_name, replaced)
        else:
            _inflate_children(child, kind, name)
    if isinstance(module, CNBlock):  # a factor (C, 1, 1) for each channel
        module.layer_scale = nn.Parameter(module.layer_scale.detach()[..., None].clone())
    elif any(parameter.ndim > 1 for parameter in module.parameters(recurse=False)) and not _is_made(module):
        raise UsageError(f"{name} cannot be inflated: {type(module).__name__} has weights of its own")


def _is_made(module: nn.Module) -> bool:
    return isinstance(module, InflatedConv | AcsConv | _VolumeLayerNorm | nn.BatchNorm3d | _LAST_AXIS)


def _replacement(layer: nn.Module, kind: str, name: str) -> nn.Module | None:
    """What takes the place of a layer; None for one whose children are to be replaced."""
    from torchvision.ops import StochasticDepth
    from torchvision.ops.misc import Permute

    if isinstance(layer, nn.Conv2d):
        return InflatedConv(layer) if kind == "i3d" else AcsConv(layer)
    if isinstance(layer, nn.BatchNorm2d):
        made = nn.BatchNorm3d(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        made.load_state_dict(layer.state_dict())
        return made.train(layer.training)
    if isinstance(layer, nn.MaxPool2d):
        return nn.MaxPool3d(layer.kernel_size, layer.stride, layer.padding, layer.dilation, ceil_mode=layer.ceil_mode)
    if isinstance(layer, nn.AvgPool2d):
        if layer.padding not in (0, (0, 0)):
            raise UsageError(f"{name} cannot be inflated: its average pooling has a border")
        return nn.AvgPool3d(layer.kernel_size, layer.stride, ceil_mode=layer.ceil_mode)
    if isinstance(layer, nn.AdaptiveAvgPool2d) and layer.output_size in (1, (1, 1)):
        return nn.AdaptiveAvgPool3d(1)
    if type(layer).__name__ == "LayerNorm2d" and isinstance(layer, nn.LayerNorm):
        normed = _VolumeLayerNorm(layer.normalized_shape, layer.eps, layer.elementwise_affine)
        normed.load_state_dict(layer.state_dict())
        return normed
    if isinstance(layer, Permute):  # channels to the end, and back
        return Permute([0, 2, 3, 4, 1] if layer.dims == [0, 2, 3, 1] else [0, 4, 1, 2, 3])
    if isinstance(layer, (*_ANY_AXES, *_LAST_AXIS, StochasticDepth)):
        return layer
    if not list(layer.children()):
        raise UsageError(f"{name} cannot be inflated: {type(layer).__name__} has no form for volumes")
    return None
