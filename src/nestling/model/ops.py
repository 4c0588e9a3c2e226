"""The decoder's small operations: pure, float32, row by row.

A row's result never depends on the other rows, not even in its last bit: every sum runs along the
last axis of one row (`np.vecdot`, `np.add.reduce`), everything else is elementwise.
"""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

_GELU_SCALE = math.sqrt(2 / math.pi)
_GELU_CUBIC = 0.044715
_MAX_BLAS_WIDTH = 8192


def mean_square(x: Array) -> Array:
    """[..., n] -> [..., 1], mean of the squares."""
    # vecdot is BLAS, row by row; BLAS may split a long row among threads, whose number must not
    # matter. OpenBLAS does so from 10,000 elements.
    if x.shape[-1] <= _MAX_BLAS_WIDTH:
        squares: Array = np.vecdot(x, x)[..., None]
    else:
        squares = np.add.reduce(x * x, axis=-1, keepdims=True)
    squares *= 1 / x.shape[-1]
    return squares


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """[..., n] -> [..., n], x / sqrt(mean(x^2) + eps) * weight; `weight` is [n] or broadcasts."""
    scale = mean_square(x)
    scale += eps
    np.sqrt(scale, out=scale)
    out: Array = x / scale
    out *= weight
    return out


def match_magnitude(x: Array, magnitude: Array) -> Array:
    """[..., n] -> [..., n], x scaled to root mean square `magnitude` [..., 1], in place."""
    own = np.sqrt(np.maximum(mean_square(x), 1e-5))  # the floor is HF's
    x *= magnitude
    x /= own
    return x


def gelu_tanh(x: Array) -> Array:
    """[...] -> [...], the tanh form of GELU."""
    inner: Array = x * x
    inner *= _GELU_SCALE * _GELU_CUBIC
    inner += _GELU_SCALE
    inner *= x
    np.tanh(inner, out=inner)
    inner += 1
    inner *= x
    inner *= 0.5
    return inner


def gaussian_topk(x: Array, std_multiplier: float) -> Array:
    """[..., n] -> [..., n], max(x - cutoff, 0), cutoff = mean + std_multiplier * std of the row.

    If the row is Gaussian this keeps the fraction that the multiplier stands for. Survivors are
    shifted, not masked; the standard deviation divides by n (HF; llama.cpp divides by n - 1).
    """
    mean = np.add.reduce(x, axis=-1, keepdims=True)
    mean *= 1 / x.shape[-1]
    out: Array = x - mean
    cutoff = np.sqrt(mean_square(out))
    cutoff *= std_multiplier
    out -= cutoff
    return np.maximum(out, 0, out=out)


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """[num_rows, num_heads, head_dim] rotated by RoPE; the first half pairs with the second.

    `cos` [num_rows, 1, 1, head_dim / 2] and `sin` [num_rows, 1, 2, head_dim / 2] come from
    `RopeTable`; `sin` has its sign, minus for the first half.
    """
    num_rows, num_heads, head_dim = x.shape
    halves = x.reshape(num_rows, num_heads, 2, head_dim // 2)
    out = halves * cos
    out += halves[:, :, ::-1] * sin
    return out.reshape(x.shape)


class RopeTable:
    """Cosines and sines of all positions asked for so far; grows by whole blocks.

    Angles are rounded to float32 as HF's are, then taken in float64: a position's values are the
    same bits whichever positions were asked with it.
    """

    _BLOCK = 512

    def __init__(self, base: float, head_dim: int, scaling_factor: float = 1.0) -> None:
        exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        wavelengths = np.power(base, exponents.astype(np.float64)).astype(np.float32)
        self._inv_freq = np.float32(1) / wavelengths / np.float32(scaling_factor)
        self._cos: Array = np.zeros((0, 1, 1, head_dim // 2), np.float32)
        self._sin: Array = np.zeros((0, 1, 2, head_dim // 2), np.float32)

    def rows(self, positions: NDArray[np.int32]) -> tuple[Array, Array]:
        """[num_rows] -> cos [num_rows, 1, 1, half] and signed sin [num_rows, 1, 2, half]."""
        if len(positions):
            while int(positions.max()) >= len(self._cos):
                self._grow()
        return self._cos[positions], self._sin[positions]

    def _grow(self) -> None:
        begin = len(self._cos)
        positions = np.arange(begin, begin + self._BLOCK, dtype=np.float32)
        angles = (positions[:, None] * self._inv_freq).astype(np.float64)[:, None, None, :]
        sin = np.sin(angles)
        signed = np.concatenate((-sin, sin), axis=2)
        self._cos = np.concatenate((self._cos, np.cos(angles).astype(np.float32)))
        self._sin = np.concatenate((self._sin, signed.astype(np.float32)))
