"""What the model asks of its weights: named tensors in float32, whole or by rows.

Names are the checkpoint's own without prefix (`layers.0.self_attn.q_proj.weight`); see
docs/model.md. `weights/` implements this over mapped files; tests use plain dictionaries.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class TensorSource(Protocol):
    """A read-only set of named tensors."""

    def names(self) -> Sequence[str]:
        """All tensor names, sorted."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """[out, in] for matrices, as in the checkpoint; raises ModelFileError if missing."""
        ...

    def tensor(self, name: str) -> NDArray[np.float32]:
        """The whole tensor, dequantised, C-contiguous."""
        ...

    def rows(self, name: str, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """[len(index), in]: rows of a matrix; reads only these rows of the file."""
        ...
