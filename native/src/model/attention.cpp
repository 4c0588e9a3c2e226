// Attention of a step's tokens: which tiles and blocks of positions go to the threads as pieces.

#include <algorithm>

#include "model/step.h"

namespace nestling {

namespace {

constexpr std::size_t kPiecesPerThread = 8;  // that long contexts should give

}  // namespace

// Makes tiles of neighbouring tokens, for each head of keys and values.
void Gemma3n::Step::tile_attention(std::size_t layer) {
  const std::size_t window = window_of(layer);
  ws_.attention_tiles.clear();
  for (std::size_t token = 0; token < num_tokens_;) {
    std::size_t end = token + 1;
    while (end < num_tokens_ && end - token < ws_.attention_tokens &&
           ws_.token_sequence[end] == ws_.token_sequence[token] &&
           ws_.token_position[end] == ws_.token_position[end - 1] + 1) {
      ++end;
    }
    const std::size_t block_begin = attention_block_begin(ws_.token_position[token], window);
    const std::size_t block_end = attention_block_end(ws_.token_position[end - 1]);
    for (std::size_t head = 0; head < c_.num_key_value_heads; ++head) {
      ws_.attention_tiles.push_back({.token = token,
                                     .num_tokens = end - token,
                                     .kv_head = head,
                                     .block_begin = block_begin,
                                     .block_end = block_end});
    }
    token = end;
  }
}

// Takes apart by blocks of positions each tile that would keep one thread busy while others wait.
void Gemma3n::Step::cut_attention() {
  const auto num_threads = static_cast<std::size_t>(pool_.num_threads());
  std::size_t total = 0;
  for (const AttentionPiece& tile : ws_.attention_tiles) total += tile.work();
  const std::size_t most = num_threads == 1 ? total : total / (num_threads * kPiecesPerThread);
  const std::size_t part_size = attention_part_size(padded(c_.head_dim));
  const std::size_t num_queries = c_.num_attention_heads / c_.num_key_value_heads;
  std::size_t num_parts = 0;
  ws_.attention_pieces.clear();
  ws_.attention_joins.clear();
  for (const AttentionPiece& tile : ws_.attention_tiles) {
    const std::size_t num_vectors = tile.num_tokens * num_queries;
    const std::size_t wanted = tile.num_blocks() * num_vectors;
    if (tile.work() <= most || tile.num_blocks() == 1 ||
        num_parts + wanted > ws_.most_attention_parts) {
      ws_.attention_pieces.push_back(tile);
      continue;
    }
    AttentionPiece joined = tile;
    joined.parts = ws_.attention_parts.data() + num_parts * part_size;
    ws_.attention_joins.push_back(joined);
    num_parts += wanted;
    const std::size_t size = std::max<std::size_t>(most / tile.num_tokens, 1);
    for (std::size_t block = tile.block_begin; block < tile.block_end; block += size) {
      AttentionPiece piece = joined;
      piece.block_begin = block;
      piece.block_end = std::min(block + size, tile.block_end);
      piece.parts += (block - tile.block_begin) * num_vectors * part_size;
      ws_.attention_pieces.push_back(piece);
    }
  }
}

// Writes the heads of all tokens to `attended_heads`, or to `attended` if they need no padding.
void Gemma3n::Step::attention(std::size_t layer) {
  const LayerConfig& config = model_.layers_[layer];
  const std::size_t head = padded(c_.head_dim);
  const std::size_t num_queries = c_.num_attention_heads / c_.num_key_value_heads;
  const KvCache::Pool& pool = cache_.pools_[config.is_sliding ? 1 : 0];
  const bool is_padded = head != c_.head_dim;
  const auto& table = config.is_sliding ? batch_.sliding_block_table : batch_.full_block_table;
  AttentionTask task{};
  task.q_stride = ws_.queries.stride;
  task.out_stride = is_padded ? ws_.attended_heads.stride : ws_.attended.stride;
  task.num_queries = num_queries;
  task.head_stride = head;
  task.num_kv_heads = c_.num_key_value_heads;
  task.window = static_cast<std::int64_t>(window_of(layer));
  task.cache.is_float16 = cache_.config_.is_float16;
  task.cache.block_stride = pool.block_elements;
  task.cache.group_stride = cache_.group_elements_;
  task.cache.groups_per_block = cache_.config_.block_size / kTile;
  task.cache.base = pool.data.as<std::byte>() +
                    cache_.layer_offset_[config.kv_source_layer] * cache_.element_bytes();
  const auto task_of = [&](const AttentionPiece& piece, std::size_t thread) {
    AttentionTask result = task;
    const std::size_t offset = piece.kv_head * num_queries * head;
    result.kv_head = piece.kv_head;
    result.num_tokens = piece.num_tokens;
    result.q = ws_.queries.token(piece.token) + offset;
    result.out =
        (is_padded ? ws_.attended_heads.token(piece.token) : ws_.attended.token(piece.token)) +
        offset;
    result.first_position = ws_.token_position[piece.token];
    result.block_table =
        table.data() + ws_.token_sequence[piece.token] * batch_.blocks_per_sequence;
    result.block_begin = piece.block_begin;
    result.block_end = piece.block_end;
    result.parts = piece.parts;
    result.scratch = ws_.thread_scratch[thread].data();
    return result;
  };
  tile_attention(layer);
  cut_attention();
  const auto run = [&](const std::vector<AttentionPiece>& pieces, auto kernel) {
    pool_.parallel_for(pieces.size(), 1,
                       [&](std::size_t begin, std::size_t end, std::size_t thread) {
                         for (std::size_t i = begin; i < end; ++i)
                           kernel(task_of(pieces[i], thread));
                       });
  };
  run(ws_.attention_pieces, kernels_.attention);
  run(ws_.attention_joins, kernels_.join_attention);
}

}  // namespace nestling
