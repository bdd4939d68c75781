"""SegmenterCard: a trained lung segmentation network as a folder of two files, without a pickle."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from data_contracts.records import Record


class SegmenterCard(Record):
    """network.json beside weights.safetensors.

    network, arguments: a class of monai.networks.nets and what it is built with; one input channel.
    weights_sha256: of weights.safetensors; checked before every load.
    spacing_mm: of the patient-oriented grid (k superior, j posterior, i left) it was trained on.
    low_hu, high_hu: HU that become 0 and 1 of its input, clipped.
    lung_channels: output channels (after the largest is taken) that are lung; channel 0 is background.
    multiple_of: each side of the grid is padded to a multiple of this.
    source: where the weights come from, and their licence.
    """

    name: str
    network: Literal["UNet", "BasicUNet", "SegResNet", "DynUNet", "AttentionUnet"]
    arguments: dict[str, object]
    weights_sha256: str
    spacing_mm: float = Field(gt=0)
    low_hu: float = -1000.0
    high_hu: float = 400.0
    lung_channels: tuple[int, ...] = (1,)
    multiple_of: int = Field(16, ge=1)
    source: str = ""
