"""Runs sequences through a decoder in any schedule and collects the logits of every row."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nestling.model.batch import ForwardBatch
from nestling.model.config import Gemma3nTextConfig
from nestling.model.decoder import Decoder
from nestling.model.kernels import NumpyKernels
from nestling.model.kv_cache import KVCache
from nestling.model.tensors import TensorSource
from tests.model.native_decoder import Native, NativeDecoder
from tests.model.tiny import DictTensors, random_weights

Array = NDArray[np.float32]
OnLayer = Callable[[int, Array], None]


class AnyDecoder(Protocol):
    """The numpy reference or the C++ core."""

    config: Gemma3nTextConfig
    least_block_size: int

    def new_cache(self, num_full_blocks: int, num_sliding_blocks: int, block_size: int) -> Any: ...

    def forward(
        self, batch: ForwardBatch, cache: Any, on_layer: OnLayer | None = None
    ) -> Array: ...


class NumpyDecoder(Decoder):
    """The reference with float32 keys and values."""

    least_block_size = 1

    def new_cache(self, num_full_blocks: int, num_sliding_blocks: int, block_size: int) -> KVCache:
        num_full, num_sliding = num_full_blocks * block_size, num_sliding_blocks * block_size
        return KVCache.allocate(self.config, num_full, num_sliding)


def make_decoder(
    config: Gemma3nTextConfig,
    seed: int = 1,
    native: Native | None = None,
    *,
    weights: dict[str, Array] | None = None,
    source: TensorSource | None = None,
) -> Any:
    """A random model: the numpy reference, or the C++ core if `native` says how."""
    tensors = source or DictTensors(weights or random_weights(config, seed))
    if native is None:
        return NumpyDecoder(config, tensors, NumpyKernels())
    return NativeDecoder(config, tensors, native)


class Session:
    """Sequences with a cache whose blocks are handed out in a shuffled order, if there is a seed.

    Of the sliding pool a batch names no block whose window has passed.
    """

    def __init__(
        self,
        decoder: AnyDecoder,
        sequences: Sequence[Sequence[int]],
        slot_seed: int | None = None,
        *,
        block_size: int | None = None,
    ) -> None:
        self.decoder = decoder
        self.sequences = [np.asarray(s, np.int32) for s in sequences]
        block_size = block_size or decoder.least_block_size
        self.block_size = block_size
        counts = [-(-len(s) // block_size) for s in self.sequences]
        self.full = _tables(counts, slot_seed)
        self.sliding = _tables(counts, None if slot_seed is None else slot_seed + 1000)
        self.cache = decoder.new_cache(sum(counts), sum(counts), block_size)
        self.num_computed = [0] * len(self.sequences)
        self.logits: list[list[Array]] = [[] for _ in self.sequences]

    def batch(self, counts: Sequence[int], *, all_logits: bool = True) -> ForwardBatch:
        """The next `counts[s]` tokens of each sequence s; sequences with none are left out."""
        active = [s for s, count in enumerate(counts) if count]
        spans = [(s, self.num_computed[s], self.num_computed[s] + counts[s]) for s in active]
        starts = np.cumsum([0, *[counts[s] for s in active]])
        num_rows = int(starts[-1])
        full = np.concatenate([self.full[s : s + 1] for s in active])
        sliding = np.concatenate([self.sliding[s : s + 1] for s in active])
        for row, (_, begin, end) in enumerate(spans):
            seen_from = max(begin - (self.decoder.config.sliding_window - 1), 0)
            sliding[row, : seen_from // self.block_size] = -1
            for table in (full, sliding):
                table[row, -(-end // self.block_size) :] = -1
        return ForwardBatch(
            input_ids=np.concatenate([self.sequences[s][b:e] for s, b, e in spans]),
            positions=np.concatenate([np.arange(b, e, dtype=np.int32) for _, b, e in spans]),
            query_start_loc=starts.astype(np.int32),
            block_size=self.block_size,
            full_block_table=full,
            sliding_block_table=sliding,
            logit_rows=np.arange(num_rows if all_logits else 0, dtype=np.int32),
        )

    def step(self, counts: Sequence[int], on_layer: OnLayer | None = None) -> None:
        """One forward pass over the next `counts[s]` tokens of each sequence s."""
        logits = self.decoder.forward(self.batch(counts), self.cache, on_layer)
        row = 0
        for s, count in enumerate(counts):
            self.logits[s].extend(logits[row : row + count])
            self.num_computed[s] += count
            row += count

    def result(self, sequence: int = 0) -> Array:
        """[num_computed, vocab_size] of one sequence."""
        return np.stack(self.logits[sequence])


def _tables(counts: Sequence[int], seed: int | None) -> NDArray[np.int32]:
    """[num_seqs, most blocks]: distinct blocks for each sequence."""
    order = np.arange(sum(counts), dtype=np.int32)
    if seed is not None:
        order = np.random.Generator(np.random.PCG64(seed)).permutation(order)
    tables = np.full((len(counts), max(counts)), -1, np.int32)
    begin = 0
    for row, count in enumerate(counts):
        tables[row, :count] = order[begin : begin + count]
        begin += count
    return tables


def one_shot(decoder: AnyDecoder, ids: Sequence[int], on_layer: OnLayer | None = None) -> Array:
    """[len(ids), vocab_size] from a single forward pass."""
    session = Session(decoder, [ids])
    session.step([len(ids)], on_layer)
    return session.result()
