"""The C++ core behind the engine loop: packed weights, a paged KV cache, one call a step."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nestling.engine.config import EngineConfig
from nestling.engine.kv.sizes import num_cache_blocks
from nestling.engine.progress import EngineProgress
from nestling.engine.runners.cores import num_usable_cores
from nestling.engine.runners.shape import cache_shape, check_token_ids
from nestling.errors import SettingsError
from nestling.model.batch import ForwardBatch
from nestling.model.kv_cache import KVDtype
from nestling.native.gemma3n import Gemma3n, KvCache
from nestling.native.system import ThreadPool
from nestling.weights.checkpoint import Checkpoint
from nestling.weights.mapped_file import release
from nestling.weights.packed_store import load_weights
from nestling.weights.packing import (
    EMBEDDING_TABLES,
    PackPlan,
    core_config,
    core_layers,
    is_quantized,
)

NATIVE_MAX_ROWS = 512
"""Rows of one step: enough for the weights to be read far less often than they are used."""
KEY_GROUP = 16
"""Positions whose keys lie side by side in the core; blocks hold whole groups."""
_SCORE_BLOCK_SIZE = KEY_GROUP
_RELEASE_ROWS = 256
"""Rows after which the embedding tables' pages are given back. The system maps 64 KiB around each
row that is gathered, so 4,096 different tokens would hold 0.4 GB of files that are cached anyway.
"""


class NativeRunner:
    """The decoder of the C++ core over a cache of two pools of blocks; a `ModelRunner`."""

    def __init__(
        self, checkpoint: Checkpoint, config: EngineConfig, progress: EngineProgress | None = None
    ) -> None:
        if config.block_size % KEY_GROUP != 0:
            raise SettingsError(
                f"block_size: expected a multiple of {KEY_GROUP}, got {config.block_size}",
                param="block_size",
            )
        model = checkpoint.config
        self._lock = threading.Lock()
        """The core computes one batch at a time."""
        progress = progress or EngineProgress()
        pool = ThreadPool(config.num_threads or num_usable_cores())
        pool.count_pieces_in(progress.pieces)
        plan = PackPlan(
            model,
            checkpoint.tensors,
            pool,
            config.dtype,
            sparse_feed_forward="sparse_feed_forward" not in config.switches_off,
            gathered_embeddings="gathered_embeddings" not in config.switches_off,
        )
        folder = Path(config.packed_dir) if config.packed_dir is not None else None
        weights = load_weights(
            plan, checkpoint.path, checkpoint.sources, folder, progress.report_bytes
        )
        self.kv_dtype = _kv_dtype(config, is_quantized(weights))
        shape = cache_shape(config, model, self.kv_dtype, NATIVE_MAX_ROWS)
        self.num_blocks, self.num_sliding_blocks = num_cache_blocks(config, shape)
        self._core = Gemma3n(
            core_config(model),
            core_layers(model),
            weights,
            pool,
            max_num_batched_tokens=shape.max_rows,
            max_model_len=shape.max_model_len,
            prefill_skip="prefill_skip" not in config.switches_off,
            fused_passes="fused_passes" not in config.switches_off,
            wanted_logits_only="wanted_logits_only" not in config.switches_off,
            int16_activations="int16_activations" not in config.switches_off,
        )
        self._tables = [weights[name][1] for name in EMBEDDING_TABLES]
        self._num_gathered = 0
        self._scoring = dict.fromkeys(self._core.times(), 0.0)
        """What `score` has added to the core's counts."""
        self._cache = self._new_cache(config.block_size, self.num_blocks, self.num_sliding_blocks)
        self._logits = np.empty((0, model.num_text_tokens), np.float32)
        """Of every step; fresh memory for 64 rows of 262,144 would be 64 MiB of page faults."""
        self.vocab_size = model.vocab_size
        self.num_text_tokens = model.num_text_tokens
        self.sliding_window = model.sliding_window
        self.max_model_len = shape.max_model_len
        self.block_size = config.block_size
        self.max_rows = shape.max_rows

    @property
    def weight_bytes_per_token(self) -> int:
        """Bytes of weights that one decoded token reads, embedding tables left out."""
        return round(self._core.weight_bytes_per_token())

    @property
    def weight_bytes_read(self) -> int:
        """Bytes of weights that all steps have read, each matrix once a step."""
        return int(self._counts()["weight_bytes"])

    def part_seconds(self) -> dict[str, float]:
        """Seconds of the forward passes by part, since the start."""
        times = self._counts()
        del times["total_s"]  # the loop times the whole
        return {name[:-2]: value for name, value in times.items() if name.endswith("_s")}

    def _counts(self) -> dict[str, float]:
        """Return what the core has counted of the engine's steps."""
        with self._lock:
            counts = self._core.times()
            return {name: value - self._scoring[name] for name, value in counts.items()}

    def execute(self, batch: ForwardBatch) -> NDArray[np.float32]:
        """f32 [num_logit_rows, num_text_tokens]; media ids have no logits that could be chosen.

        The next call overwrites them.
        """
        num_rows = len(batch.logit_rows)
        if num_rows > len(self._logits):
            self._logits = np.empty((num_rows, self.num_text_tokens), np.float32)
        logits = self._logits[:num_rows]
        with self._lock:
            self._step(batch, self._cache, logits)
        return logits

    def score(self, token_ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """f32 [num_tokens, vocab_size]: logits of every position, in a cache of their own.

        Callable from any thread beside `execute`. Raises InvalidRequestError for ids or lengths
        that the model does not take.
        """
        check_token_ids(token_ids, self.vocab_size, self.max_model_len)
        num_tokens = len(token_ids)
        num_blocks = -(-num_tokens // _SCORE_BLOCK_SIZE)
        cache = self._new_cache(_SCORE_BLOCK_SIZE, num_blocks, num_blocks)
        table = np.arange(num_blocks, dtype=np.int32)[None, :]
        logits = np.empty((num_tokens, self.vocab_size), np.float32)
        for begin in range(0, num_tokens, self.max_rows):
            positions = np.arange(begin, min(begin + self.max_rows, num_tokens), dtype=np.int32)
            batch = ForwardBatch(
                input_ids=token_ids[positions],
                positions=positions,
                query_start_loc=np.asarray((0, len(positions)), np.int32),
                block_size=_SCORE_BLOCK_SIZE,
                full_block_table=table,
                sliding_block_table=table,
                logit_rows=np.arange(len(positions), dtype=np.int32),
            )
            with self._lock, self._as_scoring():
                self._step(batch, cache, logits[begin : begin + len(positions)])
        return logits

    @contextmanager
    def _as_scoring(self) -> Iterator[None]:
        """Let what is computed within count as no step of the engine."""
        before = self._core.times()
        try:
            yield
        finally:
            for name, value in self._core.times().items():
                self._scoring[name] += value - before[name]

    def _step(self, batch: ForwardBatch, cache: KvCache, logits: NDArray[np.float32]) -> None:
        self._core.step(
            cache,
            input_ids=batch.input_ids,
            positions=batch.positions,
            query_start_loc=batch.query_start_loc,
            full_block_table=batch.full_block_table,
            sliding_block_table=batch.sliding_block_table,
            logit_rows=batch.logit_rows,
            logits=logits,
        )
        self._num_gathered += len(batch.input_ids)
        if self._num_gathered >= _RELEASE_ROWS:
            self._num_gathered = 0
            for table in self._tables:
                release(table)

    def _new_cache(self, block_size: int, num_full: int, num_sliding: int) -> KvCache:
        return KvCache(
            self._core,
            block_size=block_size,
            num_full_blocks=num_full,
            num_sliding_blocks=num_sliding,
            is_float16=self.kv_dtype == "float16",
        )


def _kv_dtype(config: EngineConfig, has_quantized_weights: bool) -> KVDtype:
    """Half precision where the weights have less than that anyway."""
    if config.kv_dtype != "auto":
        return config.kv_dtype
    return "float16" if has_quantized_weights else "float32"
