"""Runs sequences through a decoder in any schedule and collects the logits of every row."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nestling.model.batch import ForwardBatch
from nestling.model.config import Gemma3nTextConfig
from nestling.model.decoder import Decoder, OnLayer
from nestling.model.kernels import Kernels, NativeKernels
from nestling.model.kv_cache import KVCache
from nestling.model.tensors import TensorSource
from tests.model.tiny import DictTensors, random_weights

Array = NDArray[np.float32]


def make_decoder(
    config: Gemma3nTextConfig,
    seed: int = 1,
    kernels: Kernels | None = None,
    *,
    weights: dict[str, Array] | None = None,
    source: TensorSource | None = None,
) -> Decoder:
    """A random model; on the C++ core with one thread unless told otherwise."""
    tensors = source or DictTensors(weights or random_weights(config, seed))
    return Decoder(config, tensors, kernels or NativeKernels(1))


class Session:
    """Sequences with a cache whose slots are handed out in a shuffled order."""

    def __init__(
        self, decoder: Decoder, sequences: Sequence[Sequence[int]], slot_seed: int | None = None
    ) -> None:
        self.decoder = decoder
        self.sequences = [np.asarray(s, np.int32) for s in sequences]
        num_slots = sum(len(s) for s in self.sequences)
        order = np.arange(num_slots)
        if slot_seed is not None:
            order = np.random.Generator(np.random.PCG64(slot_seed)).permutation(num_slots)
        ends = np.cumsum([len(s) for s in self.sequences])
        self.slots = [part.astype(np.int64) for part in np.split(order, ends[:-1])]
        self.cache = KVCache.allocate(decoder.config, num_slots)
        self.num_computed = [0] * len(self.sequences)
        self.logits: list[list[Array]] = [[] for _ in self.sequences]

    def batch(self, counts: Sequence[int], *, all_logits: bool = True) -> ForwardBatch:
        """The next `counts[s]` tokens of each sequence s; sequences with none are left out."""
        active = [s for s, count in enumerate(counts) if count]
        spans = [(s, self.num_computed[s], self.num_computed[s] + counts[s]) for s in active]
        starts = np.cumsum([0, *[counts[s] for s in active]])
        num_rows = int(starts[-1])
        return ForwardBatch(
            input_ids=np.concatenate([self.sequences[s][b:e] for s, b, e in spans]),
            positions=np.concatenate([np.arange(b, e, dtype=np.int32) for _, b, e in spans]),
            slot_mapping=np.concatenate([self.slots[s][b:e] for s, b, e in spans]),
            query_start_loc=starts.astype(np.int32),
            context_slots=tuple(self.slots[s][:e] for s, _, e in spans),
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


def one_shot(decoder: Decoder, ids: Sequence[int], on_layer: OnLayer | None = None) -> Array:
    """[len(ids), vocab_size] from a single forward pass."""
    session = Session(decoder, [ids])
    session.step([len(ids)], on_layer)
    return session.result()
