"""Quantised files hold what GGML would make of the weights, and load here as the same model."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from nestling.errors import ModelFileError
from nestling.model.config import Gemma3nTextConfig
from nestling.model.kernels import NumpyKernels
from nestling.native.system import ThreadPool
from nestling.weights.catalog import embedded_model
from nestling.weights.checkpoint import Checkpoint, load_checkpoint
from nestling.weights.quantize import TYPES, quantize_checkpoint
from tests.model.native_decoder import NativeDecoder
from tests.model.session import NumpyDecoder, one_shot
from tests.model.tiny import TINY, TINY_LLAMA_CPP, DictTensors, random_weights, token_ids
from tests.weights import tiny_files

Floats = NDArray[np.float32]
CONFIGS = {
    "tiny": TINY,
    "tiny_llama_cpp": TINY_LLAMA_CPP,
    "untied": replace(TINY, tie_word_embeddings=False),
}
Q8_0_TENSORS = ("embed_tokens.weight", "lm_head.weight")


@pytest.fixture(scope="module")
def pool() -> ThreadPool:
    return ThreadPool(2)


def _checkpoint(config: Gemma3nTextConfig, weights: dict[str, Floats]) -> Checkpoint:
    return Checkpoint(Path("source"), config, DictTensors(weights), None, (), "f32")


def _expected(name: str, values: Floats, dtype: str) -> Floats:
    """What the `gguf` library decodes from what it quantises, by llama.cpp's rule of types."""
    if values.ndim == 1 or "_coefs" in name:
        return values
    if any(part in name for part in ("altup", "laurel", "per_layer_model_projection")):
        return values.astype(np.float16).astype(np.float32)
    kind = gguf.GGMLQuantizationType["Q8_0" if name in Q8_0_TENSORS else dtype]
    decoded: Floats = gguf.dequantize(gguf.quantize(values, kind), kind)
    return decoded


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_quantised_model_loads_as_what_ggml_makes_of_it(
    tmp_path: Path, pool: ThreadPool, name: str, dtype: str
) -> None:
    config = CONFIGS[name]
    weights = random_weights(config, 3)
    report = quantize_checkpoint(_checkpoint(config, weights), tmp_path / "m.gguf", dtype, pool)
    assert report.num_bytes == (tmp_path / "m.gguf").stat().st_size
    loaded = load_checkpoint(tmp_path / "m.gguf")
    assert loaded.quantization == dtype.lower()
    assert list(loaded.tensors.names()) == sorted(weights)
    for tensor, values in weights.items():
        expected = _expected(tensor, values, dtype)
        np.testing.assert_array_equal(loaded.tensors.tensor(tensor), expected, err_msg=tensor)
    multipliers = tuple(config.activation_std_multiplier(i) for i in range(len(config.layer_types)))
    given = tuple(
        loaded.config.activation_std_multiplier(i) for i in range(len(config.layer_types))
    )
    assert given == multipliers
    same = replace(
        loaded.config,
        activation_std_multipliers=None,
        activation_sparsity_pattern=config.activation_sparsity_pattern,
        rms_norm_eps=config.rms_norm_eps,  # stored as f32
    )
    assert loaded.config.rms_norm_eps == pytest.approx(config.rms_norm_eps, rel=1e-7)
    assert same == config


def test_another_reader_finds_every_tensor_that_llama_cpp_wants(
    tmp_path: Path, pool: ThreadPool
) -> None:
    config = TINY_LLAMA_CPP
    source = _checkpoint(config, random_weights(config, 3))
    report = quantize_checkpoint(source, tmp_path / "m.gguf", "Q4_0", pool)
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    names = {tensor.name for tensor in reader.tensors}
    assert len(names) == len(reader.tensors) == 24 * config.num_hidden_layers + 7
    assert sum(report.num_tensors.values()) == len(names)
    per_layer = {name.split(".", 2)[2] for name in names if name.startswith("blk.24.")}
    assert {"attn_k.weight", "attn_v.weight", "attn_k_norm.weight"} <= per_layer
    assert len(per_layer) == 24
    shapes = {tensor.name: tensor.shape.tolist() for tensor in reader.tensors}
    assert shapes["altup_proj.weight"] == [256, 256, 3]
    assert shapes["per_layer_token_embd.weight"] == [25 * 256, config.vocab_size]
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.3.laurel_l.weight"] == kinds["altup_proj.weight"] == "F16"
    assert kinds["blk.3.altup_predict_coef.weight"] == kinds["output_norm.weight"] == "F32"
    assert kinds["blk.3.ffn_up.weight"] == kinds["per_layer_token_embd.weight"] == "Q4_0"


@pytest.mark.parametrize("stored", ["F32", "BF16"])
def test_a_folder_and_a_gguf_of_the_same_weights_become_the_same_tensors(
    tmp_path: Path, pool: ThreadPool, stored: str
) -> None:
    weights = tiny_files.random_weights(5)
    folder = tiny_files.write_folder(tmp_path / "m", weights, stored)
    quantize_checkpoint(load_checkpoint(folder), tmp_path / "a.gguf", "Q8_0", pool)
    if stored == "F32":
        file = tiny_files.write_gguf(tmp_path / "m.gguf", weights)
    else:  # what the first one wrote, once more: codes of codes are the same codes
        file = tmp_path / "a.gguf"
    quantize_checkpoint(load_checkpoint(file), tmp_path / "b.gguf", "Q8_0", pool)
    first, second = (load_checkpoint(tmp_path / name).tensors for name in ("a.gguf", "b.gguf"))
    for name in first.names():
        tolerance = 0 if stored == "F32" else 1e-3 * np.abs(first.tensor(name)).max()
        assert np.abs(first.tensor(name) - second.tensor(name)).max() <= tolerance, name


def test_both_decoders_run_on_the_quantised_file(tmp_path: Path, pool: ThreadPool) -> None:
    config = TINY
    quantize_checkpoint(
        _checkpoint(config, random_weights(config, 3)), tmp_path / "m.gguf", "Q8_0", pool
    )
    loaded = load_checkpoint(tmp_path / "m.gguf")
    ids = token_ids(config, 20, 1)
    reference = one_shot(NumpyDecoder(loaded.config, loaded.tensors, NumpyKernels()), ids)
    native = one_shot(NativeDecoder(loaded.config, loaded.tensors), ids)
    np.testing.assert_allclose(native, reference, atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", TYPES)
def test_the_vocabulary_is_carried_over(tmp_path: Path, pool: ThreadPool, dtype: str) -> None:
    source = load_checkpoint(embedded_model().path)
    quantize_checkpoint(source, tmp_path / "m.gguf", dtype, pool)
    before, after = source.vocabulary, load_checkpoint(tmp_path / "m.gguf").vocabulary
    assert before is not None
    assert after is not None
    size = len(before.pieces)
    assert after.pieces[:size] == before.pieces
    assert all(piece.startswith("[PAD") for piece in after.pieces[size:])
    np.testing.assert_array_equal(after.types[:size], before.types)
    np.testing.assert_array_equal(after.merge_ranks[:size], before.merge_ranks)
    assert after.eos_token_ids == before.eos_token_ids
    assert after.bos_token_id == before.bos_token_id


@pytest.mark.parametrize("bad", [np.nan, np.inf, 70_000.0])
def test_weights_that_do_not_fit_are_named_and_nothing_is_left(
    tmp_path: Path, pool: ThreadPool, bad: float
) -> None:
    weights = random_weights(TINY, 3)
    weights["layers.4.laurel.linear_left.weight"][2, 3] = bad
    out = tmp_path / "m.gguf"
    out.write_text("before")
    with pytest.raises(ModelFileError, match=r"layers.4.laurel.linear_left.weight: holds a weight"):
        quantize_checkpoint(_checkpoint(TINY, weights), out, "Q4_0", pool)
    assert out.read_text() == "before"
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, pool: ThreadPool) -> None:
    source = _checkpoint(TINY, random_weights(TINY, 3))
    with pytest.raises(ModelFileError, match=r"absent/m.gguf: cannot be written: No such file"):
        quantize_checkpoint(source, tmp_path / "absent" / "m.gguf", "Q4_0", pool)


def test_what_gguf_cannot_say_is_refused(tmp_path: Path, pool: ThreadPool) -> None:
    source = _checkpoint(replace(TINY, final_logit_softcapping=None), random_weights(TINY, 3))
    with pytest.raises(ModelFileError, match="final_logit_softcapping is null"):
        quantize_checkpoint(source, tmp_path / "m.gguf", "Q4_0", pool)


def _run(*args: object) -> subprocess.CompletedProcess[str]:
    code = "import sys; from nestling.cli.main import main; sys.argv[0] = 'nestling'; main()"
    command = [sys.executable, "-c", code, "quantize", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_command(tmp_path: Path) -> None:
    folder = tiny_files.write_folder(tmp_path / "m", tiny_files.random_weights(5))
    out = tmp_path / "m.gguf"
    done = _run(folder, out, "--type", "q8_0", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["path"] == str(out)
    assert report["num_bytes"] == out.stat().st_size
    assert load_checkpoint(out).quantization == "q8_0"
    again = _run(folder, out)
    assert again.returncode == 2
    assert "is already there" in again.stderr
    assert _run(folder, out, "--force").stdout.startswith(f"{out}: ")
    assert load_checkpoint(out).quantization == "q4_0"
    assert _run(tmp_path / "absent", tmp_path / "n.gguf").returncode == 2
    assert _run(folder, tmp_path / "n.gguf", "--type", "q5_0").returncode == 2
    assert not (tmp_path / "n.gguf").exists()


def test_a_head_of_its_own_is_written_as_output(tmp_path: Path, pool: ThreadPool) -> None:
    config = CONFIGS["untied"]
    weights = random_weights(config, 3)
    quantize_checkpoint(_checkpoint(config, weights), tmp_path / "m.gguf", "Q4_0", pool)
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert kinds["output.weight"] == kinds["token_embd.weight"] == "Q8_0"
    copy = weights | {"lm_head.weight": weights["embed_tokens.weight"].copy()}
    quantize_checkpoint(_checkpoint(config, copy), tmp_path / "n.gguf", "Q4_0", pool)
    names = {tensor.name for tensor in gguf.GGUFReader(tmp_path / "n.gguf").tensors}
    assert set(kinds) - names == {"output.weight"}
    assert load_checkpoint(tmp_path / "n.gguf").config.tie_word_embeddings


def test_scaled_rope_is_refused_as_gguf_cannot_say_it(tmp_path: Path, pool: ThreadPool) -> None:
    source = _checkpoint(replace(TINY, rope_scaling_factor=2.0), random_weights(TINY, 3))
    with pytest.raises(ModelFileError, match=r"^source: rope is scaled"):
        quantize_checkpoint(source, tmp_path / "m.gguf", "Q4_0", pool)
    assert not (tmp_path / "m.gguf").exists()


def test_progress_is_told_in_bytes(tmp_path: Path, pool: ThreadPool) -> None:
    told: list[tuple[int, int]] = []
    report = quantize_checkpoint(
        _checkpoint(TINY, random_weights(TINY, 3)),
        tmp_path / "m.gguf",
        "Q4_0",
        pool,
        lambda *bytes_: told.append(bytes_),
    )
    assert told == sorted(told)
    assert len(told) > sum(report.num_tensors.values()) - 1
    assert told[-1][0] == told[-1][1] == told[0][1]
    assert told[0][1] < report.num_bytes, "the header is no part of it"
