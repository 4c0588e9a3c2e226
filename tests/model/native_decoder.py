"""The decoder of the C++ core as tests want it: numpy's `forward`, and every switch by name."""

from dataclasses import dataclass

import numpy as np

from nestling.model.batch import ForwardBatch
from nestling.model.config import Gemma3nTextConfig
from nestling.model.kv_cache import KVDtype
from nestling.model.ops import Array
from nestling.model.tensors import TensorSource
from nestling.native.gemma3n import Gemma3n, KvCache, OnLayer
from nestling.native.system import ThreadPool
from nestling.weights.packing import WeightDtype, core_config, core_layers, pack_weights


@dataclass(frozen=True, kw_only=True)
class Native:
    """How to build one."""

    dtype: WeightDtype = "float32"
    kv_dtype: KVDtype = "float32"
    num_threads: int = 1
    variant: str = "best"
    prefill_skip: bool = True
    fused_passes: bool = True
    wanted_logits_only: bool = True
    int16_activations: bool = True
    sparse_feed_forward: bool = True
    max_rows: int = 128


class NativeDecoder:
    """Packed weights and the model over them; a cache comes from `new_cache`."""

    least_block_size = 16

    def __init__(
        self, config: Gemma3nTextConfig, tensors: TensorSource, how: Native | None = None
    ) -> None:
        self.config = config
        self._how = how or Native()
        pool = ThreadPool(self._how.num_threads)
        self.weights = pack_weights(
            config,
            tensors,
            pool,
            self._how.dtype,
            sparse_feed_forward=self._how.sparse_feed_forward,
        )
        self.core = Gemma3n(
            core_config(config),
            core_layers(config),
            self.weights,
            pool,
            max_num_batched_tokens=self._how.max_rows,
            max_model_len=config.max_position_embeddings,
            prefill_skip=self._how.prefill_skip,
            fused_passes=self._how.fused_passes,
            wanted_logits_only=self._how.wanted_logits_only,
            int16_activations=self._how.int16_activations,
            variant=self._how.variant,
        )

    def new_cache(self, num_full_blocks: int, num_sliding_blocks: int, block_size: int) -> KvCache:
        return KvCache(
            self.core,
            block_size=block_size,
            num_full_blocks=num_full_blocks,
            num_sliding_blocks=num_sliding_blocks,
            is_float16=self._how.kv_dtype == "float16",
        )

    def forward(
        self, batch: ForwardBatch, cache: KvCache, on_layer: OnLayer | None = None
    ) -> Array:
        """Logits [num_logit_rows, vocab_size]."""
        logits = np.empty((len(batch.logit_rows), self.config.vocab_size), np.float32)
        self.core.step(
            cache,
            input_ids=batch.input_ids,
            positions=batch.positions,
            query_start_loc=batch.query_start_loc,
            full_block_table=batch.full_block_table,
            sliding_block_table=batch.sliding_block_table,
            logit_rows=batch.logit_rows,
            logits=logits,
            on_layer=on_layer,
        )
        return logits
