"""Packed weights in a file are the same bits as in memory, or the file is not used."""

import errno
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestling.native.gemma3n import FIRST_INT8_POW2_LAYER
from nestling.native.system import ThreadPool
from nestling.native.weights import (
    LAYOUT_VERSION,
    ColumnMatrix,
    MappedFile,
    Matrix,
    RowMatrix,
)
from nestling.weights import packed_file
from nestling.weights.mapped_file import SourceFile
from nestling.weights.packed_file import (
    HUGE_PAGE,
    Identity,
    PackedFileError,
    open_packed,
    read_sources,
    write_packed,
)

KINDS: tuple[Any, ...] = (Matrix, RowMatrix, ColumnMatrix)
FORMATS = ("float32", "float16", "bfloat16", "q4", "q8")
"""What floats become; "q6" is made of Q6_K alone."""
POOL = ThreadPool(1)
IDENTITY = Identity((SourceFile("/m.gguf", 1, 2, 3),), "auto", True)


def values(rows: int = 37, row_size: int = 64, seed: int = 0) -> np.ndarray[Any, Any]:
    """Bytes of a small F32 matrix."""
    found = np.random.default_rng(seed).standard_normal((rows, row_size), np.float32)
    return found.reshape(-1).view(np.uint8)


def pack(kind: Any, target: str, rows: int = 37, row_size: int = 64) -> Any:
    return kind.pack(values(rows, row_size), "F32", row_size, POOL, target)


def pack_with_minima(kind: Any) -> Any:
    """A Q4_1 block is f16 scale, f16 minimum, 16 bytes."""
    blocks = np.random.default_rng(1).integers(0, 256, (64, 2, 20), np.uint8)
    blocks[..., :4] = np.array([0.5, -3], "<f2").view(np.uint8)
    return kind.pack(blocks.reshape(-1), "Q4_1", 64, POOL)


def pack_six_bits() -> Any:
    """A Q6_K block is 208 bytes of codes and factors, f16 scale."""
    blocks = np.random.default_rng(2).integers(0, 256, (17, 2, 210), np.uint8)
    blocks[..., 208:] = np.array([0.25], "<f2").view(np.uint8)
    return Matrix.pack(blocks.reshape(-1), "Q6_K", 512, POOL)


def samples() -> dict[str, Any]:
    """Every arrangement in every format, and with minima."""
    found = {f"{kind.__name__} {f}": pack(kind, f) for kind in KINDS for f in FORMATS}
    found["Matrix q6"] = pack_six_bits()
    return found | {f"{kind.__name__} mins": pack_with_minima(kind) for kind in KINDS}


def plane_bytes(packed: Any) -> list[bytes]:
    return [b"" if plane is None else plane.tobytes() for plane in packed.planes()]


def write(path: Path, matrices: dict[str, Any], identity: Identity = IDENTITY) -> Path:
    with path.open("wb", buffering=0) as file:
        write_packed(file.fileno(), identity, matrices.items())
    return path


def expected_of(matrices: dict[str, Any]) -> dict[str, Any]:
    return {name: (type(packed), packed.shape) for name, packed in matrices.items()}


def test_every_arrangement_and_format_comes_back_bit_for_bit(tmp_path: Path) -> None:
    matrices = samples()
    path = write(tmp_path / "a", matrices)
    found = open_packed(path, IDENTITY, expected_of(matrices))
    path.unlink()  # a map keeps the file
    for name, packed in matrices.items():
        assert plane_bytes(found[name]) == plane_bytes(packed), name
        assert (found[name].format, found[name].has_min) == (packed.format, packed.has_min)
        np.testing.assert_array_equal(found[name].unpack(), packed.unpack(), err_msg=name)


def test_planes_larger_than_one_write_come_back(tmp_path: Path) -> None:
    matrices = {str(i): pack(Matrix, "float32", 512 * (i + 1) + 3, 2048) for i in range(4)}
    assert sum(packed.nbytes for packed in matrices.values()) > 2 * packed_file._WRITE_BYTES
    path = write(tmp_path / "a", matrices)
    assert path.stat().st_size % HUGE_PAGE == 0
    found = open_packed(path, IDENTITY, expected_of(matrices))
    for name, packed in matrices.items():
        assert plane_bytes(found[name]) == plane_bytes(packed)


def test_sources_are_read_back(tmp_path: Path) -> None:
    assert read_sources(write(tmp_path / "a", samples())) == IDENTITY.sources


CHANGES: dict[str, Callable[[Identity], Identity]] = {
    "the model file has changed": lambda i: Identity(
        (SourceFile("/m.gguf", 1, 2, 4),), i.dtype, i.sparse_feed_forward
    ),
    "another dtype": lambda i: Identity(i.sources, "q8", i.sparse_feed_forward),
    "another sparse_feed_forward": lambda i: Identity(
        i.sources, i.dtype, not i.sparse_feed_forward
    ),
    "another layout_version": lambda i: Identity(
        i.sources, i.dtype, i.sparse_feed_forward, i.layout_version + 1
    ),
}


@pytest.mark.parametrize("reason", CHANGES)
def test_another_identity_is_stale(tmp_path: Path, reason: str) -> None:
    matrices = {"a": pack(Matrix, "q4")}
    path = write(tmp_path / "a", matrices)
    with pytest.raises(PackedFileError, match=reason):
        open_packed(path, CHANGES[reason](IDENTITY), expected_of(matrices))


@pytest.mark.parametrize(
    "expected",
    [
        {},
        {"a": (Matrix, (37, 64)), "b": (Matrix, (37, 64))},
        {"a": (RowMatrix, (37, 64))},
        {"a": (Matrix, (64, 37))},
    ],
)
def test_other_matrices_than_the_model_has_are_refused(
    tmp_path: Path, expected: dict[str, Any]
) -> None:
    path = write(tmp_path / "a", {"a": pack(Matrix, "q4")})
    with pytest.raises(PackedFileError, match="other matrices"):
        open_packed(path, IDENTITY, expected)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    matrices = {"a": pack(Matrix, "q4"), "b": pack_with_minima(RowMatrix)}
    path = write(tmp_path_factory.mktemp("good") / "a", matrices)
    return path, expected_of(matrices)


HEADER_BYTES = 400
"""Within the header of `good`."""


@given(at=st.integers(0, HEADER_BYTES), flip=st.integers(1, 255))
@settings(max_examples=200)
def test_no_damaged_byte_of_the_header_is_overlooked(
    good: tuple[Path, dict[str, Any]], tmp_path: Path, at: int, flip: int
) -> None:
    raw = bytearray(good[0].read_bytes())
    assert 32 + int.from_bytes(raw[24:32], "little") > HEADER_BYTES
    raw[at] ^= flip
    (tmp_path / "a").write_bytes(raw)
    with pytest.raises(PackedFileError):
        open_packed(tmp_path / "a", IDENTITY, good[1])


@pytest.mark.parametrize("size", [0, 7, 31, 32, 300, HUGE_PAGE, HUGE_PAGE + 64, 2 * HUGE_PAGE - 1])
def test_a_truncated_file_is_refused(
    good: tuple[Path, dict[str, Any]], tmp_path: Path, size: int
) -> None:
    assert good[0].stat().st_size == 2 * HUGE_PAGE
    (tmp_path / "a").write_bytes(good[0].read_bytes()[:size])
    with pytest.raises(PackedFileError):
        open_packed(tmp_path / "a", IDENTITY, good[1])


@given(raw=st.binary(max_size=200))
@settings(max_examples=50)
def test_any_other_file_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "a").write_bytes(packed_file.MAGIC + raw)
    with pytest.raises(PackedFileError):
        read_sources(tmp_path / "a")


PLACES = st.one_of(st.none(), st.integers(-(2**70), 2**70), st.integers(0, 3 * HUGE_PAGE))


@given(planes=st.tuples(PLACES, PLACES, PLACES), num_bytes=st.integers(0, 10_000))
@settings(max_examples=200)
def test_places_are_checked_even_under_a_good_digest(
    good: tuple[Path, dict[str, Any]], tmp_path: Path, planes: tuple[Any, ...], num_bytes: int
) -> None:
    tensors = {
        "a": {
            "kind": "Matrix",
            "format": "q4",
            "shape": [37, 64],
            "planes": planes,
            "num_bytes": num_bytes,
        }
    }
    content = {
        "identity": msgspec.to_builtins(IDENTITY),
        "file_bytes": 2 * HUGE_PAGE,
        "tensors": tensors,
    }
    header = json.dumps(content).encode()
    page = packed_file.MAGIC + packed_file._digest(header) + len(header).to_bytes(8, "little")
    raw = (page + header).ljust(HUGE_PAGE, b"\0") + good[0].read_bytes()[HUGE_PAGE:]
    (tmp_path / "a").write_bytes(raw)
    packed = pack(Matrix, "q4")
    is_good = (
        num_bytes == packed.nbytes
        and planes[2] is None
        and all(
            place is not None and place % 64 == 0 and HUGE_PAGE <= place <= 2 * HUGE_PAGE - 4096
            for place in planes[:2]
        )
    )
    if is_good:
        return
    with pytest.raises(PackedFileError):
        open_packed(tmp_path / "a", IDENTITY, {"a": (Matrix, (37, 64))})


@pytest.mark.parametrize("kind", KINDS)
def test_the_core_refuses_planes_that_do_not_fit(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(32768))
    with path.open("rb") as file:
        mapped = MappedFile(file.fileno())
    packed = kind.map(mapped, "q8", 32, 32, values=0, scales=16384, mins=None)
    assert packed.unpack().sum() == 0
    for arguments, reason in (
        (("q8", 32, 32, 1, 16384, None), "multiple of 64"),
        (("q8", 32, 32, 32768 - 64, 0, None), "within the file's 32768"),
        (("q8", 32, 32, 0, 32768, None), "within the file's 32768"),
        (("q8", 32, 32, 0, None, None), "scales: expected with"),
        (("float32", 16, 16, 0, 64, None), "scales: expected with"),
        (("float32", 16, 16, 0, None, 64), "mins: expected with"),
        (("float32", 128, 128, 0, None, None), "within the file's 32768"),
        (("float32", 0, 16, 0, None, None), "empty nor absurd"),
        (("float32", 2**60, 2**60, 0, None, None), "empty nor absurd"),
        (("q3", 16, 16, 0, None, None), "packed_format: expected"),
        (("q6", 16, 64, 0, 2048, None), r"whole blocks of 256|another than q6"),
        (("q6", 512, 256, 0, 2048, None), r"within the file's 32768|another than q6"),
    ):
        with pytest.raises(ValueError, match=reason):
            kind.map(mapped, *arguments)


def test_what_cannot_be_mapped_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with (tmp_path / "empty").open("rb") as file, pytest.raises(ValueError, match="not empty"):
        MappedFile(file.fileno())
    with pytest.raises(OSError, match="descriptor") as raised:
        MappedFile(-1)
    assert raised.value.errno == errno.EBADF


LAYOUT_DIGEST = "5b4b5871b1f762bf"
"""Of the bytes that `LAYOUT_VERSION` stands for."""


def test_other_bytes_need_another_layout_version() -> None:
    """If this fails, packing gives other bytes or matrices: raise kLayoutVersion, renew these."""
    digest = hashlib.sha256()
    for name, packed in samples().items():
        digest.update(name.encode())
        for plane in plane_bytes(packed):
            digest.update(plane)
    assert (LAYOUT_VERSION, FIRST_INT8_POW2_LAYER, digest.hexdigest()[:16]) == (
        6,
        12,
        LAYOUT_DIGEST,
    )
