"""Truncated and damaged model files: equal tensors or a ModelFileError, nothing else, and quickly.

Address space is limited while a damaged file is open, so that a claim in a header that is believed
shows as a MemoryError, which these tests do not forgive.
"""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nestling.errors import ModelFileError
from nestling.model.names import required_tensors
from nestling.weights.checkpoint import Checkpoint, load_checkpoint
from nestling.weights.gguf_file import read_gguf
from nestling.weights.safetensors_file import read_safetensors
from tests.weights.tiny_files import (
    Weights,
    gguf_tensors,
    random_weights,
    safetensors_bytes,
    write_folder,
    write_gguf,
)

HEADROOM_BYTES = 512 << 20
WEIGHTS = random_weights()
FORMS = ("safetensors", "gguf")


class Specimen:
    """A valid model of one form, whose main file can be overwritten with damaged bytes."""

    def __init__(self, folder: Path, form: str) -> None:
        if form == "gguf":
            self.path = self.file = write_gguf(folder / "m.gguf", WEIGHTS, "Q8_0")
            self.header_size = gguf.GGUFReader(self.file).data_offset
        else:
            self.path = write_folder(folder / "m", WEIGHTS, "F16")
            self.file = self.path / "model.safetensors"
            self.header_size = 8 + int.from_bytes(self.file.read_bytes()[:8], "little")
        self.valid = self.file.read_bytes()
        self.tensors = _all_tensors(load_checkpoint(self.path))

    def load(self, damaged: bytes) -> Checkpoint:
        self.file.unlink()  # an older map keeps the older file
        self.file.write_bytes(damaged)
        with limited_address_space():
            return load_checkpoint(self.path)

    def load_or_refuse(self, damaged: bytes) -> tuple[Checkpoint, Weights] | None:
        """The checkpoint and all that is in it; None if it was refused by an error naming it."""
        try:
            checkpoint = self.load(damaged)
            return checkpoint, _all_tensors(checkpoint)
        except ModelFileError as error:
            if not error.path.startswith(str(self.path.parent)):
                raise
            return None


@contextmanager
def limited_address_space() -> Iterator[None]:
    """At most HEADROOM_BYTES more than the process has mapped now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + HEADROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="module")
def specimens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Specimen]:
    return {form: Specimen(tmp_path_factory.mktemp(form), form) for form in FORMS}


def _all_tensors(checkpoint: Checkpoint) -> Weights:
    return {name: checkpoint.tensors.tensor(name) for name in checkpoint.tensors.names()}


@pytest.mark.parametrize("form", FORMS)
def test_every_cut_at_4_kib_is_refused(specimens: dict[str, Specimen], form: str) -> None:
    specimen = specimens[form]
    for size in {*range(0, len(specimen.valid), 4096), len(specimen.valid) - 1}:
        with pytest.raises(ModelFileError, match=r"corrupt model file|is missing"):
            specimen.load(specimen.valid[:size])


def _small_gguf(path: Path) -> int:
    """A file with one key of each kind and two tensors; returns where its tensors end."""
    writer = gguf.GGUFWriter(str(path), "gemma3n")
    writer.add_uint32("a", 1)
    writer.add_array("b", [1.0, 2.0])
    writer.add_array("c", ["x", "yz"])
    writer.add_array("d", [True])
    tensors = gguf_tensors(WEIGHTS)
    for name in ("output_norm.weight", "blk.0.altup_router.weight"):
        writer.add_tensor(name, tensors[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.stat().st_size


def test_every_cut_of_a_small_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    end = _small_gguf(path)
    valid = path.read_bytes()
    assert len(read_gguf(path).tensors) == 2
    header_size = gguf.GGUFReader(path).data_offset
    for size in {*range(header_size), *range(header_size, end, 31), end - 1}:
        path.write_bytes(valid[:size])
        with pytest.raises(ModelFileError, match=r"corrupt model file: "):
            read_gguf(path)


def test_every_cut_of_a_small_safetensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {"a": ("U8", (9,), bytes(9)), "b": ("F16", (2, 3), bytes(12))}
    valid = safetensors_bytes(tensors)
    for size in range(len(valid)):
        path.write_bytes(valid[:size])
        with pytest.raises(ModelFileError, match=r"corrupt model file: "):
            read_safetensors(path)
    path.write_bytes(valid)
    assert sorted(read_safetensors(path)) == ["a", "b"]


# (where, modulo the size of the header or the data; the bits to flip; whether in the header)
flips = st.lists(
    st.tuples(
        st.integers(0, 1 << 30), st.integers(1, 255), st.sampled_from([True, True, True, False])
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=400)
@given(flips=flips)
def test_flipped_bytes_never_surprise(
    specimens: dict[str, Specimen], form: str, flips: list[tuple[int, int, bool]]
) -> None:
    specimen = specimens[form]
    damaged = bytearray(specimen.valid)
    for where, bits, is_in_header in flips:
        if is_in_header:
            damaged[where % specimen.header_size] ^= bits
        else:
            size = len(damaged) - specimen.header_size
            damaged[specimen.header_size + where % size] ^= bits
    loaded = specimen.load_or_refuse(bytes(damaged))
    if loaded is None:
        return
    checkpoint, actual = loaded
    assert {name: v.shape for name, v in actual.items()} == required_tensors(checkpoint.config)
    if len(flips) == 1 and flips[0][2]:
        for name, values in actual.items():
            np.testing.assert_array_equal(values, specimen.tensors[name], err_msg=name)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=150)
@given(at=st.integers(0, 1 << 30), junk=st.binary(min_size=1, max_size=24))
@example(at=0, junk=b"GGUF\x03\0\0\0" + b"\xff" * 16)
@example(at=0, junk=b"\xff" * 8)
@example(at=8, junk=b"\xff" * 16)
@example(at=16, junk=(1 << 60).to_bytes(8, "little"))
def test_overwritten_headers_never_surprise(
    specimens: dict[str, Specimen], form: str, at: int, junk: bytes
) -> None:
    specimen = specimens[form]
    begin = at % specimen.header_size
    damaged = specimen.valid[:begin] + junk + specimen.valid[begin + len(junk) :]
    loaded = specimen.load_or_refuse(damaged)
    assert loaded is None or loaded[1].keys() == specimen.tensors.keys()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=100)
@given(data=st.data())
def test_any_value_in_config_json_never_surprises(
    specimens: dict[str, Specimen], data: st.DataObject
) -> None:
    specimen = specimens["safetensors"]
    path = specimen.path / "config.json"
    valid = path.read_text()
    config = json.loads(valid)
    config[data.draw(st.sampled_from(sorted(config)))] = data.draw(json_values)
    path.write_text(json.dumps(config))
    try:
        loaded = specimen.load_or_refuse(specimen.valid)
    finally:
        path.write_text(valid)
    assert loaded is None or set(loaded[1]) == set(required_tensors(loaded[0].config))
