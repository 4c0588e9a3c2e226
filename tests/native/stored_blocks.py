"""Random bytes of every stored type, and what the `gguf` library decodes from them."""

import gguf
import numpy as np
from numpy.typing import NDArray

PLAIN = ("F32", "F16", "BF16")
BLOCKS_OF_32 = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL")
BLOCKS_OF_256 = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS")
TYPES = (*PLAIN, *BLOCKS_OF_32, *BLOCKS_OF_256)

_HALVES_AT = {
    "Q4_1": (0, 2), "Q5_1": (0, 2), "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2),
    "Q5_K": (0, 2), "Q6_K": (208,),
}  # fmt: skip


def block_layout(dtype: str) -> tuple[int, int]:
    """(elements, bytes) of one block."""
    elements, num_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[dtype]]
    return int(elements), int(num_bytes)


def random_bytes(
    dtype: str, num_rows: int, row_size: int, seed: int, halves: NDArray[np.float16] | None = None
) -> NDArray[np.uint8]:
    """[num_bytes]: every bit random, but f16 scales and minima drawn from `halves`."""
    rng = np.random.default_rng(seed)
    if halves is None:
        halves = rng.uniform(-2, 2, 64).astype("<f2")
    if dtype in PLAIN:
        values = rng.standard_normal((num_rows, row_size), dtype=np.float32)
        ggml_type = gguf.GGMLQuantizationType[dtype]
        return gguf.quantize(values, ggml_type).view(np.uint8).reshape(-1)
    elements, block_bytes = block_layout(dtype)
    assert row_size % elements == 0
    num_blocks = num_rows * row_size // elements
    blocks = rng.integers(0, 256, (num_blocks, block_bytes), dtype=np.uint8)
    for at in _HALVES_AT.get(dtype, (0,)):
        blocks[:, at : at + 2] = rng.choice(halves, num_blocks).view(np.uint8).reshape(-1, 2)
    return blocks.reshape(-1)


def with_minima(dtype: str, values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Q4_K or Q5_K, which the library decodes only: from the least to the largest of each group."""
    largest_code = {"Q4_K": 15, "Q5_K": 31}[dtype]
    groups = values.reshape(-1, 8, 32)
    below = np.maximum(-groups.min(2), 0)
    steps = (groups.max(2) + below) / largest_code
    units = [(part.max(1, keepdims=True) / 63).astype("<f2") for part in (steps, below)]
    factors, offsets = (
        np.rint(part / unit).astype(np.uint8)
        for part, unit in zip((steps, below), units, strict=True)
    )
    step, least = units[0] * np.float32(factors), units[1] * np.float32(offsets)
    codes = np.rint((groups + least[..., None]) / np.maximum(step, 1e-9)[..., None])
    codes = codes.clip(0, largest_code).astype(np.uint8)
    planes = [unit.view(np.uint8) for unit in units]
    planes += [half[:, :4] & 63 | half[:, 4:] >> 4 << 6 for half in (factors, offsets)]
    planes.append(factors[:, 4:] & 15 | (offsets[:, 4:] & 15) << 4)
    if dtype == "Q5_K":
        planes.append(np.packbits(codes >> 4, axis=1, bitorder="little")[:, 0])
    planes.append((codes[:, ::2] & 15 | (codes[:, 1::2] & 15) << 4).reshape(-1, 128))
    return np.concatenate(planes, axis=1).reshape(-1)


def library_values(data: NDArray[np.uint8], dtype: str, row_size: int) -> NDArray[np.float32]:
    """[num_rows, row_size] as the library decodes them."""
    elements, block_bytes = block_layout(dtype)
    rows = data.reshape(-1, row_size // elements * block_bytes)
    with np.errstate(invalid="ignore", over="ignore"):
        values: NDArray[np.float32] = gguf.dequantize(rows, gguf.GGMLQuantizationType[dtype])
    return values
