#include "nestling/stored.h"

#include <array>
#include <stdexcept>

#include "weights/half.h"
#include "weights/stored_blocks.h"
#include "weights/stored_decode.h"

namespace nestling {

namespace {

using Decode = void (*)(const std::uint8_t* blocks, std::size_t num_blocks, float* out);

struct Layout {
  StoredTypeInfo info;
  Decode decode;
};

void decode_f32(const std::uint8_t* blocks, std::size_t num_blocks, float* out) {
  std::memcpy(out, blocks, num_blocks * sizeof(float));
}

void decode_f16(const std::uint8_t* blocks, std::size_t num_blocks, float* out) {
  for (std::size_t i = 0; i < num_blocks; ++i) out[i] = load_half(blocks + 2 * i);
}

void decode_bf16(const std::uint8_t* blocks, std::size_t num_blocks, float* out) {
  for (std::size_t i = 0; i < num_blocks; ++i) {
    out[i] = float_of_bfloat16(load<std::uint16_t>(blocks + 2 * i));
  }
}

template <class Block>
void decode_groups(const std::uint8_t* blocks, std::size_t num_blocks, float* out) {
  for (std::size_t b = 0; b < num_blocks; ++b, blocks += Block::kBytes) {
    for (std::size_t group = 0; group < Block::kElements / 32; ++group, out += 32) {
      alignas(16) std::int8_t codes[32];
      Block::codes(blocks, group, codes);
      const float scale = Block::scale(blocks, group);
      const float min = Block::kHasMin ? Block::min(blocks, group) : 0.0f;
      for (int i = 0; i < 32; ++i) {
        const float value = scale * static_cast<float>(codes[i] - Block::kOffset);
        out[i] = Block::kHasMin ? value + min : value;
      }
    }
  }
}

void decode_q2_k(const std::uint8_t* blocks, std::size_t num_blocks, float* out) {
  for (std::size_t b = 0; b < num_blocks; ++b, blocks += 84, out += 256) {
    const float scale = load_half(blocks + 80);
    const float min = load_half(blocks + 82);
    for (std::size_t group = 0; group < 16; ++group) {
      const float group_scale = scale * static_cast<float>(blocks[group] & 15);
      const float group_min = min * static_cast<float>(blocks[group] >> 4);
      for (std::size_t i = 16 * group; i < 16 * group + 16; ++i) {
        out[i] = group_scale * static_cast<float>(two_bits(blocks + 16, i)) - group_min;
      }
    }
  }
}

template <class Block>
void decode_factored(const std::uint8_t* blocks, std::size_t num_blocks, float* out) {
  for (std::size_t b = 0; b < num_blocks; ++b, blocks += Block::kBytes, out += 256) {
    alignas(16) std::uint8_t codes[256];
    Block::codes(blocks, codes);
    const float scale = load_half(Block::scale(blocks));
    for (std::size_t group = 0; group < 16; ++group) {
      const float group_scale = scale * static_cast<float>(Block::factor(blocks, group));
      for (std::size_t i = 16 * group; i < 16 * group + 16; ++i) {
        out[i] = group_scale * static_cast<float>(codes[i] - 32);
      }
    }
  }
}

template <class Block>
constexpr Layout groups(const char* name, int ggml_type) {
  return {{name, ggml_type, Block::kElements, Block::kBytes}, decode_groups<Block>};
}

// In the order of StoredType.
constexpr std::array<Layout, 15> kLayouts{{
    {{"F32", 0, 1, 4}, decode_f32},
    {{"F16", 1, 1, 2}, decode_f16},
    {{"BF16", 30, 1, 2}, decode_bf16},
    groups<Q8_0Block>("Q8_0", 8),
    groups<Q4_0Block>("Q4_0", 2),
    groups<Q4_1Block>("Q4_1", 3),
    groups<Q5_0Block>("Q5_0", 6),
    groups<Q5_1Block>("Q5_1", 7),
    {{"Q2_K", 10, 256, 84}, decode_q2_k},
    {{"Q3_K", 11, 256, Q3KBlock::kBytes}, decode_factored<Q3KBlock>},
    groups<Q4KBlock>("Q4_K", 12),
    groups<Q5KBlock>("Q5_K", 13),
    {{"Q6_K", 14, 256, Q6KBlock::kBytes}, decode_factored<Q6KBlock>},
    groups<Iq4NlBlock>("IQ4_NL", 20),
    groups<Iq4XsBlock>("IQ4_XS", 23),
}};

const Layout& layout_of(StoredType type) { return kLayouts[static_cast<std::size_t>(type)]; }

}  // namespace

StoredType stored_type_of(const std::string& name) {
  std::string known;
  for (std::size_t i = 0; i < kLayouts.size(); ++i) {
    if (name == kLayouts[i].info.name) return static_cast<StoredType>(i);
    known += (i > 0 ? ", " : "") + std::string(kLayouts[i].info.name);
  }
  throw std::invalid_argument("dtype: expected one of " + known + ", got \"" + name + "\"");
}

std::size_t block_elements(StoredType type) { return layout_of(type).info.block_elements; }

std::size_t block_bytes(StoredType type) { return layout_of(type).info.block_bytes; }

std::vector<StoredTypeInfo> stored_types() {
  std::vector<StoredTypeInfo> types;
  types.reserve(kLayouts.size());
  for (const Layout& layout : kLayouts) types.push_back(layout.info);
  return types;
}

void decode_elements(const StoredMatrix& stored, std::size_t row, std::size_t begin,
                     std::size_t count, float* out) {
  const Layout& layout = layout_of(stored.type);
  const std::byte* blocks =
      stored.row(row) + begin / layout.info.block_elements * layout.info.block_bytes;
  layout.decode(reinterpret_cast<const std::uint8_t*>(blocks), count / layout.info.block_elements,
                out);
}

void decode_row(const StoredMatrix& stored, std::size_t index, float* out) {
  decode_elements(stored, index, 0, stored.row_size, out);
}

}  // namespace nestling
