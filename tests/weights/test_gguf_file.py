"""The GGUF reader: what it reads, and every way in which a header can lie."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from nestling.errors import ModelFileError
from nestling.weights.gguf_file import read_gguf

U32, BOOL, STRING, ARRAY = 4, 7, 8, 9


def _string(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


def _key(name: str, value_type: int, value: bytes) -> bytes:
    return _string(name.encode()) + struct.pack("<I", value_type) + value


def _tensor(name: str = "w", ne: tuple[int, ...] = (4,), ggml_type: int = 0, at: int = 0) -> bytes:
    dims = struct.pack(f"<I{len(ne)}Q", len(ne), *ne)
    return _string(name.encode()) + dims + struct.pack("<IQ", ggml_type, at)


def _file(
    folder: Path,
    keys: tuple[bytes, ...] = (),
    tensors: tuple[bytes, ...] = (),
    *,
    start: bytes = b"GGUF\x03\0\0\0",
    counts: tuple[int, int] | None = None,
    data: bytes = bytes(64),
    alignment: int = 32,
) -> Path:
    num_tensors, num_keys = counts or (len(tensors), len(keys))
    head = start + struct.pack("<QQ", num_tensors, num_keys) + b"".join(keys + tensors)
    path = folder / "x.gguf"
    path.write_bytes(head + bytes(-len(head) % alignment) + data)
    return path


def test_reads_what_the_library_writes(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(str(path), "gemma3n")
    writer.add_uint8("u8", 255)
    writer.add_int16("i16", -3)
    writer.add_uint64("u64", (1 << 64) - 1)
    writer.add_float64("f64", 0.1)
    writer.add_bool("flag", val=True)
    writer.add_array("flags", [True, False])
    writer.add_array("floats", [1.5, float("-inf")])
    writer.add_array("pieces", ["a", "", "\u2581\U0001f600"])
    writer.add_custom_alignment(64)
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    writer.add_tensor("m", matrix)
    writer.add_tensor("h", np.ones(7, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = read_gguf(path)
    assert file.metadata == {
        "general.architecture": "gemma3n",
        "u8": 255,
        "i16": -3,
        "u64": (1 << 64) - 1,
        "f64": 0.1,
        "flag": True,
        "flags": [True, False],
        "floats": [1.5, float("-inf")],
        "pieces": ["a", "", "\u2581\U0001f600"],
        "general.alignment": 64,
    }
    assert file.tensors["m"].shape == (3, 4)
    assert file.tensors["m"].data.tobytes() == matrix.tobytes()
    assert (file.tensors["h"].dtype, file.tensors["h"].shape) == ("F16", (7,))


def test_version_2_is_read(tmp_path: Path) -> None:
    key = _key("a", U32, b"\x05\0\0\0")
    path = _file(tmp_path, (key,), start=b"GGUF\x02\0\0\0", data=b"")
    assert read_gguf(path).metadata == {"a": 5}


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"GGML\x03\0\0\0", "begins with b'GGML'"),
        (b"GGUF\x01\0\0\0", "GGUF version 0x1"),
        (b"GGUF\x04\0\0\0", "GGUF version 0x4"),
        (b"GGUF\0\0\0\x03", "GGUF version 0x3000000, expected 2 or 3 .little-endian."),
    ],
)
def test_other_magic_and_versions_are_refused(tmp_path: Path, start: bytes, reason: str) -> None:
    with pytest.raises(ModelFileError, match=f"corrupt model file: {reason}"):
        read_gguf(_file(tmp_path, start=start))


@pytest.mark.parametrize("count", [1 << 60, (1 << 64) - 1, 1 << 20, 7])
def test_counts_beyond_the_file_are_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(ModelFileError, match=f"key/value count is {count}, expected at most"):
        read_gguf(_file(tmp_path, counts=(0, count)))
    with pytest.raises(ModelFileError, match=f"tensor count is {count}, expected at most"):
        read_gguf(_file(tmp_path, counts=(count, 0)))


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (_string(b"k", 1 << 63), "key 0 has a string of 9223372036854775808 bytes"),
        (_string(b"k", (1 << 64) - 8), "key 0 has a string of 18446744073709551608 bytes"),
        (_string(b"\xff\xfe") + bytes(12), "key 0 at byte 32 is not UTF-8"),
        (_key("k", STRING, _string(b"v", 1 << 63)), "value of key 'k' has a string of 9223372"),
        (_key("k", STRING, _string(b"\xc3(")), "value of key 'k' at byte .* is not UTF-8"),
        (_key("k", 13, bytes(8)), "value of key 'k' has type 13"),
        (_key("k", BOOL, b"\x02"), "value of key 'k' is 2, a bool is 0 or 1"),
        (_key("k", ARRAY, struct.pack("<IQ", ARRAY, 1)), "key 'k' is an array of arrays"),
        (_key("k", ARRAY, struct.pack("<IQ", U32, 1 << 62)), "length of array 'k' is 46116860"),
        (_key("k", ARRAY, struct.pack("<IQ", STRING, 50)), "length of array 'k' is 50"),
        (_key("k", ARRAY, struct.pack("<IQ", U32, 60)), "value of key 'k' at byte .* ends beyond"),
        (_key("k", ARRAY, struct.pack("<IQ", 99, 1)), "value of key 'k' has type 99"),
    ],
)
def test_lying_values_are_refused(tmp_path: Path, key: bytes, reason: str) -> None:
    with pytest.raises(ModelFileError, match=f"x.gguf: corrupt model file: {reason}"):
        read_gguf(_file(tmp_path, (key,)))


def test_a_key_that_appears_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"key 'a' appears twice"):
        read_gguf(_file(tmp_path, (_key("a", BOOL, b"\0"), _key("a", BOOL, b"\1"))))


@pytest.mark.parametrize("alignment", [0, 3, 4, 48, 1 << 17, 1 << 31])
def test_alignments_that_make_no_sense_are_refused(tmp_path: Path, alignment: int) -> None:
    key = _key("general.alignment", U32, struct.pack("<I", alignment))
    with pytest.raises(ModelFileError, match=f"general.alignment is {alignment}, expected a power"):
        read_gguf(_file(tmp_path, (key,), (_tensor(),)))


def test_an_alignment_that_is_no_integer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"general.alignment is True"):
        read_gguf(_file(tmp_path, (_key("general.alignment", BOOL, b"\1"),)))


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ((_tensor(ne=()),), "has 0 dimensions"),
        ((_tensor(ne=(1,) * 5),), "has 5 dimensions"),
        ((_tensor(ne=(1 << 32, 1 << 31)),), "shape .* overflows 2.63 elements"),
        ((_tensor(ne=(1 << 63,)),), "shape .* overflows 2.63 elements"),
        ((_tensor(ne=(0, 1 << 63)),), "shape .* overflows 2.63 elements"),
        ((_tensor(ne=(1 << 62,)),), "ends at byte 18446744073709551616 .* only 64"),
        ((_tensor(at=33),), "offset 33 is no multiple of the alignment 32"),
        ((_tensor(at=64),), "ends at byte 80 of the data, but the file has only 64"),
        ((_tensor(at=1 << 63),), "ends at byte 9223372036854775824"),
        ((_tensor(ne=(40,), ggml_type=8),), "rows of 40 elements are not whole Q8_0 blocks of 32"),
        ((_tensor(), _tensor(at=32)), "appears twice"),
        ((_tensor("v", ne=(9,)), _tensor(at=32)), "begins at byte 32, expected 64: overlaps"),
        ((_tensor("v"), _tensor()), "begins at byte 0, expected 32: overlaps"),
        ((_tensor(at=32),), "begins at byte 32, expected 0: leaves a gap"),
    ],
)
def test_lying_tensor_infos_are_refused(
    tmp_path: Path, tensors: tuple[bytes, ...], reason: str
) -> None:
    with pytest.raises(ModelFileError, match=f"tensor w: corrupt model file: {reason}"):
        read_gguf(_file(tmp_path, (), tensors))


def test_data_that_no_tensor_describes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"holds 64 bytes of data, its tensors fill 32"):
        read_gguf(_file(tmp_path, (), (_tensor(),)))
    with pytest.raises(ModelFileError, match=r"holds 64 bytes of data, its tensors fill 0"):
        read_gguf(_file(tmp_path))


def test_a_type_without_known_size_keeps_its_place(tmp_path: Path) -> None:
    assert read_gguf(_file(tmp_path, (), (_tensor(ggml_type=4),))).tensors["w"].dtype == "type 4"
