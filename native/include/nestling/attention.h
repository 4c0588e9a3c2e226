// Attention of rows over their own ranges of cache slots: causal and sliding windows without a
// mask.
//
// A row's result depends on nothing but its query and its keys and values in the order given, to
// the bit: neither on the other rows nor on the threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nestling/thread_pool.h"
#include "nestling/variant.h"

namespace nestling {

// All arrays are row-major. Query head h uses kv head h / (num_heads / num_kv_heads).
struct AttentionInput {
  const float* q;                 // [num_rows, num_heads, head_dim]
  const float* k_cache;           // [num_slots, num_kv_heads, head_dim]
  const float* v_cache;           // [num_slots, num_kv_heads, head_dim]
  const std::int64_t* slots;      // [num_positions], each in [0, num_slots)
  const std::int64_t* row_begin;  // [num_rows]: row r sees slots[row_begin[r] .. row_end[r]),
  const std::int64_t* row_end;    // [num_rows]  at least one slot
  std::size_t num_rows;
  std::size_t num_heads;
  std::size_t num_kv_heads;
  std::size_t head_dim;
};

// out [num_rows, num_heads, head_dim] = softmax(q k^T) v, unscaled. Ranges and slots are not
// checked here: the binding has done it.
void attention(const AttentionInput& input, float* out, ThreadPool& pool,
               Variant variant = best_variant());

}  // namespace nestling
