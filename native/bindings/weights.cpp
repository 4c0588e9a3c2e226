// Stored weights in Python: rows as float32, and the three packed forms.

#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>

#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <system_error>

#include "arrays.h"
#include "modules.h"
#include "nestling/encode.h"
#include "nestling/mapped_file.h"
#include "nestling/matrix.h"
#include "nestling/stored.h"
#include "nestling/thread_pool.h"

namespace nestling::bindings {

using nb::literals::operator""_a;

namespace {

// Checked views, so that nothing is read beyond the bytes that Python gave.
StoredMatrix stored_matrix(const AnyArray& data, const std::string& dtype, std::size_t row_size) {
  StoredMatrix stored;
  stored.type = stored_type_of(dtype);
  stored.data = reinterpret_cast<const std::byte*>(
      checked<std::uint8_t, 1>(data, "data: expected uint8 [num_bytes]"));
  stored.row_size = row_size;
  const std::size_t elements = block_elements(stored.type);
  if (row_size == 0 || row_size % elements != 0 || row_size > (std::size_t{1} << 44)) {
    throw nb::value_error(("row_size: expected a multiple of the " + std::to_string(elements) +
                           " elements of a block, got " + std::to_string(row_size))
                              .c_str());
  }
  if (data.shape(0) % stored.row_bytes() != 0) {
    throw nb::value_error(("data: expected whole rows of " + std::to_string(stored.row_bytes()) +
                           " bytes, got " + std::to_string(data.shape(0)) + " bytes")
                              .c_str());
  }
  stored.num_rows = data.shape(0) / stored.row_bytes();
  return stored;
}

nb::ndarray<nb::numpy, float> decode_rows(const AnyArray& data, const std::string& dtype,
                                          std::size_t row_size, const AnyArray& index) {
  const StoredMatrix stored = stored_matrix(data, dtype, row_size);
  const auto* rows = checked<std::int64_t, 1>(index, "index: expected int64 [num_rows]");
  const std::size_t count = index.shape(0);
  for (std::size_t i = 0; i < count; ++i) {
    if (rows[i] >= 0 && static_cast<std::size_t>(rows[i]) < stored.num_rows) continue;
    throw nb::index_error(("index[" + std::to_string(i) + "]: expected 0 to " +
                           std::to_string(stored.num_rows) + " (excluded), got " +
                           std::to_string(rows[i]))
                              .c_str());
  }
  NewArray<float, 2> out({count, row_size});
  {
    const nb::gil_scoped_release release;
    for (std::size_t i = 0; i < count; ++i) {
      decode_row(stored, static_cast<std::size_t>(rows[i]), out.data() + i * row_size);
    }
  }
  return std::move(out).release();
}

nb::ndarray<nb::numpy, std::uint8_t> encode_rows(const AnyArray& values, const std::string& dtype,
                                                 ThreadPool& pool) {
  const auto* data = checked<float, 2>(values, "values: expected float32 [num_rows, row_size]");
  const StoredType type = stored_type_of(dtype);
  const std::size_t num_rows = values.shape(0);
  const std::size_t row_size = values.shape(1);
  if (row_size % block_elements(type) != 0) {
    throw nb::value_error(("values: expected rows of a multiple of " +
                           std::to_string(block_elements(type)) + " elements, got " +
                           shape_text(values))
                              .c_str());
  }
  const std::size_t row_bytes = row_size / block_elements(type) * block_bytes(type);
  NewArray<std::uint8_t, 2> out({num_rows, row_bytes});
  auto* const bytes = reinterpret_cast<std::byte*>(out.data());
  {
    const nb::gil_scoped_release release;
    pool.parallel_for(num_rows, (std::size_t{1} << 16) / (row_size + 1) + 1,
                      [&](std::size_t begin, std::size_t end) {
                        for (std::size_t row = begin; row < end; ++row) {
                          encode_row(type, data + row * row_size, row_size,
                                     bytes + row * row_bytes);
                        }
                      });
  }
  return std::move(out).release();
}

// ((name, ggml_type, block_elements, block_bytes), ...)
nb::tuple all_stored_types() {
  nb::list types;
  for (const StoredTypeInfo& type : stored_types()) {
    types.append(nb::make_tuple(type.name, type.ggml_type, type.block_elements, type.block_bytes));
  }
  return nb::tuple(types);
}

constexpr const char* kFormatNames[] = {"float32", "float16", "bfloat16", "q4", "q6", "q8"};

Format format_of(const char* argument, const std::string& name) {
  for (std::size_t i = 0; i < std::size(kFormatNames); ++i) {
    if (name == kFormatNames[i]) return static_cast<Format>(i);
  }
  throw nb::value_error(
      (std::string(argument) +
       ": expected \"float32\", \"float16\", \"bfloat16\", \"q4\", \"q6\" or \"q8\", got \"" +
       name + "\"")
          .c_str());
}

template <class Packed>
std::unique_ptr<Packed> pack(const AnyArray& data, const std::string& dtype, std::size_t row_size,
                             ThreadPool& pool, const std::optional<std::string>& format) {
  const StoredMatrix stored = stored_matrix(data, dtype, row_size);
  const Format chosen = format ? format_of("target", *format) : Packed::natural_format(stored.type);
  const nb::gil_scoped_release release;
  return std::make_unique<Packed>(Packed::pack(stored, chosen, pool));
}

std::array<std::size_t, 2> shape_of(const Matrix& packed) {
  return {packed.out_features(), packed.in_features()};
}
std::array<std::size_t, 2> shape_of(const RowMatrix& packed) {
  return {packed.num_rows(), packed.in_features()};
}
std::array<std::size_t, 2> shape_of(const ColumnMatrix& packed) {
  return {packed.out_features(), packed.num_columns()};
}

template <class Packed>
nb::ndarray<nb::numpy, float> unpacked(const Packed& packed) {
  NewArray<float, 2> out(shape_of(packed));
  {
    const nb::gil_scoped_release release;
    unpack(packed, out.data());
  }
  return std::move(out).release();
}

// OSError in Python, as for any file that cannot be read.
void map_file(MappedFile* self, int descriptor) {
  try {
    new (self) MappedFile(descriptor);
  } catch (const std::system_error& error) {
    PyErr_SetObject(PyExc_OSError, nb::make_tuple(error.code().value(), error.what()).ptr());
    throw nb::python_error();
  }
}

template <class Packed>
std::unique_ptr<Packed> map(const std::shared_ptr<MappedFile>& file, const std::string& format,
                            std::size_t num_rows, std::size_t row_size, std::size_t values,
                            std::optional<std::size_t> scales, std::optional<std::size_t> mins) {
  return std::make_unique<Packed>(Packed::map(file, format_of("packed_format", format), num_rows,
                                              row_size, {values, scales, mins}));
}

// (values, scales, mins) as uint8 arrays without a copy, None for what the format does not have.
nb::tuple planes(const PackedWeights& packed, const nb::handle& owner) {
  const auto view = [&](const Plane& plane) -> nb::object {
    if (plane.num_bytes() == 0) return nb::none();
    return nb::cast(nb::ndarray<nb::numpy, const std::uint8_t, nb::ndim<1>>(
        plane.as<std::uint8_t>(), {plane.num_bytes()}, owner));
  };
  return nb::make_tuple(view(packed.values_plane()), view(packed.scales_plane()),
                        view(packed.mins_plane()));
}

constexpr const char* kFormatType =
    "typing.Literal['float32', 'float16', 'bfloat16', 'q4', 'q6', 'q8']";

template <class Packed>
void bind_packed(nb::module_& module, const std::string& name) {
  const std::string pack_signature =
      "def pack(data: numpy.typing.NDArray[numpy.uint8], dtype: str, row_size: int, "
      "pool: ThreadPool, target: " +
      std::string(kFormatType) + " | None = None) -> " + name;
  const std::string format_signature = std::string("def format(self) -> ") + kFormatType;
  nb::class_<Packed>(module, name.c_str())
      .def_static("pack", &pack<Packed>, "data"_a, "dtype"_a, "row_size"_a, "pool"_a,
                  "target"_a = nb::none(), nb::sig(pack_signature.c_str()))
      .def_static("map", &map<Packed>, "file"_a, "packed_format"_a, "num_rows"_a, "row_size"_a,
                  "values"_a, "scales"_a.none(), "mins"_a.none())
      .def(
          "planes",
          [](nb::handle_t<Packed> self) { return planes(nb::cast<const Packed&>(self), self); },
          nb::sig("def planes(self) -> tuple[numpy.typing.NDArray[numpy.uint8], "
                  "numpy.typing.NDArray[numpy.uint8] | None, "
                  "numpy.typing.NDArray[numpy.uint8] | None]"))
      .def("unpack", &unpacked<Packed>,
           nb::sig("def unpack(self) -> numpy.typing.NDArray[numpy.float32]"))
      .def_prop_ro(
          "format",
          [](const Packed& packed) {
            return kFormatNames[static_cast<std::size_t>(packed.format())];
          },
          nb::sig(format_signature.c_str()))
      .def_prop_ro("has_min", &Packed::has_min)
      .def_prop_ro(
          "shape",
          [](const Packed& packed) {
            const auto shape = shape_of(packed);
            return nb::make_tuple(shape[0], shape[1]);
          },
          nb::sig("def shape(self) -> tuple[int, int]"))
      .def_prop_ro("nbytes", &Packed::num_bytes);
}

}  // namespace

void bind_weights(nb::module_& module) {
  module.def("stored_types", &all_stored_types,
             nb::sig("def stored_types() -> tuple[tuple[str, int, int, int], ...]"));
  module.def("decode_rows", &decode_rows, "data"_a, "dtype"_a, "row_size"_a, "index"_a,
             nb::sig("def decode_rows(data: numpy.typing.NDArray[numpy.uint8], dtype: str, "
                     "row_size: int, index: numpy.typing.NDArray[numpy.int64]) -> "
                     "numpy.typing.NDArray[numpy.float32]"));
  module.def("encode_rows", &encode_rows, "values"_a, "dtype"_a, "pool"_a,
             nb::sig("def encode_rows(values: numpy.typing.NDArray[numpy.float32], dtype: str, "
                     "pool: ThreadPool) -> numpy.typing.NDArray[numpy.uint8]"));
  nb::class_<MappedFile>(module, "MappedFile")
      .def("__init__", &map_file, "descriptor"_a)
      .def_prop_ro("nbytes", &MappedFile::num_bytes);
  module.attr("LAYOUT_VERSION") = kLayoutVersion;
  bind_packed<Matrix>(module, "Matrix");
  bind_packed<RowMatrix>(module, "RowMatrix");
  bind_packed<ColumnMatrix>(module, "ColumnMatrix");
}

}  // namespace nestling::bindings
