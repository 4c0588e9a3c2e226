// The loops of the linear kernel over `Lanes`, 16 float32 accumulators that a variant provides.
//
// Included by each variant's source file, where Lanes is a type of its own; everything here is a
// template over it or static, and calls nothing of the standard library that might stay a function.
// So no code built for one instruction set can be linked into another.
#pragma once

#include <cstddef>

#include "kernel_table.h"

namespace nestling {

// Rows that are taken through all weights together, so that they stay in the second-level cache.
constexpr std::size_t kRowTile = 48;

// kRows x (kBlocks * 16) outputs in registers. Each sum runs over k in order, in its own lane.
template <class Lanes, int kRows, int kBlocks, class Weight>
inline void linear_block(const LinearTask<Weight>& task, std::size_t row, std::size_t block) {
  const std::size_t in_features = task.in_features;
  const float* x = task.x + row * in_features;
  const Weight* weights = task.weights + block * in_features * 16;
  Lanes sums[kRows][kBlocks];
  for (std::size_t k = 0; k < in_features; ++k) {
    for (int b = 0; b < kBlocks; ++b) {
      const Lanes lanes =
          Lanes::load(weights + (static_cast<std::size_t>(b) * in_features + k) * 16);
      for (int r = 0; r < kRows; ++r) {
        sums[r][b].add_product(x[static_cast<std::size_t>(r) * in_features + k], lanes);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int b = 0; b < kBlocks; ++b) {
      const std::size_t column = (block + static_cast<std::size_t>(b)) * 16;
      float* out = task.out + (row + static_cast<std::size_t>(r)) * task.out_features + column;
      if (column + 16 <= task.out_features) {
        sums[r][b].store(out);
      } else {
        float padded[16];
        sums[r][b].store(padded);
        for (std::size_t i = 0; column + i < task.out_features; ++i) out[i] = padded[i];
      }
    }
  }
}

// One block of outputs for `num_rows` rows, at most kMost.
template <class Lanes, int kMost, class Weight>
inline void linear_group(const LinearTask<Weight>& task, std::size_t row, std::size_t num_rows,
                         std::size_t block) {
  if (num_rows == kMost) return linear_block<Lanes, kMost, 1>(task, row, block);
  if constexpr (kMost > 1) linear_group<Lanes, kMost - 1>(task, row, num_rows, block);
}

// One block of outputs for rows [row, row_end), in groups of nearly equal size that fit the
// registers.
template <class Lanes, class Weight>
inline void linear_rows(const LinearTask<Weight>& task, std::size_t row, std::size_t row_end,
                        std::size_t block) {
  constexpr std::size_t kMost = Lanes::kMostRows;
  while (row < row_end) {
    const std::size_t rest = row_end - row;
    const std::size_t num_groups = (rest + kMost - 1) / kMost;
    const std::size_t num_rows = (rest + num_groups - 1) / num_groups;
    linear_group<Lanes, Lanes::kMostRows>(task, row, num_rows, block);
    row += num_rows;
  }
}

// One or two rows need several blocks at once, to have enough independent sums in flight.
template <class Lanes, class Weight>
inline void linear_task(const LinearTask<Weight>& task) {
  for (std::size_t row = 0; row < task.num_rows; row += kRowTile) {
    const std::size_t row_end = row + kRowTile < task.num_rows ? row + kRowTile : task.num_rows;
    std::size_t block = task.block_begin;
    if (row_end - row == 1) {
      for (; block + 4 <= task.block_end; block += 4) linear_block<Lanes, 1, 4>(task, row, block);
    } else if (row_end - row == 2) {
      for (; block + 2 <= task.block_end; block += 2) linear_block<Lanes, 2, 2>(task, row, block);
    }
    for (; block < task.block_end; ++block) linear_rows<Lanes>(task, row, row_end, block);
  }
}

}  // namespace nestling
