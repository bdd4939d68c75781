"""What a patch is a cut of; apart from the tables, so that a network's card is read without them."""

from __future__ import annotations

from typing import Literal

#: 2d: (C, H, W) neighbouring slices or colour; 2.5d: (P, H, W) axial, coronal, sagittal planes; 3d: (D, H, W).
PatchKind = Literal["2d", "2.5d", "3d"]
