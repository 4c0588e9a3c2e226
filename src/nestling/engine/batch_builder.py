"""Turns one step of the scheduler into the arrays that the model takes."""

import numpy as np

from nestling.engine.kv.manager import KVCacheManager
from nestling.engine.scheduler import SchedulerOutput
from nestling.model.batch import ForwardBatch


def build_batch(output: SchedulerOutput, kv_cache_manager: KVCacheManager) -> ForwardBatch:
    """The step's rows in the scheduled order; logits are wanted where a request is sampled."""
    num_tokens = output.num_tokens
    input_ids = np.empty(num_tokens, np.int32)
    positions = np.empty(num_tokens, np.int32)
    query_start_loc = np.zeros(len(output.scheduled) + 1, np.int32)
    ends = []
    logit_rows = []
    row = 0
    for i, item in enumerate(output.scheduled):
        request = item.request
        begin = request.num_computed_tokens
        end = begin + item.num_new_tokens
        rows = slice(row, row + item.num_new_tokens)
        input_ids[rows] = request.token_ids[begin:end]
        positions[rows] = np.arange(begin, end)
        ends.append(end)
        row = rows.stop
        query_start_loc[i + 1] = row
        if item.is_sampled:
            logit_rows.append(row - 1)
    requests = [item.request for item in output.scheduled]
    full_block_table, sliding_block_table = kv_cache_manager.tables(requests, ends)
    return ForwardBatch(
        input_ids=input_ids,
        positions=positions,
        query_start_loc=query_start_loc,
        block_size=kv_cache_manager.block_size,
        full_block_table=full_block_table,
        sliding_block_table=sliding_block_table,
        logit_rows=np.array(logit_rows, np.int32),
    )
