"""One model, stored as a folder and as GGUF, answers with the same bits."""

from functools import partial
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from nestling.weights.checkpoint import load_checkpoint
from tests.model.native_decoder import Native, NativeDecoder
from tests.model.session import one_shot
from tests.weights.tiny_files import VOCAB, random_weights, write_folder, write_gguf

NUM_TOKENS = 20  # longer than the window of 8


def _logits(path: Path) -> NDArray[np.float32]:
    """[NUM_TOKENS, vocab_size], one prompt in one pass; ids beyond the per-layer table among it."""
    checkpoint = load_checkpoint(path)
    decoder = NativeDecoder(checkpoint.config, checkpoint.tensors, Native(dtype="auto"))
    return one_shot(decoder, [row * 31 % VOCAB for row in range(NUM_TOKENS)])


def test_folder_and_gguf_give_the_same_logits(tmp_path: Path) -> None:
    weights = random_weights(5)
    folder = _logits(write_folder(tmp_path / "m", weights))
    assert np.ptp(folder, axis=1).min() > 0.1
    np.testing.assert_array_equal(_logits(write_gguf(tmp_path / "m.gguf", weights)), folder)


def test_a_head_of_its_own_gives_the_logits(tmp_path: Path) -> None:
    """A copy of the embedding as head gives the tied model's bits; another head its own."""
    weights = random_weights(5)
    tied = _logits(write_folder(tmp_path / "m", weights))
    head = weights["embed_tokens.weight"]
    for name, other in {"copy": head, "other": head[::-1].copy()}.items():
        extra = {"lm_head.weight": other}
        folder = _logits(write_folder(tmp_path / name, weights, extra=extra))
        np.testing.assert_array_equal(folder, tied if name == "copy" else tied[:, ::-1])
        path = tmp_path / f"{name}.gguf"
        with_head = partial(gguf.GGUFWriter.add_tensor, name="output.weight", tensor=other)
        np.testing.assert_array_equal(_logits(write_gguf(path, weights, edit=with_head)), folder)


def test_a_changed_tensor_changes_the_logits(tmp_path: Path) -> None:
    weights = random_weights(5)
    folder = _logits(write_folder(tmp_path / "m", weights))
    for name in ("layers.0.altup.correct_output_scale", "layers.4.mlp.up_proj.weight"):
        changed = weights | {name: weights[name][::-1].copy()}
        other = _logits(write_gguf(tmp_path / "m.gguf", changed))
        assert np.abs(other - folder).max() > 1e-3, name
