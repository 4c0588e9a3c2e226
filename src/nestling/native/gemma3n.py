"""One step of the decoder and its KV cache in the C++ core: typed functions over the extension."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from nestling.native import _core
from nestling.native.system import ThreadPool

Int32 = NDArray[np.int32]
FIRST_INT8_POW2_LAYER: int = _core.FIRST_INT8_POW2_LAYER
"""From this layer on, all activations are int8 with scales that are powers of two (ADR 0007)."""
OnLayer = Callable[[int, NDArray[np.float32]], None]
"""Called after each layer with its index and the AltUp inputs [num_tokens, num_inputs, hidden]."""


class LayerShape(TypedDict):
    """Tells what the core must know of a layer beside its weights."""

    intermediate_size: int
    is_sliding: bool
    kv_source_layer: int
    std_multiplier: float | None


class Gemma3n:
    """The decoder; computes one batch at a time.

    `weights` are by checkpoint name: packed matrices, float32 vectors, and the two embedding tables
    as (dtype, bytes, rows, row_size) in a mapped file. Raises ValueError naming what does not fit.
    """

    def __init__(
        self,
        config: Mapping[str, float],
        layers: Sequence[LayerShape],
        weights: Mapping[str, Any],
        pool: ThreadPool,
        *,
        max_num_batched_tokens: int,
        max_model_len: int,
        prefill_skip: bool = True,
        fused_passes: bool = True,
        wanted_logits_only: bool = True,
        int16_activations: bool = True,
        variant: str = "best",
    ) -> None:
        self.core = _core.Gemma3n(
            dict(config),
            list(layers),
            dict(weights),
            max_num_batched_tokens=max_num_batched_tokens,
            max_model_len=max_model_len,
            prefill_skip=prefill_skip,
            fused_passes=fused_passes,
            wanted_logits_only=wanted_logits_only,
            int16_activations=int16_activations,
            pool=pool,
            variant=variant,
        )

    def step(
        self,
        cache: "KvCache",
        *,
        input_ids: Int32,
        positions: Int32,
        query_start_loc: Int32,
        full_block_table: Int32,
        sliding_block_table: Int32,
        logit_rows: Int32,
        logits: NDArray[np.float32],
        on_layer: OnLayer | None = None,
    ) -> None:
        """Fill `logits` [num_logit_rows, ids that get one]; others as in `model/batch.py`.

        Changes only the cache slots that the batch names. Raises ValueError naming a bad field.
        """
        self.core.step(
            cache.core,
            input_ids,
            positions,
            query_start_loc,
            full_block_table,
            sliding_block_table,
            logit_rows,
            logits,
            on_layer,
        )

    def times(self) -> dict[str, float]:
        """Return seconds by part (`*_s`) and counts since the model was made."""
        return self.core.times()

    def weight_bytes_per_token(self) -> float:
        """Return the bytes of weights that one decoded token reads, without embedding tables."""
        return self.core.weight_bytes_per_token()


class KvCache:
    """Keys and values of all layers, in a pool of blocks for full and one for sliding layers."""

    def __init__(
        self,
        model: Gemma3n,
        *,
        block_size: int,
        num_full_blocks: int,
        num_sliding_blocks: int,
        is_float16: bool,
    ) -> None:
        self.core = _core.KvCache(
            model.core,
            block_size=block_size,
            num_full_blocks=num_full_blocks,
            num_sliding_blocks=num_sliding_blocks,
            is_float16=is_float16,
        )
