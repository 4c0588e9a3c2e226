"""One engine step as the model sees it: rows of tokens with their positions and cache slots.

Positions, slots and lengths are arguments; a forward pass changes nothing but the cache slots named
here. Any mix of prompt chunks and single decode rows is one batch.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardBatch:
    """Rows of all sequences, concatenated; row r belongs to the sequence whose range holds r."""

    input_ids: NDArray[np.int32]
    """[num_tokens], each in [0, vocab_size)."""
    positions: NDArray[np.int32]
    """[num_tokens], position of each row in its own sequence."""
    slot_mapping: NDArray[np.int64]
    """[num_tokens], the cache slot into which a row's keys and values go."""
    query_start_loc: NDArray[np.int32]
    """[num_seqs + 1], rows of sequence s are query_start_loc[s] .. query_start_loc[s + 1]."""
    context_slots: tuple[NDArray[np.int64], ...]
    """Per sequence [seq_len]: the slot of each position, this step's rows included."""
    logit_rows: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    """[num_logit_rows], rows whose logits are wanted, ascending."""
