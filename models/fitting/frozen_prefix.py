"""What the frozen stages make of every augmented patch, computed once and kept in memory.

With the last stage unfrozen an epoch then costs only that stage; with none unfrozen it costs only
the head. Without a frozen stage the images are made anew for every epoch instead.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_contracts.errors import UsageError
from data_contracts.model_card import InputSpec
from models.augmentation.augment import Draws, augment, draw_variant
from models.augmentation.style import Style, StyleDraws
from models.fitting.mask_head import mask_targets
from models.networks.backbones import pool
from models.networks.inputs import as_batch, axes_of, patches_a_pass, plane_count, to_images
from models.networks.network import by_plane

_FLOAT16_ABOVE_BYTES = 512 * 2**20
_MOST_BYTES = 3 * 2**30


class PatchInputs:
    """Inputs of the learning part for a set of patches.

    Parameters
    ----------
    prefix: the frozen stages, None where every stage learns.
    pooled: no stage learns, so features (mean over the pixels of a plane, or a volume) are kept instead of maps.
    variants: how many augmented versions of each patch; the first is the patch itself.
    features: pooled features (n, F) of the patches themselves, where they were computed before.
    noise_std: of the noise on augmented images.
    styled: augmented patches are moved between soft and sharp kernels too (`models.augmentation.style`).
    masks: (n, c, H, W) of the patches, None where they are no target.
    """

    def __init__(
        self,
        patches: NDArray[np.generic],
        spec: InputSpec,
        prefix: nn.Sequential | None,
        *,
        pooled: bool,
        variants: int,
        seed: int,
        features: NDArray[np.floating] | None = None,
        noise_std: float = 0.0,
        styled: bool = False,
        masks: NDArray[np.uint8] | None = None,
    ) -> None:
        self._patches = patches
        self._masks = masks
        self._spec = spec
        self._prefix = prefix
        self._pooled = pooled
        self._variants = variants
        self._seed = seed
        self._noise_std = noise_std
        self._planes = plane_count(spec)
        self._style = Style(patches, spec, seed=seed) if styled else None
        self._cache: Tensor | None = None
        if features is not None:
            self._cache = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))[None]

    def __len__(self) -> int:
        return len(self._patches)

    def epoch(self, epoch: int, generator: torch.Generator) -> EpochInputs:
        """Inputs of one epoch: every patch in one of its variants, drawn from `generator`."""
        if self._prefix is None:
            draws = self._draws(epoch + 1)
            return EpochInputs(
                lambda index: as_batch(self._augmented(index, draws)), lambda index: self._targets(index, draws[0])
            )
        cache = self._filled_cache()
        variant = torch.randint(0, self._variants, (len(self),), generator=generator)
        return EpochInputs(
            lambda index: self._taken(cache[variant[index], index]),
            lambda index: self._targets_of(index, variant[index]),
        )

    def plain(self) -> EpochInputs:
        """The patches without augmentation."""
        if self._prefix is None:
            return EpochInputs(lambda index: as_batch(self._images(index)))
        cache = self._filled_cache()
        return EpochInputs(lambda index: self._taken(cache[0, index]))

    def _taken(self, values: Tensor) -> Tensor:
        return values.float() if self._pooled else as_batch(values.float())

    def _targets(self, index: Tensor, draws: Draws | None) -> Tensor | None:
        """Masks (B, c, S, S) moved as the images of the same draws."""
        if self._masks is None:
            return None
        moved = None if draws is None else draws.rows(index)
        return mask_targets(self._masks[index.numpy()], self._spec.input_size_px, moved)

    def _targets_of(self, index: Tensor, variants: Tensor) -> Tensor | None:
        """Masks of patches each in a variant of its own; the first variant is the patch itself."""
        whole: Tensor | None = None
        for variant in [] if self._masks is None else variants.unique().tolist():
            chosen = variants == variant
            part = self._targets(index[chosen], self._draws(variant)[0] if variant else None)
            assert part is not None
            whole = part.new_zeros(len(index), *part.shape[1:]) if whole is None else whole
            whole[chosen] = part
        return whole

    def _images(self, index: Tensor) -> Tensor:
        return to_images(self._patches[index.numpy()], self._spec)

    def _draws(self, variant: int) -> tuple[Draws, StyleDraws | None]:
        draws = draw_variant(len(self), self._planes, seed=self._seed, variant=variant, axes=axes_of(self._spec))
        return draws, None if self._style is None else self._style.draws(variant)

    def _augmented(self, index: Tensor, draws: tuple[Draws, StyleDraws | None]) -> Tensor:
        warps, styles = draws
        if self._style is None or styles is None:
            return augment(self._images(index), warps.rows(index), self._noise_std)
        patches = self._style.apply(self._patches[index.numpy()], styles.rows(index))
        return augment(to_images(patches, self._spec), warps.rows(index), self._noise_std)

    def _filled_cache(self) -> Tensor:
        """(variants, n, P, C, [d,] h, w); of pooled features (variants, n, P, F), or (variants, n, F) known before."""
        if self._cache is not None:
            return self._cache
        assert self._prefix is not None
        self._prefix.eval()
        n = len(self)
        step = patches_a_pass(self._spec)
        cache: Tensor | None = None
        with torch.no_grad():
            for variant, start in product(range(self._variants), range(0, n, step)):
                if start == 0:
                    draws = self._draws(variant)
                index = torch.arange(start, min(start + step, n))
                images = self._augmented(index, draws) if variant > 0 else self._images(index)
                maps = self._prefix(as_batch(images))
                if self._pooled:
                    values = by_plane(pool(maps), self._planes)
                else:
                    values = maps.reshape(len(index), self._planes, *maps.shape[1:])
                if cache is None:
                    cache = self._allocate(values)
                cache[variant, index] = values.to(cache.dtype)
        self._cache = torch.zeros(self._variants, 0) if cache is None else cache
        return self._cache

    def _allocate(self, values: Tensor) -> Tensor:
        shape = (self._variants, len(self), *values.shape[1:])
        count = int(np.prod(shape))
        if 2 * count > _MOST_BYTES:
            raise UsageError(
                f"the frozen stages' outputs would take {2 * count / 2**30:.1f} GiB",
                where=f"{len(self)} patches in {self._variants} variants",
                todo="Lower augmentations or input_size_px, or unfreeze fewer or all stages.",
            )
        return torch.empty(shape, dtype=torch.float16 if 4 * count > _FLOAT16_ABOVE_BYTES else torch.float32)


class EpochInputs:
    """`batch(index)`: inputs (B * P, C, [d,] h, w) of the learning stages, or features (B, P, F) or (B, F).

    `masks(index)`: targets (B, c, S, S) that lie where the inputs do, None where there are none.
    """

    def __init__(
        self, batch: Callable[[Tensor], Tensor], masks: Callable[[Tensor], Tensor | None] = lambda index: None
    ) -> None:
        self.batch = batch
        self.masks = masks
