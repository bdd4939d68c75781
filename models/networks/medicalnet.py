"""MONAI's 3D ResNets as MedicalNet trained them (Chen, Ma & Zheng 2019, Med3D): one channel, no head.

MedicalNet dilates its last two stages where MONAI strides: at the places that MONAI computes both give the same
numbers, so the published weights fit. A file of them is never downloaded.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from models.networks.bodies import Stages

PREFIX = "medicalnet_resnet"
#: depth -> (layers, bottleneck, shortcut); the shortcut with a convolution has no bias in MedicalNet
_DEPTHS: dict[int, tuple[list[int], bool, str]] = {
    10: ([1, 1, 1, 1], False, "B"),
    18: ([2, 2, 2, 2], False, "A"),
    34: ([3, 4, 6, 3], False, "A"),
    50: ([3, 4, 6, 3], True, "B"),
}
MEDICALNETS = tuple(f"{PREFIX}{depth}" for depth in _DEPTHS)


class PaddedShortcut(nn.Module):
    """Every `stride`-th voxel, channels filled up with zeros: the shortcut "A" of He et al. 2016.

    MONAI's own cuts the gradient off and is no module.
    """

    def __init__(self, planes: int, stride: int) -> None:
        super().__init__()
        self.planes = planes
        self.stride = stride

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, D, H, W) -> (N, planes, D', H', W')."""
        step = self.stride
        small = maps[:, :, ::step, ::step, ::step]
        return functional.pad(small, (0, 0, 0, 0, 0, 0, 0, self.planes - maps.shape[1]))


def medicalnet_stages(name: str) -> tuple[Stages, int]:
    """(stages, number of features) of one of MEDICALNETS with random weights."""
    from monai.networks.nets import resnet

    layers, bottleneck, shortcut = _DEPTHS[int(name.removeprefix(PREFIX))]
    block: Any = resnet.ResNetBottleneck if bottleneck else resnet.ResNetBlock
    net = resnet.ResNet(
        block,
        layers,
        resnet.get_inplanes(),
        spatial_dims=3,
        n_input_channels=1,
        conv1_t_stride=2,
        shortcut_type=shortcut,
        feed_forward=False,
        bias_downsample=False,
    )
    for module in net.modules():
        if isinstance(module, resnet.ResNetBlock) and module.downsample is not None and shortcut == "A":
            module.downsample = PaddedShortcut(module.conv1.out_channels, module.stride)
    stem: list[tuple[str, nn.Module]] = [
        ("conv1", net.conv1),
        ("bn1", net.bn1),
        ("act", net.act),
        ("maxpool", net.maxpool),
    ]
    stages = [[(layer, getattr(net, layer))] for layer in ("layer1", "layer2", "layer3", "layer4")]
    width = resnet.get_inplanes()[-1] * (4 if bottleneck else 1)
    return [stem, *stages], width
