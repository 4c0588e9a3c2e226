// Every operation of a variant's lanes on one set of inputs. Built once a variant, with its flags.
#pragma once

#include <cstdint>

namespace nestling {

constexpr int kNumOperations = 30;

struct LaneInputs {
  float a[16];
  float b[16];
  float c[16];
  float numbers[16];  // no NaN
  float powers[16];   // n + 1.5 * 2^23, n in -126..127
  float steps[16];    // -127..127
  std::uint16_t halves[16];
  std::uint8_t w[64];
  std::uint8_t upper[64];
  std::int8_t x[64];
  int begin;
  int end;
};

struct LaneResults {
  float floats[kNumOperations][16];
  float total;
  float largest;
  std::uint16_t halves[16];
  std::int8_t bytes[16];
  std::int32_t byte_sum;
};

void avx2_lanes(const LaneInputs& in, LaneResults& out);
void avx512_lanes(const LaneInputs& in, LaneResults& out);
void neon_lanes(const LaneInputs& in, LaneResults& out);

namespace {

template <class V>
void lane_results(const LaneInputs& in, LaneResults& out) {
  using F32 = typename V::F32;
  using I32 = typename V::I32;
  using Bytes = typename V::Bytes;
  const F32 a = F32::load(in.a);
  const F32 b = F32::load(in.b);
  const F32 c = F32::load(in.c);
  const Bytes w = Bytes::load(in.w);
  const auto* signed_from = reinterpret_cast<const std::int8_t*>(in.w);
  const Bytes signed_w = Bytes::load_signed(signed_from);
  const I32 wide = I32::widen_bytes(in.w);
  std::int32_t nibble_bias = 0;
  for (int i = 0; i < 4; ++i) nibble_bias -= 8 * in.x[i];
  std::int8_t same[64];  // for add_dot_vector_signed: the same four again and again
  for (int i = 0; i < 64; ++i) same[i] = in.x[i % 4];
  const auto* other = reinterpret_cast<const std::uint8_t*>(in.x);
  const Bytes nibbles[2] = {w, Bytes::load(other)};
  Bytes codes[4];
  V::join_six_bits(nibbles, Bytes::load(in.upper), codes);
  const F32 results[] = {
      F32::zero(),
      F32::all(in.a[3]),
      F32::load_float16(in.halves),
      F32::load_bfloat16(in.halves),
      a + b,
      a - b,
      a * b,
      a / b,
      V::fma(a, b, c),
      V::max(a, b),
      V::abs(a),
      V::keep_below(a, in.end),
      V::select_range(a, in.begin, in.end, in.b[0]),
      V::times_power_of_two(a, F32::load(in.powers)),
      (wide + I32::all(-8)).to_float(),
      I32::widen_signed_bytes(signed_from).to_float(),
      wide.times(-254).to_float(),
      wide.low_nibbles().to_float(),
      wide.high_nibbles().to_float(),
      V::template low_nibble_less<8>(wide),
      V::template low_nibble_less<0>(wide),
      V::add_dot(I32::all(5), w.low_nibbles(), in.x).to_float(),
      V::add_dot(I32::zero(), w.high_nibbles(), in.x + 60).to_float(),
      V::add_dot_signed(V::signed_start(nibble_bias), signed_w, in.x).to_float(),
      V::add_dot_vector(I32::all(-3), w.high_nibbles(), in.x).to_float(),
      V::add_dot_vector_signed(I32::all(-3), signed_w, same).to_float(),
      V::add_dot(I32::zero(), codes[0], in.x).to_float(),
      V::add_dot(I32::all(2), codes[1], in.x + 4).to_float(),
      V::add_dot(I32::zero(), codes[2], in.x + 8).to_float(),
      V::add_dot(I32::zero(), codes[3], in.x + 12).to_float(),
  };
  static_assert(sizeof(results) / sizeof(F32) == kNumOperations);
  for (int i = 0; i < kNumOperations; ++i) results[i].store(out.floats[i]);
  out.total = a.total();
  out.largest = F32::load(in.numbers).largest();
  b.store_float16(out.halves);
  V::store_int8(F32::load(in.steps), out.bytes);
  out.byte_sum = V::sum_of_int8(in.x);
}

}  // namespace

}  // namespace nestling
