"""Which cache blocks belong to which request, and which prefixes are in the cache already.

Two pools: the blocks of the full-attention layers stay for the whole request, those of the sliding
layers until their window has passed. Full blocks of tokens are known by a salted hash of all tokens
up to their end and stay findable after their request, until the block is needed: a later request
with the same beginning takes them over instead of computing them. It knows numbers only; keys and
values live behind the runner. Runs in the loop's thread.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nestling.engine.kv.block_digests import BlockHasher, Digest
from nestling.engine.kv.block_pool import BlockPool
from nestling.engine.kv.sizes import blocks_of_window, sliding_blocks_of_sequence
from nestling.engine.request import Request

Blocks = NDArray[np.int32]
SPARE_WINDOWS = 2
"""Windows that stay findable behind prompts under way before never used memory is touched: enough
that a second prompt with another end of some hundred tokens finds the beginning they share."""


@dataclass(frozen=True, slots=True)
class CachedPrefix:
    """Tells how much of a request the cache has."""

    num_blocks: int
    """Blocks from which the request can go on: the sliding layers' last window is there too."""
    num_full_blocks: int
    """Blocks that the full layers have; more than `num_blocks` where a window is gone."""


class _BlockTable:
    """The blocks of one sequence in one pool, by position; grows, never copies a step."""

    __slots__ = ("blocks", "end")

    def __init__(self, begin: int = 0) -> None:
        self.blocks: Blocks = np.full(max(2 * begin, 16), -1, np.int32)
        self.end = begin
        """Entries from here on have not been given yet; they are -1."""

    def append(self, block: int) -> None:
        if self.end == len(self.blocks):
            grown = np.full(2 * self.end, -1, np.int32)
            grown[: self.end] = self.blocks
            self.blocks = grown
        self.blocks[self.end] = block
        self.end += 1


@dataclass(slots=True)
class _Sequence:
    full: _BlockTable
    sliding: _BlockTable
    sliding_begin: int
    """Sliding blocks before this one were given back, or never held."""
    num_registered: int
    """Blocks that the pools know by digest."""
    kept: tuple[tuple[int, int], ...]
    """Ranges of sliding blocks in front of the places where a later request may well go on."""
    num_reserved: int

    def is_kept(self, index: int) -> bool:
        return any(begin <= index < end for begin, end in self.kept)


class KVCacheManager:
    """Block tables of the running requests; position p is in block number p // block_size."""

    def __init__(
        self,
        *,
        num_blocks: int,
        num_sliding_blocks: int,
        block_size: int,
        sliding_window: int,
        max_rows: int,
        prefix_caching: bool = True,
    ) -> None:
        assert block_size > 0
        assert sliding_window > 0
        per_window = blocks_of_window(sliding_window, block_size)
        assert num_sliding_blocks >= min(per_window, num_blocks)  # so that one request can go on
        self.block_size = block_size
        self.full_pool = BlockPool(num_blocks)
        self.sliding_pool = BlockPool(num_sliding_blocks, SPARE_WINDOWS * per_window)
        self.num_prefix_hits = 0
        self.num_cached_tokens = 0
        """Prompt tokens that were not computed, since the start."""
        self._window = sliding_window
        self._num_reserved = 0
        """Sliding blocks that the running requests may come to hold, the chunks of a step apart."""
        self._num_reservable = num_sliding_blocks - -(-max_rows // block_size)
        self._prefix_caching = prefix_caching
        self._hasher = BlockHasher(block_size)
        self._sequences: dict[str, _Sequence] = {}

    @property
    def num_slots(self) -> int:
        """Tokens that the full layers' pool holds, hence the longest sequence."""
        return self.full_pool.num_blocks * self.block_size

    @property
    def num_free(self) -> tuple[int, int]:
        """Blocks that may be given, of the full and of the sliding pool."""
        return self.full_pool.num_free, self.sliding_pool.num_free

    # --- admission -------------------------------------------------------------------------------

    def find_prefix(self, request: Request) -> CachedPrefix:
        """The longest beginning of the request that needs no computing; never all of it."""
        if not self._prefix_caching:
            return CachedPrefix(0, 0)
        digests = self._hasher.digests(request)
        most = (request.num_tokens - 1) // self.block_size
        num_full = 0
        while num_full < most and self.full_pool.find(digests[num_full]) is not None:
            num_full += 1
        end = num_full
        index = end - 1
        while index >= self._window_begin(end):
            if self.sliding_pool.find(digests[index]) is None:
                end = index
            index -= 1
        return CachedPrefix(end, num_full)

    def _window_begin(self, num_blocks: int) -> int:
        """The first sliding block that the token after `num_blocks` blocks sees."""
        return max(num_blocks * self.block_size - (self._window - 1), 0) // self.block_size

    def is_being_computed(
        self, request: Request, prefix: CachedPrefix, other: Request, num_new_tokens: int
    ) -> bool:
        """`other`'s next tokens fill the first block that `request`, known to `prefix`, lacks."""
        index = prefix.num_blocks
        if not self._prefix_caching or index >= (request.num_tokens - 1) // self.block_size:
            return False
        computed = other.num_computed_tokens
        if not computed < (index + 1) * self.block_size <= computed + num_new_tokens:
            return False
        return self._hasher.digests(request)[index] == self._hasher.digests(other)[index]

    def begin(self, request: Request, prefix: CachedPrefix) -> bool:
        """Take the prefix over and blocks of the full layers for all other tokens.

        False, and nothing changed, if blocks lack: those, or for the sliding layers what the
        request may come to hold beside the others (so that only full blocks ever run out). If
        nothing else runs, it need not have more of the latter than its window and one token.
        `prefix` is what `find_prefix` has just said.
        """
        assert request.request_id not in self._sequences
        num_hit = prefix.num_blocks
        window_begin = self._window_begin(num_hit)
        digests = request.block_digests
        full = [self._found(self.full_pool, digest) for digest in digests[:num_hit]]
        window = [self._found(self.sliding_pool, d) for d in digests[window_begin:num_hit]]
        num_new = -(-request.num_tokens // self.block_size) - num_hit
        num_revived = sum(self.full_pool.is_free(block) for block in full)
        if self.full_pool.num_free - num_revived < num_new:
            return False
        num_reserved = sliding_blocks_of_sequence(
            self._window, self.block_size, request.num_prompt_tokens + request.max_tokens
        )
        if self._sequences and self._num_reserved + num_reserved > self._num_reservable:
            return False
        sequence = _Sequence(
            full=_BlockTable(),
            sliding=_BlockTable(window_begin),
            sliding_begin=window_begin,
            num_registered=num_hit,
            kept=self._places(request, prefix),
            num_reserved=num_reserved,
        )
        self._num_reserved += num_reserved
        for pool, table, blocks in (
            (self.full_pool, sequence.full, full),
            (self.sliding_pool, sequence.sliding, window),
        ):
            for block in blocks:
                pool.share(block)
                table.append(block)
        for _ in range(num_new):
            sequence.full.append(self.full_pool.take())
        self._sequences[request.request_id] = sequence
        self._count(request, num_hit * self.block_size)
        return True

    @staticmethod
    def _found(pool: BlockPool, digest: Digest) -> int:
        block = pool.find(digest)
        assert block is not None
        return block

    def _places(self, request: Request, prefix: CachedPrefix) -> tuple[tuple[int, int], ...]:
        """Windows worth keeping: of this prompt's end, and of where others have parted from it."""
        ends = {prefix.num_blocks, prefix.num_full_blocks}
        last = (request.num_tokens - 1) // self.block_size
        ranges = [(self._window_begin(end), end) for end in sorted(ends)]
        return (*ranges, (self._window_begin(last), last + 1))

    def _count(self, request: Request, num_cached_tokens: int) -> None:
        request.num_computed_tokens = num_cached_tokens
        if request.num_cached_tokens is None:  # what it finds of itself after preemption is no hit
            request.num_cached_tokens = num_cached_tokens
            self.num_cached_tokens += num_cached_tokens
            self.num_prefix_hits += num_cached_tokens > 0

    # --- steps -----------------------------------------------------------------------------------

    def grow(self, request: Request, num_new_tokens: int) -> int:
        """Give slots to the next tokens of a request; to how many, fewer only if blocks lack."""
        sequence = self._sequences[request.request_id]
        computed = request.num_computed_tokens
        end = computed + num_new_tokens
        for pool, table in (
            (self.full_pool, sequence.full),
            (self.sliding_pool, sequence.sliding),
        ):
            end = min(end, (table.end + pool.num_free) * self.block_size)
        if end <= computed:
            return 0
        num_blocks = -(-end // self.block_size)
        for _ in range(num_blocks - sequence.full.end):
            sequence.full.append(self.full_pool.take())
        for _ in range(num_blocks - sequence.sliding.end):
            sequence.sliding.append(self.sliding_pool.take())
        return end - computed

    def advance(self, request: Request) -> None:
        """`num_computed_tokens` has grown: name the blocks that are full, drop what has passed."""
        sequence = self._sequences[request.request_id]
        num_full = request.num_computed_tokens // self.block_size
        if self._prefix_caching and num_full > sequence.num_registered:
            digests = self._hasher.digests(request)
            for index in range(sequence.num_registered, num_full):
                digest = digests[index]
                self.full_pool.register(int(sequence.full.blocks[index]), digest)
                self.sliding_pool.register(int(sequence.sliding.blocks[index]), digest)
            sequence.num_registered = num_full
        passed = max(request.num_computed_tokens - (self._window - 1), 0) // self.block_size
        for index in range(sequence.sliding_begin, passed):
            block = int(sequence.sliding.blocks[index])
            self.sliding_pool.release(block, keep=sequence.is_kept(index))
            sequence.sliding.blocks[index] = -1
        sequence.sliding_begin = max(passed, sequence.sliding_begin)

    def tables(
        self, requests: Sequence[Request], num_tokens: Sequence[int]
    ) -> tuple[Blocks, Blocks]:
        """Both block tables [num_seqs, max_blocks] of sequences of these lengths."""
        num_blocks = [-(-length // self.block_size) for length in num_tokens]
        shape = (len(requests), max(num_blocks, default=0))
        full, sliding = np.full(shape, -1, np.int32), np.full(shape, -1, np.int32)
        for row, request in enumerate(requests):
            sequence = self._sequences[request.request_id]
            begin, end = sequence.sliding_begin, num_blocks[row]
            full[row, :end] = sequence.full.blocks[:end]
            sliding[row, begin:end] = sequence.sliding.blocks[begin:end]
        return full, sliding

    # --- ends ------------------------------------------------------------------------------------

    def free(self, request: Request) -> None:
        """Give all blocks of the request back; nothing to do if it has none."""
        sequence = self._sequences.pop(request.request_id, None)
        if sequence is None:
            return
        self._num_reserved -= sequence.num_reserved
        # Last ones first: a prefix is of no use without its beginning, so that goes last.
        for block in sequence.full.blocks[: sequence.full.end][::-1].tolist():
            self.full_pool.release(block)
        sliding = sequence.sliding.blocks[sequence.sliding_begin : sequence.sliding.end]
        for block in sliding[::-1].tolist():
            self.sliding_pool.release(block)

    def block_tables(self, request_id: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Blocks that the request holds in the full and in the sliding pool, by position."""
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return (), ()
        full, sliding = sequence.full, sequence.sliding
        return (
            tuple(full.blocks[: full.end].tolist()),
            tuple(sliding.blocks[sequence.sliding_begin : sliding.end].tolist()),
        )
