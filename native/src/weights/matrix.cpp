#include "nestling/matrix.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "weights/pack_source.h"
#include "weights/stored_blocks.h"

namespace nestling {

namespace {

struct Planes {
  std::uint8_t* values;
  std::uint16_t* scales;
  std::uint16_t* mins;  // null without
};

// One group of a tile: 16 outputs side by side in each line.
void store_q4(const Group (&groups)[kTile][kPieceGroups], std::size_t g, std::uint8_t* values) {
  std::uint32_t lines[4][kTile];
  for (std::size_t i = 0; i < kTile; ++i) {
    for (std::size_t j = 0; j < 4; ++j) {
      const std::uint64_t codes = groups[i][g].codes[j];  // inputs 8 j to 8 j + 7
      lines[j][i] = static_cast<std::uint32_t>(codes | codes >> 28);
    }
  }
  std::memcpy(values, lines, sizeof(lines));
}

void store_q8(const Group (&groups)[kTile][kPieceGroups], std::size_t g, std::uint8_t* values) {
  std::uint32_t lines[8][kTile];
  for (std::size_t i = 0; i < kTile; ++i) {
    for (std::size_t j = 0; j < 4; ++j) {
      const std::uint64_t codes = groups[i][g].codes[j];
      lines[2 * j][i] = static_cast<std::uint32_t>(codes);
      lines[2 * j + 1][i] = static_cast<std::uint32_t>(codes >> 32);
    }
  }
  std::memcpy(values, lines, sizeof(lines));
}

template <Format format>
void pack_tile(const StoredMatrix& stored, ReadGroups read, std::size_t tile, const Planes& to) {
  constexpr std::size_t kGroupBytes = kTile * (format == Format::kQ4 ? 16 : 32);
  Group groups[kTile][kPieceGroups] = {};  // missing outputs stay zero
  const std::size_t num_outputs = std::min(kTile, stored.num_rows - tile * kTile);
  const std::size_t num_groups = round_up(stored.row_size, kGroup) / kGroup;
  for (std::size_t begin = 0; begin < num_groups; begin += kPieceGroups) {
    const std::size_t count = std::min(kPieceGroups, num_groups - begin);
    for (std::size_t i = 0; i < num_outputs; ++i) {
      read(stored, tile * kTile + i, begin, count, groups[i]);
    }
    for (std::size_t g = 0; g < count; ++g) {
      const std::size_t at = tile * num_groups + begin + g;
      if constexpr (format == Format::kQ4) {
        store_q4(groups, g, to.values + at * kGroupBytes);
      } else {
        store_q8(groups, g, to.values + at * kGroupBytes);
      }
      for (std::size_t i = 0; i < kTile; ++i) to.scales[at * kTile + i] = groups[i][g].scale;
      if (to.mins == nullptr) continue;
      for (std::size_t i = 0; i < kTile; ++i) to.mins[at * kTile + i] = groups[i][g].min;
    }
  }
}

// 16 inputs of one output, four codes a word: nibbles, and the codes' upper bits.
struct SixBitWords {
  std::uint32_t nibbles[2];
  std::uint32_t upper;
};

SixBitWords six_bit_words(const std::uint8_t* codes) {
  std::uint32_t steps[4];
  std::memcpy(steps, codes, sizeof(steps));
  SixBitWords words{};
  for (std::size_t s = 0; s < 4; ++s) {
    words.nibbles[s / 2] |= (steps[s] & 0x0f0f0f0fu) << (4 * (s % 2));
    words.upper |= (steps[s] >> 4 & 0x03030303u) << (2 * s);
  }
  return words;
}

// Tile `tile` of Q6_K or Q3_K as it is, rearranged.
template <class Block>
void pack_six_bit_tile(const StoredMatrix& stored, std::size_t tile, const Planes& to) {
  const std::size_t num_outputs = std::min(kTile, stored.num_rows - tile * kTile);
  const std::size_t num_blocks = stored.row_size / kSixBitBlock;
  for (std::size_t b = 0; b < num_blocks; ++b) {
    std::uint8_t* const factors = to.values + (tile * num_blocks + b) * kSixBitBlockBytes;
    std::uint8_t* const lines = factors + kSixBitFactorBytes;
    std::uint16_t* const scales = to.scales + (tile * num_blocks + b) * kTile;
    for (std::size_t i = 0; i < num_outputs; ++i) {  // missing outputs stay zero
      const auto* block =
          reinterpret_cast<const std::uint8_t*>(stored.row(tile * kTile + i)) + b * Block::kBytes;
      alignas(16) std::uint8_t codes[kSixBitBlock];
      Block::codes(block, codes);
      scales[i] = load<std::uint16_t>(Block::scale(block));
      for (std::size_t part = 0; part < kSixBitBlock / 16; ++part) {
        factors[part * kTile + i] = static_cast<std::uint8_t>(Block::factor(block, part));
        const SixBitWords words = six_bit_words(codes + 16 * part);
        std::uint8_t* const to_words = lines + part * 3 * 64 + 4 * i;
        std::memcpy(to_words, &words.nibbles[0], 4);
        std::memcpy(to_words + 64, &words.nibbles[1], 4);
        std::memcpy(to_words + 128, &words.upper, 4);
      }
    }
  }
}

template <class Element>
void pack_tile(const StoredMatrix& stored, std::size_t tile, Element* values) {
  Element rows[kTile][kPieceElements] = {};  // missing outputs stay zero
  const std::size_t num_outputs = std::min(kTile, stored.num_rows - tile * kTile);
  for (std::size_t begin = 0; begin < stored.row_size; begin += kPieceElements) {
    const std::size_t count = std::min(kPieceElements, stored.row_size - begin);
    for (std::size_t i = 0; i < num_outputs; ++i) {
      read_elements(stored, tile * kTile + i, begin, count, rows[i]);
    }
    Element* out = values + (tile * stored.row_size + begin) * kTile;
    for (std::size_t k = 0; k < count; ++k) {
      for (std::size_t i = 0; i < kTile; ++i) out[k * kTile + i] = rows[i][k];
    }
  }
}

}  // namespace

Matrix::Matrix(Format format, std::size_t out_features, std::size_t in_features)
    : PackedWeights(format), out_features_(out_features), in_features_(in_features) {
  check_shape(out_features, in_features);
  if (format == Format::kQ6 && in_features % kSixBitBlock != 0) {
    throw std::invalid_argument(
        "weight: expected rows of whole blocks of 256 elements for q6, got " +
        std::to_string(in_features) + " elements");
  }
}

Format Matrix::natural_format(StoredType type) {
  const bool has_factors = type == StoredType::kQ3_K || type == StoredType::kQ6_K;
  return has_factors ? Format::kQ6 : nestling::natural_format(type);
}

Matrix::PlaneBytes Matrix::plane_bytes() const {
  if (!is_quantized(format())) {
    return {num_tiles() * kTile * in_features_ * element_bytes(format()), 0};
  }
  if (format() == Format::kQ6) {
    const std::size_t num_blocks = num_tiles() * (in_features_ / kSixBitBlock);
    return {num_blocks * kSixBitBlockBytes, num_blocks * kTile * 2};
  }
  const std::size_t num_scales = num_tiles() * num_groups() * kTile;
  return {num_scales * (format() == Format::kQ4 ? 16 : 32), num_scales * 2};
}

Matrix Matrix::map(const std::shared_ptr<const MappedFile>& file, Format format,
                   std::size_t out_features, std::size_t in_features, const PlaneOffsets& offsets) {
  Matrix packed(format, out_features, in_features);
  packed.PackedWeights::map(file, offsets, packed.plane_bytes());
  return packed;
}

Matrix Matrix::pack(const StoredMatrix& stored, Format format, ThreadPool& pool) {
  check_stored(stored);
  if (format == Format::kQ6 && natural_format(stored.type) != Format::kQ6) {
    throw std::invalid_argument("format: expected another than q6 for weights but Q3_K and Q6_K");
  }
  Matrix packed(format, stored.num_rows, stored.row_size);
  const PlaneBytes bytes = packed.plane_bytes();
  Buffer values(bytes.values);
  Buffer scales(bytes.scales);
  Buffer mins(groups_have_min(stored.type, format) ? bytes.scales : 0);
  const std::size_t grain = kGrainElements / (stored.row_size * kTile) + 1;
  const auto each_tile = [&](const auto& body) {
    pool.parallel_for(packed.num_tiles(), grain, [&](std::size_t begin, std::size_t end) {
      for (std::size_t tile = begin; tile < end; ++tile) body(tile);
    });
  };
  const Planes to{values.as<std::uint8_t>(), scales.as<std::uint16_t>(), mins.as<std::uint16_t>()};
  if (format == Format::kQ6) {
    each_tile([&](std::size_t tile) {
      stored.type == StoredType::kQ3_K ? pack_six_bit_tile<Q3KBlock>(stored, tile, to)
                                       : pack_six_bit_tile<Q6KBlock>(stored, tile, to);
    });
  } else if (is_quantized(format)) {
    const ReadGroups read = group_reader(stored.type, format);
    each_tile([&](std::size_t tile) {
      format == Format::kQ4 ? pack_tile<Format::kQ4>(stored, read, tile, to)
                            : pack_tile<Format::kQ8>(stored, read, tile, to);
    });
  } else {
    each_tile([&](std::size_t tile) {
      if (format == Format::kFloat32) {
        pack_tile(stored, tile, values.as<float>());
      } else if (format == Format::kFloat16) {
        pack_tile(stored, tile, values.as<Half>());
      } else {
        pack_tile(stored, tile, values.as<Bfloat16>());
      }
    });
  }
  packed.keep(std::move(values), std::move(scales), std::move(mins));
  return packed;
}

}  // namespace nestling
