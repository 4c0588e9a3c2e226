"""A checkpoint's tensors in the C++ core's arrangements, as its decoder takes them.

Matrices are packed from the mapped file without a float copy; the embedding tables stay mapped.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nestling.model.config import Gemma3nTextConfig
from nestling.model.names import EMBEDDING, HEAD, PER_LAYER_EMBEDDING, required_tensors
from nestling.model.tensors import TensorSource
from nestling.native.gemma3n import FIRST_INT8_POW2_LAYER, LayerShape
from nestling.native.system import ThreadPool
from nestling.native.weights import ColumnMatrix, Matrix, RowMatrix
from nestling.weights.mapped_file import release
from nestling.weights.stored_tensor import StoredTensors

WeightDtype = Literal["auto", "float32", "float16", "bfloat16", "q8", "q4"]
PackedFormat = Literal["float32", "float16", "bfloat16", "q8", "q4"]

EMBEDDING_TABLES = (EMBEDDING, PER_LAYER_EMBEDDING)
_GATE, _GATE_ROWS = "mlp.gate_proj.weight", "mlp.gate_rows.weight"
# Tiled in six bits; as rows or columns they would have to be quantised anew.
_SIX_BITS = ("Q3_K", "Q6_K")
# Small beside the rest and sensitive: what llama.cpp leaves unquantised stays so here too.
_NEVER_QUANTIZED = ("altup", "laurel", "per_layer_model_projection")
# In float32 whatever the rest is: a few numbers that steer all AltUp inputs.
_VECTORS = (
    "altup.modality_router.weight",
    "altup.prediction_coefs.weight",
    "altup.correction_coefs.weight",
)

Packed = Matrix | RowMatrix | ColumnMatrix
Stored = tuple[str, NDArray[np.uint8], tuple[int, ...]]
"""GGML's type name, the bytes, the shape."""


def stored(tensors: TensorSource, name: str) -> Stored:
    """The tensor as it lies in its file; of another source its float32 values."""
    if isinstance(tensors, StoredTensors):
        found = tensors.stored(name)
        return found.dtype, found.data, found.shape
    values = np.ascontiguousarray(tensors.tensor(name), np.float32)
    return "F32", values.reshape(-1).view(np.uint8), values.shape


@dataclass(frozen=True)
class PackPlan:
    """Tells what is packed, and how. Matrices are those of `model.names.required_tensors`.

    `dtype` "auto" keeps what the file has, and takes bfloat16 for float32 where that loses nothing;
    "q8" and "q4" quantise the large matrices. The sparse layers' up and down projections are packed
    by neuron (Q3_K and Q6_K then as float16) unless `sparse_feed_forward` is off, and so are
    quantised gates of the first layers, once more, for the neurons near the cutoff. The embedding
    tables stay in their file, of which each token reads its rows, unless `gathered_embeddings` is
    off: then they are copied to memory.
    """

    config: Gemma3nTextConfig
    tensors: TensorSource
    pool: ThreadPool
    dtype: WeightDtype = "auto"
    sparse_feed_forward: bool = True
    gathered_embeddings: bool = True

    def matrices(self) -> dict[str, tuple[type[Packed], tuple[int, int]]]:
        """Return the arrangement and the shape [out, in] of every packed matrix by its name."""
        sparse = set(_sparse_names(self.config)) if self.sparse_feed_forward else set()
        refined = dict(_gate_names(self.config)) if self.sparse_feed_forward else {}
        # A tied head is packed under the embedding's name.
        tables = {PER_LAYER_EMBEDDING} if self.config.tie_word_embeddings else EMBEDDING_TABLES
        found: dict[str, tuple[type[Packed], tuple[int, int]]] = {}
        for name, shape in required_tensors(self.config).items():
            if len(shape) != 2 or name in tables or name.endswith(_VECTORS):
                continue
            kind: type[Packed] = Matrix
            if name in sparse:
                kind = RowMatrix if "up_proj" in name else ColumnMatrix
            found[name] = (kind, shape)
            if name in refined and self._is_refinable(name):
                found[refined[name]] = (RowMatrix, shape)
        return found

    def _stored(self, name: str) -> Stored:
        return stored(self.tensors, name.replace(_GATE_ROWS, _GATE))

    def _is_refinable(self, name: str) -> bool:
        if self.dtype != "auto":
            return self.dtype in ("q8", "q4")
        # Rows of Q3_K and Q6_K would be quantised anew, to other values than the gate's.
        return self._stored(name)[0] not in ("F32", "F16", "BF16", *_SIX_BITS)

    def packed_bytes(self) -> int:
        """About how many bytes the packed matrices take, rather too many."""
        total = 0.0
        for name, (kind, shape) in self.matrices().items():
            dtype_in_file, _, _ = self._stored(name)
            total += shape[0] * shape[1] * _packed_bits(kind, dtype_in_file, self.dtype) / 8
        return int(total)

    def pack(self) -> Iterator[tuple[str, Packed]]:
        """Packs one matrix after another; only what the caller keeps stays in memory."""
        for name, (kind, shape) in self.matrices().items():
            dtype_in_file, data, _ = self._stored(name)
            packed_format = _format(name, kind, dtype_in_file, data, self.dtype)
            yield name, kind.pack(data, dtype_in_file, shape[1], self.pool, packed_format)
            release(data)

    def assemble(self, matrices: Mapping[str, Packed]) -> dict[str, Any]:
        """Everything that `native.gemma3n.Gemma3n` wants, by checkpoint name."""
        weights: dict[str, Any] = dict(matrices)
        if self.config.tie_word_embeddings:
            weights[HEAD] = weights.pop(EMBEDDING)
        for name, shape in required_tensors(self.config).items():
            if name in EMBEDDING_TABLES:
                dtype_in_file, data, _ = stored(self.tensors, name)
                if not self.gathered_embeddings:
                    data = data.copy()
                weights[name] = (dtype_in_file, data, *shape)
            elif name not in matrices:
                values = np.array(self.tensors.tensor(name), np.float32).reshape(-1)
                weights[name] = values
        for i in range(self.config.num_hidden_layers):  # absent where the model has no such scale
            scale = f"layers.{i}.altup.correct_output_scale"
            weights.setdefault(scale, np.ones(self.config.hidden_size, np.float32))
        return weights


def pack_weights(
    config: Gemma3nTextConfig,
    tensors: TensorSource,
    pool: ThreadPool,
    dtype: WeightDtype = "auto",
    *,
    sparse_feed_forward: bool = True,
) -> dict[str, Any]:
    """The weights of `native.gemma3n.Gemma3n`, packed in memory."""
    plan = PackPlan(config, tensors, pool, dtype, sparse_feed_forward)
    return plan.assemble(dict(plan.pack()))


def is_quantized(weights: Mapping[str, Any]) -> bool:
    """Whether a matrix among the packed weights has groups with scales."""
    matrices = (w for w in weights.values() if isinstance(w, Matrix))
    return any(matrix.format in ("q4", "q6", "q8") for matrix in matrices)


def core_config(config: Gemma3nTextConfig) -> dict[str, float]:
    """The sizes and constants, by the core's names."""
    names = (
        "vocab_size", "vocab_size_per_layer_input", "hidden_size", "hidden_size_per_layer_input",
        "num_attention_heads", "num_key_value_heads", "head_dim", "sliding_window", "laurel_rank",
        "altup_num_inputs", "altup_active_idx", "rope_theta", "rope_local_base_freq",
        "rope_scaling_factor", "rope_local_scaling_factor", "rms_norm_eps",
    )  # fmt: skip
    values: dict[str, float] = {name: getattr(config, name) for name in names}
    values["final_logit_softcapping"] = config.final_logit_softcapping or 0.0
    return values


def core_layers(config: Gemma3nTextConfig) -> list[LayerShape]:
    """Return what the core must know of each layer."""
    return [
        LayerShape(
            intermediate_size=config.intermediate_size[i],
            is_sliding=config.is_sliding(i),
            kv_source_layer=config.kv_source_layer(i),
            std_multiplier=config.activation_std_multiplier(i),
        )
        for i in range(config.num_hidden_layers)
    ]


def _sparse_names(config: Gemma3nTextConfig) -> Iterator[str]:
    for i in range(config.num_hidden_layers):
        if config.activation_std_multiplier(i) is not None:
            yield f"layers.{i}.mlp.up_proj.weight"
            yield f"layers.{i}.mlp.down_proj.weight"


def _gate_names(config: Gemma3nTextConfig) -> Iterator[tuple[str, str]]:
    """The gates that are packed twice, and the names of the second."""
    for i in range(min(FIRST_INT8_POW2_LAYER, config.num_hidden_layers)):
        if config.activation_std_multiplier(i) is not None:
            yield f"layers.{i}.{_GATE}", f"layers.{i}.{_GATE_ROWS}"


def _packed_bits(kind: type[Packed], dtype_in_file: str, dtype: WeightDtype) -> float:
    """Bits of an element, scale and minimum included, at most."""
    if dtype != "auto":
        return {"float32": 32, "float16": 16, "bfloat16": 16, "q8": 9, "q4": 5}[dtype]
    if dtype_in_file in _SIX_BITS:
        return 6.5625 if kind is Matrix else 16
    four_bits = {"Q4_0": 4.5, "Q4_1": 5, "Q4_K": 5}
    return {"F32": 32, "F16": 16, "BF16": 16, **four_bits}.get(dtype_in_file, 9)


def _format(
    name: str, kind: type[Packed], dtype_in_file: str, data: NDArray[np.uint8], dtype: WeightDtype
) -> PackedFormat | None:
    """The core's name of the format to pack into; None keeps the stored values."""
    if dtype in ("q8", "q4") and not any(part in name for part in _NEVER_QUANTIZED):
        return dtype
    if dtype in ("float32", "float16", "bfloat16"):
        return dtype
    if dtype_in_file == "F32" and not np.any(data.view("<u4") & 0xFFFF):
        return "bfloat16"
    if dtype_in_file in _SIX_BITS and kind is not Matrix:
        return "float16"  # few are read; 8 bits would move the answer as far as all activations do
    return None
