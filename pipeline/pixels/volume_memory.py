"""Memory for one volume after the other: to find new pages costs more than all arithmetic on them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

#: a volume above this is let go again: few are, and they must not be kept for the small ones behind them
_MOST_KEPT_BYTES = 1 << 29


class VolumeMemory:
    """Gives arrays out of one block that grows to the largest volume; each takes the place of the one before it.

    Not for two threads: a thread that decodes volumes has its own.
    """

    def __init__(self) -> None:
        self._block: NDArray[np.int16] = np.empty(0, dtype=np.int16)

    def array(self, shape: tuple[int, int, int]) -> NDArray[np.int16]:
        """int16 of that shape, with any content.

        Raises
        ------
        MemoryError: so many voxels do not fit.
        """
        size = math.prod(shape)
        if size > self._block.size:
            self._block = np.empty(0, dtype=np.int16)
            block = np.empty(size, dtype=np.int16)
            if block.nbytes > _MOST_KEPT_BYTES:
                return block.reshape(shape)
            self._block = block
        return self._block[:size].reshape(shape)
