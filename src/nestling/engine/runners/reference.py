"""The numpy reference behind the engine loop: slow, and what the C++ core is compared with."""

import threading

import numpy as np
from numpy.typing import NDArray

from nestling.engine.config import EngineConfig
from nestling.engine.kv.sizes import num_cache_blocks
from nestling.engine.progress import EngineProgress
from nestling.engine.runners.runner import Logits
from nestling.engine.runners.shape import cache_shape, check_token_ids
from nestling.model.batch import ForwardBatch
from nestling.model.decoder import Decoder
from nestling.model.kernels import NumpyKernels
from nestling.model.kv_cache import KVCache, KVDtype
from nestling.weights.checkpoint import Checkpoint

REFERENCE_MAX_ROWS = 64
"""Tokens of one step of the numpy reference: it is slow, and decode requests wait for it."""


class ReferenceRunner:
    """Gemma 3n's numpy decoder over a KV cache of two pools of blocks."""

    def __init__(
        self, checkpoint: Checkpoint, config: EngineConfig, progress: EngineProgress | None = None
    ) -> None:
        model = checkpoint.config
        self._progress = progress or EngineProgress()
        self._lock = threading.Lock()
        """The decoder computes one batch at a time."""
        self._kv_dtype: KVDtype = "float32" if config.kv_dtype == "auto" else config.kv_dtype
        shape = cache_shape(config, model, self._kv_dtype, REFERENCE_MAX_ROWS)
        self.num_blocks, self.num_sliding_blocks = num_cache_blocks(config, shape)
        self._decoder = Decoder(model, checkpoint.tensors, NumpyKernels())
        size = config.block_size
        self._cache = KVCache.allocate(
            model, self.num_blocks * size, self.num_sliding_blocks * size, self._kv_dtype
        )
        self.vocab_size = model.vocab_size
        self.num_text_tokens = model.num_text_tokens
        self.sliding_window = model.sliding_window
        self.max_model_len = shape.max_model_len
        self.block_size = size
        self.max_rows = shape.max_rows
        self.weight_bytes_per_token = self._decoder.weight_bytes_per_token
        self.weight_bytes_read = 0

    def part_seconds(self) -> dict[str, float]:
        """See `ModelRunner.part_seconds`."""
        return {}

    def execute(self, batch: ForwardBatch) -> Logits:
        """See `ModelRunner.execute`."""
        with self._lock:
            return self._decoder.forward(batch, self._cache, lambda *_: self._progress.move())

    def score(self, token_ids: NDArray[np.int32]) -> Logits:
        """See `ModelRunner.score`."""
        check_token_ids(token_ids, self.vocab_size, self.max_model_len)
        num_tokens = len(token_ids)
        rows = np.arange(num_tokens, dtype=np.int32)
        only_block = np.zeros((1, 1), np.int32)
        batch = ForwardBatch(
            input_ids=token_ids,
            positions=rows,
            query_start_loc=np.asarray((0, num_tokens), np.int32),
            block_size=num_tokens,
            full_block_table=only_block,
            sliding_block_table=only_block,
            logit_rows=rows,
        )
        cache = KVCache.allocate(self._decoder.config, num_tokens, num_tokens, self._kv_dtype)
        with self._lock:
            return self._decoder.forward(batch, cache)
