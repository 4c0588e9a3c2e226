"""The blocks of one pool: who holds them, what they hold, which free one is given next.

A block has references; at none it is free, yet keeps its content, under its digest, until it is
taken again. Runs in the loop's thread.
"""

from collections import OrderedDict

from nestling.engine.kv.block_digests import Digest


class BlockPool:
    """References, digests and three kinds of free blocks.

    Free blocks are taken in this order: those without content; those with content that a later
    request hardly asks for ("spare"), oldest first; the others ("kept"), oldest first. Blocks that
    were never used come after all but the last `max_spares` spare ones, so that memory grows by
    content worth keeping alone.
    """

    def __init__(self, num_blocks: int, max_spares: int = 0) -> None:
        assert num_blocks > 0
        self.num_blocks = num_blocks
        self._max_spares = max_spares
        self._num_references = [0] * num_blocks
        self._digests: list[Digest | None] = [None] * num_blocks
        self._is_kept = [False] * num_blocks
        self._by_digest: dict[Digest, int] = {}
        self._num_used = 0
        """Blocks of this number and above have never been taken."""
        self._blank: list[int] = []
        self._spare: OrderedDict[int, None] = OrderedDict()
        self._kept: OrderedDict[int, None] = OrderedDict()

    @property
    def num_free(self) -> int:
        """Blocks that `take` can give."""
        return self.num_blocks - self._num_used + len(self._blank) + self.num_cached

    @property
    def num_cached(self) -> int:
        """Free blocks that still hold what their digest says."""
        return len(self._spare) + len(self._kept)

    def is_free(self, block: int) -> bool:
        """Nobody holds it."""
        return self._num_references[block] == 0

    def find(self, digest: Digest) -> int | None:
        """The block that holds this content, held or free."""
        return self._by_digest.get(digest)

    def take(self) -> int:
        """A block to write into; its former content is forgotten. There must be a free one."""
        block = self._next_free()
        digest = self._digests[block]
        if digest is not None:
            self._forget(block, digest)
        self._is_kept[block] = False
        self._num_references[block] = 1
        return block

    def _next_free(self) -> int:
        if self._blank:
            return self._blank.pop()
        if len(self._spare) > self._max_spares:
            return self._spare.popitem(last=False)[0]
        if self._num_used < self.num_blocks:
            self._num_used += 1
            return self._num_used - 1
        if self._spare:
            return self._spare.popitem(last=False)[0]
        return self._kept.popitem(last=False)[0]

    def share(self, block: int) -> None:
        """One holder more, of a block that `find` gave."""
        if self.is_free(block):
            del (self._kept if self._is_kept[block] else self._spare)[block]
        self._num_references[block] += 1

    def release(self, block: int, *, keep: bool = True) -> None:
        """One holder less; `keep`: the content is worth more than that of spare blocks."""
        assert self._num_references[block] > 0
        self._num_references[block] -= 1
        self._is_kept[block] |= keep
        if self._num_references[block]:
            return
        if self._digests[block] is None:
            self._blank.append(block)
        else:
            (self._kept if self._is_kept[block] else self._spare)[block] = None

    def register(self, block: int, digest: Digest) -> None:
        """Say what a held block now holds. If another held block holds the same, that one stays."""
        assert self._num_references[block] > 0
        other = self._by_digest.get(digest)
        if other is not None:
            if not self.is_free(other):
                return
            del (self._kept if self._is_kept[other] else self._spare)[other]
            self._forget(other, digest)
            self._blank.append(other)
        self._digests[block] = digest
        self._by_digest[digest] = block

    def _forget(self, block: int, digest: Digest) -> None:
        self._digests[block] = None
        del self._by_digest[digest]
