"""The model's view of its weights: named tensors in float32, whole or by rows.

Names are the checkpoint's own without prefix (`layers.0.self_attn.q_proj.weight`); see
docs/model.md. `weights/` implements the protocol over mapped files, and tests over dictionaries.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class TensorSource(Protocol):
    """A read-only set of named tensors."""

    def names(self) -> Sequence[str]:
        """Return all tensor names, sorted."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a shape, [out, in] for matrices. Raises ModelFileError if there is none."""
        ...

    def tensor(self, name: str) -> NDArray[np.float32]:
        """Return the whole tensor, dequantised and C-contiguous."""
        ...

    def rows(self, name: str, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return rows of a matrix, [len(index), in]. Only these rows of the file are read."""
        ...
