"""A checkpoint, folder or GGUF, as one GGUF file with 4-bit or 8-bit matrices.

Tensors pass through one at a time, a few MiB at once. Which stay unquantised is llama.cpp's rule:
vectors and AltUp's coefficients are F32; AltUp's and LAuReL's matrices and
per_layer_model_projection F16. The embedding is Q8_0 in either case, so is a head of its own.
Names, stacks, padded rows and the shared layers' unused keys and values are as llama.cpp wants.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nestling.errors import ModelFileError
from nestling.model.names import EMBEDDING, HEAD, PER_LAYER_EMBEDDING, required_tensors
from nestling.native.system import ThreadPool
from nestling.native.weights import encode_rows
from nestling.weights.checkpoint import Checkpoint
from nestling.weights.gguf_file import read_gguf
from nestling.weights.gguf_metadata import gguf_metadata
from nestling.weights.gguf_names import gguf_name, stacks
from nestling.weights.gguf_writer import OutputTensor, write_gguf
from nestling.weights.json_file import read_object
from nestling.weights.mapped_file import read_small_file
from nestling.weights.packing import stored
from nestling.weights.progress import Progress, no_progress
from nestling.weights.stored_types import stored_type

TYPES = ("Q4_0", "Q8_0")
_COMPARED_BYTES = 16 << 20
_CHUNK_ELEMENTS = 1 << 21  # 8 MiB of float32
_MAX_TEMPLATE_BYTES = 1 << 20
_SINGLE = ("_coefs.weight",)
_HALF = ("altup", "laurel", "per_layer_model_projection")

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class QuantizeReport:
    """Tells what was written."""

    path: Path
    num_bytes: int
    num_tensors: dict[str, int]
    """By type."""


def quantize_checkpoint(
    checkpoint: Checkpoint,
    out: Path,
    dtype: str,
    pool: ThreadPool,
    progress: Progress = no_progress,
) -> QuantizeReport:
    """Write `checkpoint` to `out`, its large matrices as `dtype` of `TYPES`.

    Calls `progress` after each few MiB. `out` appears whole or not at all. Raises ModelFileError
    for weights that are not finite or too large for their type, for what GGUF cannot say, and if
    `out` cannot be written.
    """
    assert dtype in TYPES, dtype
    metadata = gguf_metadata(checkpoint.config, checkpoint.vocabulary, dtype, checkpoint.path)
    if template := _chat_template(checkpoint.path):
        metadata["tokenizer.chat_template"] = template
    tensors = _Plan(checkpoint, dtype, pool).tensors()
    num_bytes = write_gguf(out, metadata, tensors, progress)
    return QuantizeReport(out, num_bytes, dict(Counter(tensor.dtype for tensor in tensors)))


def _chat_template(source: Path) -> str | None:
    """The source's template, carried over for other programs: Nestling formats chats itself."""
    template: object = None
    if source.is_file():
        template = read_gguf(source).metadata.get("tokenizer.chat_template")
    elif (source / "chat_template.jinja").is_file():
        template = read_small_file(source / "chat_template.jinja", _MAX_TEMPLATE_BYTES).decode()
    elif (source / "tokenizer_config.json").is_file():
        template = read_object(source / "tokenizer_config.json").get("chat_template")
    return template if isinstance(template, str) else None


@dataclass(frozen=True)
class _Plan:
    checkpoint: Checkpoint
    dtype: str
    pool: ThreadPool

    def tensors(self) -> list[OutputTensor]:
        """Everything the file holds, in its order."""
        source = self.checkpoint.tensors
        tensors = []
        stacked: set[str] = set()
        for stack, pattern in stacks().items():
            count = self.checkpoint.config.altup_num_inputs - 1
            names = [pattern.format(i) for i in range(count)]
            stacked |= set(names)
            if names:
                shape = (count, *source.shape(names[0]))
                tensors.append(self._output(stack, names[0], shape, names))
        for name in source.names():
            if name in stacked or (name == HEAD and self._is_head_a_copy()):
                continue
            shape = source.shape(name)
            if name == PER_LAYER_EMBEDDING:
                shape = (max(shape[0], self.checkpoint.config.vocab_size), shape[1])
            stem = gguf_name(name)
            tensors.append(self._output(stem, name, shape, [name]))
        return [*tensors, *self._unused_keys_and_values()]

    def _is_head_a_copy(self) -> bool:
        """Whether the stored head is the embedding, byte by byte: then it need not be written."""
        source = self.checkpoint.tensors
        (dtype, head, _), (other, embedding, _) = (stored(source, n) for n in (HEAD, EMBEDDING))
        starts = range(0, head.size, _COMPARED_BYTES)
        return (dtype, head.size) == (other, embedding.size) and all(
            np.array_equal(head[i : i + _COMPARED_BYTES], embedding[i : i + _COMPARED_BYTES])
            for i in starts
        )

    def _output(
        self, written: str, name: str, shape: tuple[int, ...], parts: list[str]
    ) -> OutputTensor:
        dtype = self._dtype_of(name, shape)

        def chunks() -> Iterator[NDArray[np.uint8]]:
            num_rows = 0
            for part in parts:
                for values in self._rows_of(part):
                    yield self._encoded(part, values, dtype)
                    num_rows += len(values)
            missing = int(np.prod(shape[:-1], dtype=np.int64)) - num_rows
            if missing > 0:
                yield from _zeros(dtype, (missing, shape[-1]))()

        return OutputTensor(written, dtype, shape, chunks)

    def _dtype_of(self, name: str, shape: tuple[int, ...]) -> str:
        if len(shape) == 1 or name.endswith(_SINGLE):
            return "F32"
        if any(part in name for part in _HALF):
            return "F16"
        dtype = "Q8_0" if name in (EMBEDDING, HEAD) else self.dtype
        return dtype if shape[-1] % stored_type(dtype).block_elements == 0 else "F16"

    def _rows_of(self, name: str) -> Iterator[Floats]:
        source = self.checkpoint.tensors
        shape = source.shape(name)
        if len(shape) == 1:
            yield source.tensor(name).reshape(1, -1)
            return
        step = max(_CHUNK_ELEMENTS // shape[1], 1)
        for begin in range(0, shape[0], step):
            yield source.rows(name, np.arange(begin, min(begin + step, shape[0])))

    def _encoded(self, name: str, values: Floats, dtype: str) -> NDArray[np.uint8]:
        largest = float(np.abs(values).max())
        most = {"F32": np.inf, "F16": 65504.0, "Q8_0": 65504.0 * 127, "Q4_0": 65504.0 * 8}[dtype]
        if not largest < np.inf or largest > most:
            raise ModelFileError(
                self.checkpoint.path,
                f"holds a weight of size {largest}, expected finite ones that fit {dtype}",
                tensor=name,
            )
        return encode_rows(np.ascontiguousarray(values), dtype, self.pool)

    def _unused_keys_and_values(self) -> list[OutputTensor]:
        """Zeros where llama.cpp wants tensors that no layer reads."""
        config = self.checkpoint.config
        shapes = required_tensors(config)
        tensors = []
        for i in range(config.first_kv_shared_layer, config.num_hidden_layers):
            for stem in ("k_proj", "v_proj", "k_norm"):
                shape = shapes[f"layers.0.self_attn.{stem}.weight"]
                name = f"layers.{i}.self_attn.{stem}.weight"
                dtype = self._dtype_of(name, shape)
                tensors.append(OutputTensor(gguf_name(name), dtype, shape, _zeros(dtype, shape)))
        return tensors


def _zeros(dtype: str, shape: tuple[int, ...]) -> Callable[[], Iterator[NDArray[np.uint8]]]:
    """Return the chunks of a tensor of zeros, which are zero bytes in each type."""
    num_bytes = OutputTensor("", dtype, shape, tuple).num_bytes

    def chunks() -> Iterator[NDArray[np.uint8]]:
        yield np.zeros(num_bytes, np.uint8)

    return chunks
