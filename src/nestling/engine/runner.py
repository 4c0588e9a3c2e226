"""The model behind the loop: a small protocol, and the numpy reference behind it.

A runner computes; which tokens, positions and blocks is said by the batch alone.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nestling.engine.cache_size import num_cache_blocks
from nestling.engine.config import EngineConfig
from nestling.engine.native_runner import NativeRunner
from nestling.engine.shape import cache_shape, check_token_ids
from nestling.model.batch import ForwardBatch
from nestling.model.decoder import Decoder
from nestling.model.kernels import NumpyKernels
from nestling.model.kv_cache import KVCache, KVDtype
from nestling.weights.checkpoint import Checkpoint, load_checkpoint

Logits = NDArray[np.float32]
REFERENCE_MAX_ROWS = 64
"""Rows of one step of the numpy reference: it is slow, and streams wait for it."""


class ModelRunner(Protocol):
    """What the engine loop needs of a model. All calls come from the loop's thread."""

    @property
    def vocab_size(self) -> int:
        """Ids that may be input, and the width of the logits."""
        ...

    @property
    def num_text_tokens(self) -> int:
        """Ids below this may be sampled."""
        ...

    @property
    def max_model_len(self) -> int:
        """Positions of one sequence."""
        ...

    @property
    def num_blocks(self) -> int:
        """Blocks of the full layers' KV cache."""
        ...

    @property
    def num_sliding_blocks(self) -> int:
        """Blocks of the sliding layers' KV cache."""
        ...

    @property
    def block_size(self) -> int:
        """Tokens in a block of either."""
        ...

    @property
    def sliding_window(self) -> int:
        """Tokens that a sliding layer sees, the token itself included."""
        ...

    @property
    def max_rows(self) -> int:
        """Rows that one step may have."""
        ...

    @property
    def weight_bytes_per_token(self) -> int:
        """Bytes of weights that one decoded token reads."""
        ...

    @property
    def weight_bytes_read(self) -> int:
        """Bytes of weights that all steps have read, each matrix once a step; 0: not counted."""
        ...

    def part_seconds(self) -> dict[str, float]:
        """Seconds of the forward passes by part, since the start; empty if not measured."""
        ...

    def execute(self, batch: ForwardBatch) -> Logits:
        """f32 [num_logit_rows, num_text_tokens or more]; changes only the batch's cache slots.

        They may be overwritten by the next call.
        """
        ...

    def score(self, token_ids: NDArray[np.int32]) -> Logits:
        """f32 [num_tokens, vocab_size]: logits of every position, in a cache of their own.

        Callable from any thread beside `execute`. Raises InvalidRequestError for ids or lengths
        that the model does not take.
        """
        ...


LoadRunner = Callable[[EngineConfig], ModelRunner]
"""Builds the runner of an engine; raises `ModelFileError`."""


class ReferenceRunner:
    """Gemma 3n's numpy decoder over a KV cache of two pools of blocks."""

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig) -> None:
        model = checkpoint.config
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
            return self._decoder.forward(batch, self._cache)

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


def load_runner(config: EngineConfig) -> ModelRunner:
    """Load the checkpoint and pack its weights; raises `ModelFileError`, `SettingsError`."""
    return make_runner(load_checkpoint(Path(config.model)), config)


def make_runner(checkpoint: Checkpoint, config: EngineConfig) -> ModelRunner:
    """The runner of an opened checkpoint; raises as `load_runner`."""
    if config.engine == "reference":
        return ReferenceRunner(checkpoint, config)
    return NativeRunner(checkpoint, config)
