"""Models that differ anywhere it matters have other digests; the same ones have the same."""

import shutil
from pathlib import Path

import pytest

from nestling.weights.fingerprint import sampled_digest

SIZE = 1_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "model.safetensors").write_bytes(bytes(range(250)) * (SIZE // 250))
    (path / "config.json").write_text("{}")
    return path


def test_a_copy_elsewhere_is_the_same(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert sampled_digest(copy) == sampled_digest(folder)
    renamed = shutil.copy(folder / "model.safetensors", tmp_path / "x.gguf")
    assert sampled_digest(Path(renamed)) == sampled_digest(folder / "model.safetensors")


@pytest.mark.parametrize("at", [0, SIZE // 63 + 2000, SIZE - 1])
def test_other_weights_of_the_same_size(folder: Path, at: int) -> None:
    before = sampled_digest(folder)
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(at)
        file.write(b"\xff")
    assert sampled_digest(folder) != before


def test_other_files(folder: Path) -> None:
    before = sampled_digest(folder)
    (folder / "config.json").write_text("[]")
    changed = sampled_digest(folder)
    (folder / "tokenizer.json").write_text("")
    assert len({before, changed, sampled_digest(folder)}) == 3


def test_every_byte_of_a_small_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "small"
    seen = set()
    for at in range(0, 8192, 97):
        content = bytearray(8192)
        content[at] = 1
        path.write_bytes(content)
        seen.add(sampled_digest(path))
    assert len(seen) == len(range(0, 8192, 97))
