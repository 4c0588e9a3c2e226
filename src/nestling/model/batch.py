"""One engine step as the model sees it: tokens with their positions and cache blocks.

Positions, blocks and lengths are arguments. A forward pass changes nothing but the cache slots
named here. Any mix of prompt chunks and single decoded tokens is one batch.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardBatch:
    """The tokens of all sequences, one sequence after the other.

    The keys and values of position p of sequence s lie in slot p % block_size of the block
    table[s, p // block_size]. Full and sliding layers have a pool of blocks each. Both tables cover
    this step's tokens, the sliding one also the sliding_window - 1 positions before its first.
    """

    input_ids: NDArray[np.int32]
    """[num_tokens], each in [0, vocab_size)."""
    positions: NDArray[np.int32]
    """[num_tokens], position of each token in its own sequence, contiguous within a sequence."""
    query_start_loc: NDArray[np.int32]
    """[num_seqs + 1]; sequence s has the tokens [query_start_loc[s], query_start_loc[s + 1])."""
    block_size: int
    """Tokens in a block of either pool."""
    full_block_table: NDArray[np.int32]
    """[num_seqs, max_blocks]; -1 beyond a sequence's end."""
    sliding_block_table: NDArray[np.int32]
    """[num_seqs, max_blocks]; -1 beyond a sequence's end and where its window has passed."""
    logit_rows: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    """[num_logit_rows], the tokens whose logits are wanted, ascending."""
