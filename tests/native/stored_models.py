"""Random models whose matrices are stored in chosen types, and the values that they stand for."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from nestling.model.config import Gemma3nTextConfig
from nestling.model.tensors import TensorSource
from nestling.weights.stored_tensor import StoredTensor, StoredTensors
from tests.model.native_decoder import NativeDecoder
from tests.model.tiny import TINY, random_weights
from tests.native.stored_blocks import block_layout, with_minima

Array = NDArray[np.float32]
MIXED = ("Q4_0", "Q4_1", "Q8_0", "F16", "Q5_1", "BF16", "F32")
"""In the core: 4 bits without and with minimum, 8 bits without and with, and three float types.

Seven, so that the tensors of one name have another type in each layer.
"""

SIX_BITS = replace(TINY, hidden_size=256, head_dim=64)
"""Rows of whole blocks of Q6_K."""

_FACTORED = {"Q3_K": (110, 108, 2.3 * 18.5), "Q6_K": (210, 208, 18.5 * 74)}
"""Bytes of a block, the place of its scale, and the deviation of its weights if the scale is 1 and
codes and factors are uniform."""


def stored_model(config: Gemma3nTextConfig, seed: int, types: Sequence[str]) -> StoredTensors:
    """Matrix after matrix stored in the next of `types`, where its rows are whole blocks of it."""
    tensors = {}
    rng = np.random.default_rng(seed)
    for i, (name, values) in enumerate(random_weights(config, seed).items()):
        dtype = types[i % len(types)]
        if values.ndim == 1 or "altup" in name or values.shape[1] % max(32, block_layout(dtype)[0]):
            dtype = "F32"
        if dtype in _FACTORED:
            stored = random_factored(dtype, values, rng)
        elif dtype in ("Q4_K", "Q5_K"):
            stored = with_minima(dtype, values)
        else:
            data = gguf.quantize(values, gguf.GGMLQuantizationType[dtype])
            stored = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
        tensors[name] = StoredTensor(Path("-"), name, dtype, values.shape, stored)
    return StoredTensors(Path("-"), tensors)


def random_factored(dtype: str, like: Array, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blocks of any codes and factors with values as large as those of `like`."""
    num_bytes, scale_at, deviation = _FACTORED[dtype]
    blocks = rng.integers(0, 256, (like.size // 256, num_bytes), np.uint8)
    blocks[:, scale_at : scale_at + 2] = np.array([like.std() / deviation], "<f2").view(np.uint8)
    return blocks.reshape(-1)


class UnpackedTensors:
    """What a native decoder computes with: the values of its packed matrices, its tables' rows.

    The head is packed and the embedding of the input read from the file, so they may differ.
    """

    def __init__(self, decoder: NativeDecoder, source: TensorSource) -> None:
        self._packed = decoder.weights
        self._source = source

    def names(self) -> Sequence[str]:
        return self._source.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(name)

    def tensor(self, name: str) -> Array:
        packed = self._packed["lm_head.weight" if name == "embed_tokens.weight" else name]
        return packed.unpack() if hasattr(packed, "unpack") else self._source.tensor(name)

    def rows(self, name: str, index: NDArray[np.int64]) -> Array:
        return self._source.rows(name, index)
