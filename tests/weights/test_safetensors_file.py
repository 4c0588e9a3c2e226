"""The safetensors reader: what it reads, and every way in which a header can lie."""

import json
from pathlib import Path

import numpy as np
import pytest

from nestling.errors import ModelFileError
from nestling.weights.safetensors_file import read_safetensors, read_safetensors_folder
from tests.weights.tiny_files import safetensors_bytes

A = ("F32", (2, 3), np.arange(6, dtype="<f4").tobytes())
B = ("F16", (4,), np.arange(4, dtype="<f2").tobytes())


def _file(
    folder: Path, header: object, data: bytes = b"", *, header_len: int | None = None
) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if header_len is None else header_len
    path = folder / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + text + data)
    return path


def _entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> object:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_reads_places_types_and_shapes(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes({"a": A, "b": B}))
    tensors = read_safetensors(path)
    assert {n: (t.dtype, t.shape, t.data.tobytes()) for n, t in tensors.items()} == {"a": A, "b": B}
    assert not tensors["a"].data.flags.writeable


def test_unknown_types_keep_their_place(tmp_path: Path) -> None:
    path = _file(tmp_path, {"x": _entry("Q99", [7], [0, 4]), "y": _entry(offsets=[4, 8])}, bytes(8))
    assert read_safetensors(path)["x"].dtype == "Q99"


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "is a JSON list, expected an object"),
        (b'{"a": 1, "a": 2}', "the key 'a' stands twice in one object"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'\xff{"a": 1}', "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        ({"a": 3}, "tensor a: corrupt model file: its header entry is no object"),
        ({"a": _entry(dtype=None)}, "tensor a: corrupt model file: dtype is None"),
        ({"a": _entry(shape=3)}, "tensor a: corrupt model file: shape is not a list"),
        ({"a": _entry(shape=[True])}, "shape is not a list of at most 8 counts"),
        ({"a": _entry(shape=[1.0])}, "shape is not a list of at most 8 counts"),
        ({"a": _entry(shape=[-1])}, "shape is not a list of at most 8 counts"),
        ({"a": _entry(shape=[1] * 9)}, "shape is not a list of at most 8 counts"),
        ({"a": _entry(shape=[1 << 63])}, "counts below 2.63"),
        ({"a": _entry(shape=[1 << 62, 1 << 62])}, "needs 8.507059173023462e.37 bytes"),
        ({"a": _entry(offsets=[0])}, r"data_offsets are \[0\]"),
        ({"a": _entry(offsets=[4, 0])}, r"data_offsets are \[4, 0\]"),
        ({"a": _entry(shape=[2])}, r"F32 of shape \[2\] needs 8 bytes, data_offsets hold 4"),
        ({"a": _entry("BF16")}, r"BF16 of shape \[1\] needs 2 bytes"),
        ({"a": _entry(), "b": _entry()}, "tensor b: .* begins at byte 0, expected 4: overlaps"),
        ({"a": _entry(), "b": _entry(offsets=[8, 12])}, "tensor b: .*expected 4: leaves a gap"),
        ({"a": _entry(offsets=[20, 24])}, "tensor a: .*ends at byte 24 .* only 16"),
        ({"a": _entry()}, "holds 16 bytes of data, its header describes 4"),
    ],
)
def test_a_lying_header_is_refused(tmp_path: Path, header: object, reason: str) -> None:
    path = _file(tmp_path, header, bytes(16))
    with pytest.raises(ModelFileError, match=reason) as info:
        read_safetensors(path)
    assert info.match("model.safetensors: .*corrupt model file: ")


@pytest.mark.parametrize("header_len", [1 << 63, (1 << 64) - 1, 100, 1 << 30])
def test_a_header_longer_than_the_file_is_refused(tmp_path: Path, header_len: int) -> None:
    path = _file(tmp_path, {}, header_len=header_len)
    with pytest.raises(ModelFileError, match=f"its header claims {header_len} bytes"):
        read_safetensors(path)


def test_an_empty_file_and_no_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(ModelFileError, match=r"cannot be read: No such file"):
        read_safetensors(path)
    path.touch()
    with pytest.raises(ModelFileError, match=r"has 0 bytes"):
        read_safetensors(path)
    with pytest.raises(ModelFileError, match=r"expected a regular file"):
        read_safetensors(tmp_path)


def _shards(folder: Path, weight_map: object) -> None:
    (folder / "one.safetensors").write_bytes(safetensors_bytes({"a": A}))
    (folder / "two.safetensors").write_bytes(safetensors_bytes({"b": B}))
    text = json.dumps({"weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(text)


def test_shards_are_read_through_the_index(tmp_path: Path) -> None:
    _shards(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    assert sorted(read_safetensors_folder(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize(
    ("weight_map", "reason"),
    [
        ({"a": "two.safetensors", "b": "two.safetensors"}, "tensor a: .*places it in two"),
        ({"a": "one.safetensors", "c": "two.safetensors"}, "tensor c: .*no shard holds it"),
        ({"a": "three.safetensors"}, "three.safetensors: is missing; model.safetensors.index"),
        ({"a": "../one.safetensors"}, "expected the name of a .safetensors file in this folder"),
        ({"a": "/etc/one.safetensors"}, "expected the name of a .safetensors file"),
        ({"a": "sub\\one.safetensors"}, "expected the name of a .safetensors file"),
        ({"a": "one.safetensors\0"}, "expected the name of a .safetensors file"),
        ({"a": "pytorch_model.bin"}, "expected the name of a .safetensors file"),
        ({"a": 1}, "places it in 1"),
        ({}, "has no weight_map"),
        ([], "has no weight_map"),
    ],
)
def test_a_lying_index_is_refused(tmp_path: Path, weight_map: object, reason: str) -> None:
    _shards(tmp_path, weight_map)
    with pytest.raises(ModelFileError, match=reason):
        read_safetensors_folder(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    _shards(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    (tmp_path / "two.safetensors").write_bytes(safetensors_bytes({"b": B, "a": A}))
    with pytest.raises(ModelFileError, match=r"tensor a: .*one.safetensors and two.safetensors"):
        read_safetensors_folder(tmp_path)


def test_shards_without_index_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(safetensors_bytes({"a": A}))
    with pytest.raises(ModelFileError, match=r"holds model-00001-of-00002.safetensors but neither"):
        read_safetensors_folder(tmp_path)
