// How GGML's block types hold groups of 32 weights: w = scale * (code - kOffset) + min.
//
// Each struct reads one type (layouts as in ggml-common.h). Types whose scale covers 16 weights
// have no such groups: Q3_K and Q6_K have structs of another kind, Q2_K is decoded in stored.cpp.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "weights/half.h"

namespace nestling {

static_assert(std::endian::native == std::endian::little, "model files are little-endian");

template <class T>
T load(const std::uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

inline float load_half(const std::uint8_t* from) {
  return float_of_half(load<std::uint16_t>(from));
}

// 16 bytes of nibbles: the low ones are codes 0..15, the high ones codes 16..31.
inline void split_nibbles(const std::uint8_t* nibbles, std::int8_t* codes) {
  for (int i = 0; i < 16; ++i) {
    codes[i] = static_cast<std::int8_t>(nibbles[i] & 15);
    codes[16 + i] = static_cast<std::int8_t>(nibbles[i] >> 4);
  }
}

// Adds bit i of `high`, as 16, to code i.
inline void add_fifth_bits(std::uint32_t high, std::int8_t* codes) {
  for (int i = 0; i < 32; ++i) {
    codes[i] = static_cast<std::int8_t>(codes[i] | static_cast<int>((high >> i & 1u) << 4));
  }
}

inline constexpr std::int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                               1,    13,   25,  38,  53,  69,  89,  113};

// Types with one group a block: an f16 scale, an f16 minimum if any, then the codes.
template <std::size_t bytes, bool has_min, int offset>
struct OneGroupBlock {
  static constexpr std::size_t kElements = 32;
  static constexpr std::size_t kBytes = bytes;
  static constexpr bool kHasMin = has_min;
  static constexpr int kOffset = offset;

  static float scale(const std::uint8_t* block, std::size_t) { return load_half(block); }
  static float min(const std::uint8_t* block, std::size_t) { return load_half(block + 2); }
};

struct Q8_0Block : OneGroupBlock<34, false, 0> {
  static void codes(const std::uint8_t* block, std::size_t, std::int8_t* codes) {
    std::memcpy(codes, block + 2, 32);
  }
};

struct Q4_0Block : OneGroupBlock<18, false, 8> {
  static void codes(const std::uint8_t* block, std::size_t, std::int8_t* codes) {
    split_nibbles(block + 2, codes);
  }
};

struct Q4_1Block : OneGroupBlock<20, true, 0> {
  static void codes(const std::uint8_t* block, std::size_t, std::int8_t* codes) {
    split_nibbles(block + 4, codes);
  }
};

struct Q5_0Block : OneGroupBlock<22, false, 16> {
  static void codes(const std::uint8_t* block, std::size_t, std::int8_t* codes) {
    split_nibbles(block + 6, codes);
    add_fifth_bits(load<std::uint32_t>(block + 2), codes);
  }
};

struct Q5_1Block : OneGroupBlock<24, true, 0> {
  static void codes(const std::uint8_t* block, std::size_t, std::int8_t* codes) {
    split_nibbles(block + 8, codes);
    add_fifth_bits(load<std::uint32_t>(block + 4), codes);
  }
};

struct Iq4NlBlock : OneGroupBlock<18, false, 0> {
  static void codes(const std::uint8_t* block, std::size_t, std::int8_t* codes) {
    split_nibbles(block + 2, codes);
    for (int i = 0; i < 32; ++i) codes[i] = kIq4Values[codes[i]];
  }
};

// Types with eight groups a block, whose scales and minima are 6-bit multiples of two f16 numbers.
template <std::size_t bytes>
struct KBlock {
  static constexpr std::size_t kElements = 256;
  static constexpr std::size_t kBytes = bytes;
  static constexpr bool kHasMin = true;
  static constexpr int kOffset = 0;

  static float scale(const std::uint8_t* block, std::size_t group) {
    const std::uint8_t* packed = block + 4;
    const int factor =
        group < 4 ? packed[group] & 63 : (packed[group + 4] & 15) | (packed[group - 4] >> 6) << 4;
    return load_half(block) * static_cast<float>(factor);
  }
  static float min(const std::uint8_t* block, std::size_t group) {
    const std::uint8_t* packed = block + 4;
    const int factor =
        group < 4 ? packed[group + 4] & 63 : (packed[group + 4] >> 4) | (packed[group] >> 6) << 4;
    return -(load_half(block + 2) * static_cast<float>(factor));
  }
  // Two groups share 32 bytes: the even one has their low nibbles.
  static void nibbles(const std::uint8_t* quants, std::size_t group, std::int8_t* codes) {
    const std::uint8_t* bytes_of_pair = quants + 32 * (group / 2);
    if (group % 2 == 0) {  // two loops: shifts by a constant become vectors of bytes
      for (int i = 0; i < 32; ++i) codes[i] = static_cast<std::int8_t>(bytes_of_pair[i] & 15);
    } else {
      for (int i = 0; i < 32; ++i) codes[i] = static_cast<std::int8_t>(bytes_of_pair[i] >> 4);
    }
  }
};

struct Q4KBlock : KBlock<144> {
  static void codes(const std::uint8_t* block, std::size_t group, std::int8_t* codes) {
    nibbles(block + 16, group, codes);
  }
};

struct Q5KBlock : KBlock<176> {
  static void codes(const std::uint8_t* block, std::size_t group, std::int8_t* codes) {
    const std::uint8_t* high = block + 16;
    nibbles(block + 48, group, codes);
    const auto bit = static_cast<std::uint8_t>(1 << group);
    for (int i = 0; i < 32; ++i) {
      const bool is_set = (high[i] & bit) != 0;
      codes[i] = static_cast<std::int8_t>(codes[i] | (is_set ? 16 : 0));
    }
  }
};

struct Iq4XsBlock {
  static constexpr std::size_t kElements = 256;
  static constexpr std::size_t kBytes = 136;
  static constexpr bool kHasMin = false;
  static constexpr int kOffset = 0;

  static float scale(const std::uint8_t* block, std::size_t group) {
    const int low = block[4 + group / 2] >> (4 * (group % 2)) & 15;
    const int high = load<std::uint16_t>(block + 2) >> (2 * group) & 3;
    return load_half(block) * static_cast<float>((low | high << 4) - 32);
  }
  static float min(const std::uint8_t*, std::size_t) { return 0.0f; }
  static void codes(const std::uint8_t* block, std::size_t group, std::int8_t* codes) {
    split_nibbles(block + 8 + 16 * group, codes);
    for (int i = 0; i < 32; ++i) codes[i] = kIq4Values[codes[i]];
  }
};

// Code of element i of a Q2_K or Q3_K block: two bits of byte i % 32 in the half's 32 bytes.
inline int two_bits(const std::uint8_t* quants, std::size_t i) {
  return quants[32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4)) & 3;
}

// The next two: 256 codes below 64 in groups of 16, w = scale * factor * (code - 32), with an int8
// factor a group.
struct Q3KBlock {
  static constexpr std::size_t kBytes = 110;

  static int factor(const std::uint8_t* block, std::size_t group) {
    const std::uint8_t* packed = block + 96;  // 4 low bits each, then 2 high bits each
    const int low = packed[group % 8] >> (4 * (group / 8)) & 15;
    const int high = packed[8 + group % 4] >> (2 * (group / 4)) & 3;
    return (low | high << 4) - 32;
  }
  static const std::uint8_t* scale(const std::uint8_t* block) { return block + 108; }  // f16
  static void codes(const std::uint8_t* block, std::uint8_t* codes) {
    for (std::size_t i = 0; i < 256; ++i) {
      const int is_high = block[i % 32] >> (i / 32) & 1;
      codes[i] = static_cast<std::uint8_t>(two_bits(block + 32, i) + 28 + 4 * is_high);
    }
  }
};

struct Q6KBlock {
  static constexpr std::size_t kBytes = 210;

  static int factor(const std::uint8_t* block, std::size_t group) {
    return static_cast<std::int8_t>(block[192 + group]);
  }
  static const std::uint8_t* scale(const std::uint8_t* block) { return block + 208; }  // f16
  static void codes(const std::uint8_t* block, std::uint8_t* codes) {
    half_codes(block, block + 128, codes);
    half_codes(block + 64, block + 160, codes + 128);
  }

 private:
  // Of 128 weights: 4 low bits from 64 bytes, 2 high bits from 32.
  static void half_codes(const std::uint8_t* low, const std::uint8_t* high, std::uint8_t* codes) {
    const auto code = [](int low_bits, int high_bits) {
      return static_cast<std::uint8_t>(low_bits | (high_bits & 3) << 4);
    };
    for (int i = 0; i < 32; ++i) codes[i] = code(low[i] & 15, high[i]);
    for (int i = 0; i < 32; ++i) codes[32 + i] = code(low[32 + i] & 15, high[i] >> 2);
    for (int i = 0; i < 32; ++i) codes[64 + i] = code(low[i] >> 4, high[i] >> 4);
    for (int i = 0; i < 32; ++i) codes[96 + i] = code(low[32 + i] >> 4, high[i] >> 6);
  }
};

}  // namespace nestling
