// Decodes and packs hostile bytes of odd and of exact sizes under the sanitizers: each stored
// matrix ends where its memory ends, so that a read beyond it is seen.

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <vector>

#include "check.h"
#include "nestling/buffer.h"
#include "nestling/matrix.h"
#include "nestling/stored.h"
#include "nestling/thread_pool.h"
#include "numbers.h"

namespace nestling {

namespace {

using testing::throws;

constexpr Format kFormats[] = {Format::kFloat32, Format::kFloat16, Format::kBfloat16, Format::kQ4,
                               Format::kQ8};
constexpr StoredType kLastType = StoredType::kIQ4_XS;

// Exactly the bytes of the matrix, at an odd address: what the heap gives, from its second byte on.
struct Bytes {
  Bytes(StoredType type, std::size_t num_rows, std::size_t row_size, unsigned seed) {
    stored = {type, nullptr, num_rows, row_size};
    memory.resize(num_rows * stored.row_bytes() + 1);
    memory.shrink_to_fit();
    std::mt19937 generator(seed);
    for (std::byte& byte : memory) byte = static_cast<std::byte>(generator());
    stored.data = memory.data() + 1;
  }

  std::vector<std::byte> memory;
  StoredMatrix stored;
};

template <class Packed>
void pack_and_unpack(const StoredMatrix& stored, ThreadPool& pool) {
  std::vector<float> values(stored.num_rows * stored.row_size);
  for (const Format format : kFormats) {
    const Packed packed = Packed::pack(stored, format, pool);
    CHECK(packed.num_bytes() > 0);
    unpack(packed, values.data());
    if (stored.type != StoredType::kF32 || format != Format::kFloat32) continue;
    CHECK(std::memcmp(values.data(), stored.data, values.size() * sizeof(float)) == 0);
  }
}

void test_random_bytes_of_every_type_and_odd_shapes() {
  ThreadPool pool(3);
  for (int type = 0; type <= static_cast<int>(kLastType); ++type) {
    const auto stored_type = static_cast<StoredType>(type);
    const std::size_t block = block_elements(stored_type);
    for (const std::size_t num_rows : {1u, 17u, 33u, 130u}) {
      for (const std::size_t num_blocks : {1u, 3u, 9u}) {
        const Bytes bytes(stored_type, num_rows, block * num_blocks, 7);
        std::vector<float> row(bytes.stored.row_size);
        decode_row(bytes.stored, num_rows - 1, row.data());
        pack_and_unpack<Matrix>(bytes.stored, pool);
        pack_and_unpack<RowMatrix>(bytes.stored, pool);
        pack_and_unpack<ColumnMatrix>(bytes.stored, pool);
      }
    }
  }
}

// Codes, factors and scales of any bits, not a number among them.
void test_six_bits_in_tiles_have_the_stored_values(StoredType type) {
  ThreadPool pool(3);
  for (const std::size_t num_rows : {1u, 16u, 17u, 130u}) {
    for (const std::size_t num_blocks : {1u, 3u, 9u}) {
      const Bytes bytes(type, num_rows, 256 * num_blocks, 11);
      const StoredMatrix& stored = bytes.stored;
      const Matrix packed = Matrix::pack(stored, Format::kQ6, pool);
      std::vector<float> values(num_rows * stored.row_size);
      unpack(packed, values.data());
      std::vector<float> row(stored.row_size);
      for (std::size_t i = 0; i < num_rows; ++i) {
        decode_row(stored, i, row.data());
        for (std::size_t k = 0; k < row.size(); ++k) {
          CHECK(same_bits(values[i * row.size() + k], row[k]));
        }
      }
    }
  }
}

void test_q6_is_refused_elsewhere() {
  ThreadPool pool(1);
  const Bytes six(StoredType::kQ6_K, 2, 256, 12);
  const Bytes others(StoredType::kQ4_K, 2, 256, 13);
  CHECK(throws<std::invalid_argument>([&] { Matrix::pack(others.stored, Format::kQ6, pool); }));
  CHECK(throws<std::invalid_argument>([&] { RowMatrix::pack(six.stored, Format::kQ6, pool); }));
  CHECK(throws<std::invalid_argument>([&] { ColumnMatrix::pack(six.stored, Format::kQ6, pool); }));
}

void test_threads_share_a_matrix_without_races() {
  ThreadPool pool(4);
  const Bytes bytes(StoredType::kQ4_0, 1100, 2048, 8);
  pack_and_unpack<Matrix>(bytes.stored, pool);
  pack_and_unpack<RowMatrix>(bytes.stored, pool);
  pack_and_unpack<ColumnMatrix>(bytes.stored, pool);
}

void test_absurd_shapes_are_refused() {
  ThreadPool pool(1);
  const Bytes bytes(StoredType::kQ4_0, 1, 32, 9);
  const std::size_t huge = std::numeric_limits<std::size_t>::max() / 64;
  for (const auto& [num_rows, row_size] : {std::pair<std::size_t, std::size_t>{0, 32},
                                           {1, 0},
                                           {1, 48},
                                           {huge, 32},
                                           {1, huge / 32 * 32},
                                           {huge, huge / 32 * 32}}) {
    const StoredMatrix stored{StoredType::kQ4_0, bytes.stored.data, num_rows, row_size};
    CHECK(throws<std::invalid_argument>([&] { Matrix::pack(stored, Format::kQ4, pool); }));
    CHECK(throws<std::invalid_argument>([&] { RowMatrix::pack(stored, Format::kQ4, pool); }));
    CHECK(throws<std::invalid_argument>([&] { ColumnMatrix::pack(stored, Format::kQ4, pool); }));
  }
  const StoredMatrix none{StoredType::kF32, nullptr, 1, 1};
  CHECK(throws<std::invalid_argument>([&] { Matrix::pack(none, Format::kFloat32, pool); }));
  CHECK(throws<std::invalid_argument>([] { stored_type_of("Q4"); }));
  CHECK(stored_type_of("IQ4_XS") == kLastType);
}

void test_buffers_are_zero_aligned_and_freed() {
  for (const std::size_t size : {1ul, 63ul, 4097ul, (2ul << 20) - 1, 2ul << 20, (6ul << 20) + 5}) {
    Buffer buffer(size);
    CHECK(buffer.num_bytes() == size);
    CHECK(reinterpret_cast<std::uintptr_t>(buffer.data()) % 64 == 0);
    for (std::size_t i = 0; i < size; i += 511) CHECK(buffer.data()[i] == std::byte{0});
    buffer.data()[size - 1] = std::byte{1};
    const Buffer moved = std::move(buffer);
    CHECK(moved.as<std::byte>()[size - 1] == std::byte{1});
  }
  CHECK(Buffer(0).data() == nullptr);
  CHECK(throws<std::bad_alloc>([] { Buffer(std::numeric_limits<std::size_t>::max()); }));
}

}  // namespace

void run_all() {
  test_random_bytes_of_every_type_and_odd_shapes();
  test_six_bits_in_tiles_have_the_stored_values(StoredType::kQ3_K);
  test_six_bits_in_tiles_have_the_stored_values(StoredType::kQ6_K);
  test_q6_is_refused_elsewhere();
  test_threads_share_a_matrix_without_races();
  test_absurd_shapes_are_refused();
  test_buffers_are_zero_aligned_and_freed();
}

}  // namespace nestling

int main() {
  nestling::run_all();
  return nestling::testing::num_failures == 0 ? 0 : 1;
}
