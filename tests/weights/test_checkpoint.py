"""Both forms of a checkpoint open to the same tensors under the same names; others are refused."""

import ast
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

import nestling
from nestling.errors import ModelFileError
from nestling.model.hf_config import config_from_hf
from nestling.model.names import required_tensors
from nestling.weights.checkpoint import Checkpoint, load_checkpoint
from tests.weights import tiny_files
from tests.weights.tiny_files import (
    HF_CONFIG,
    NUM_LAYERS,
    NUM_SHARED,
    Weights,
    random_weights,
    write_folder,
    write_gguf,
)

WEIGHTS = random_weights()
SHARED_KV = [
    f"layers.{i}.self_attn.{name}.weight"
    for i in range(NUM_LAYERS - NUM_SHARED, NUM_LAYERS)
    for name in ("k_norm", "k_proj", "v_proj")
]
TOWERS = {
    "model.vision_tower.timm_model.conv_stem.conv.weight": np.zeros((2, 3), np.float32),
    "model.audio_tower.conformer.0.norm.bias": np.zeros(3, np.float32),
    "model.embed_vision.embedding.weight": np.zeros((2, 3), np.float32),
    "model.embed_audio.embedding.weight": np.zeros((2, 3), np.float32),
}


def _all_tensors(checkpoint: Checkpoint) -> Weights:
    return {name: checkpoint.tensors.tensor(name) for name in checkpoint.tensors.names()}


def _assert_equal(actual: Weights, expected: Weights) -> None:
    assert set(actual) == set(expected) - set(SHARED_KV)
    for name, values in actual.items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name, strict=True)


def _rounded(weights: Weights, dtype: str) -> Weights:
    if dtype == "F16":
        return {name: v.astype(np.float16).astype(np.float32) for name, v in weights.items()}
    mask = np.uint32({"F32": 0xFFFFFFFF, "BF16": 0xFFFF0000}[dtype])
    return {name: (v.view(np.uint32) & mask).view(np.float32) for name, v in weights.items()}


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("num_shards", [1, 3])
def test_a_folder_loads_every_plain_type(tmp_path: Path, dtype: str, num_shards: int) -> None:
    folder = write_folder(tmp_path / "m", WEIGHTS, dtype, num_shards=num_shards)
    checkpoint = load_checkpoint(folder)
    _assert_equal(_all_tensors(checkpoint), _rounded(WEIGHTS, dtype))
    assert checkpoint.quantization == dtype.lower()
    assert checkpoint.path == folder
    assert checkpoint.vocabulary is None
    assert checkpoint.left_out == tuple(f"model.{name}" for name in SHARED_KV)
    assert checkpoint.config.eos_token_ids == (1, 7)


def test_text_files_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    sharded = write_folder(tmp_path / "sharded", WEIGHTS, "F32", num_shards=3)
    nano = tmp_path / "nano"
    shutil.copytree(Path(nestling.__file__).parent / "assets" / "nano", nano)
    plain = {folder: load_checkpoint(folder) for folder in (sharded, nano)}
    files = [*sharded.glob("*.json"), *nano.glob("*.json")]
    names = {"config.json", "tokenizer.json", "generation_config.json", "tokenizer_config.json"}
    assert names | {"model.safetensors.index.json"} <= {file.name for file in files}
    for file in files:
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    for folder, expected in plain.items():
        marked = load_checkpoint(folder)
        assert marked.config == expected.config
        assert (marked.vocabulary is None) == (expected.vocabulary is None)
        if marked.vocabulary is not None and expected.vocabulary is not None:
            assert marked.vocabulary.pieces == expected.vocabulary.pieces
        assert marked.tensors.names() == expected.tensors.names()


@pytest.mark.parametrize("prefix", ["model.language_model.", "language_model.model."])
def test_towers_are_listed_and_left(tmp_path: Path, prefix: str) -> None:
    buffer = f"{prefix}layers.0.self_attn.rotary_emb.inv_freq"
    extra = {**TOWERS, buffer: np.zeros(3, np.float32)}
    folder = write_folder(tmp_path, WEIGHTS, prefix=prefix, extra=extra)
    outer = {"model_type": "gemma3n", "text_config": HF_CONFIG, "eos_token_id": [1, 7]}
    (folder / "config.json").write_text(json.dumps(outer))
    checkpoint = load_checkpoint(folder)
    _assert_equal(_all_tensors(checkpoint), WEIGHTS)
    assert checkpoint.left_out == tuple(sorted([*extra, *(prefix + name for name in SHARED_KV)]))


def test_names_and_shapes_are_exactly_those_the_model_asks_for(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(write_folder(tmp_path, WEIGHTS))
    tensors = checkpoint.tensors
    shapes = {name: tensors.shape(name) for name in tensors.names()}
    assert shapes == required_tensors(config_from_hf(HF_CONFIG, "config.json"))
    assert list(tensors.names()) == sorted(shapes)
    with pytest.raises(ModelFileError, match=r"tensor nothing: is missing"):
        tensors.shape("nothing")


def test_gguf_names_are_the_librarys(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(write_gguf(tmp_path / "m.gguf", WEIGHTS))
    _assert_equal(_all_tensors(checkpoint), WEIGHTS)
    kinds = ("attn_k.weight", "attn_k_norm.weight", "attn_v.weight")
    shared = range(NUM_LAYERS - NUM_SHARED, NUM_LAYERS)
    assert checkpoint.left_out == tuple(f"blk.{i}.{kind}" for i in shared for kind in kinds)
    assert checkpoint.quantization == "f32"
    assert checkpoint.config.eos_token_ids == (7,)
    assert checkpoint.vocabulary is None


@pytest.mark.parametrize("ggml_type", ["F16", "BF16", "Q8_0", "Q4_0"])
def test_gguf_and_folder_agree_within_the_quantisation(tmp_path: Path, ggml_type: str) -> None:
    folder = load_checkpoint(write_folder(tmp_path / "m", WEIGHTS))
    file = load_checkpoint(write_gguf(tmp_path / "m.gguf", WEIGHTS, ggml_type))
    assert file.quantization == ggml_type.lower()
    assert file.tensors.names() == folder.tensors.names()
    # Of the largest value: half a step of the mantissa; half a step of 127 and the scale's own
    # rounding to f16; a whole step of 8, as 4-bit codes end at -8 but at +7.
    steps = {"F16": 2**-11, "BF16": 2**-8, "Q8_0": 1 / 254 + 2**-11, "Q4_0": 1 / 8 + 2**-11}
    for name in folder.tensors.names():
        exact, stored = folder.tensors.tensor(name), file.tensors.tensor(name)
        np.testing.assert_allclose(
            stored, exact, rtol=0, atol=steps[ggml_type] * np.abs(exact).max(), err_msg=name
        )


def test_both_forms_give_the_same_configuration(tmp_path: Path) -> None:
    folder = load_checkpoint(write_folder(tmp_path / "m", WEIGHTS)).config
    file = load_checkpoint(write_gguf(tmp_path / "m.gguf", WEIGHTS)).config
    for field in ("layer_types", "intermediate_size", "num_kv_shared_layers", "laurel_rank",
                  "vocab_size", "vocab_size_per_layer_input", "head_dim"):  # fmt: skip
        assert getattr(folder, field) == getattr(file, field), field


def _real_vocabulary_sizes(num_rows: int, num_per_layer_rows: int) -> Weights:
    """One layer's worth of width would do: every matrix keeps its shape but the two embeddings."""
    rows = {"embed_tokens.weight": num_rows, "embed_tokens_per_layer.weight": num_per_layer_rows}
    large = {name: np.zeros((rows[name], WEIGHTS[name].shape[1]), np.float32) for name in rows}
    for values in large.values():
        values[262_143:] = 1
    return WEIGHTS | large


@pytest.mark.parametrize(("rows", "per_layer_rows"), [(262_400, 262_400), (262_144, 262_144)])
def test_both_real_vocabulary_sizes(tmp_path: Path, rows: int, per_layer_rows: int) -> None:
    weights = _real_vocabulary_sizes(rows, per_layer_rows)
    checkpoint = load_checkpoint(write_gguf(tmp_path / "m.gguf", weights, "F16"))
    assert checkpoint.config.vocab_size == rows
    assert checkpoint.config.vocab_size_per_layer_input == 262_144
    tensors = checkpoint.tensors
    assert tensors.shape("embed_tokens_per_layer.weight")[0] == 262_144
    last = tensors.rows("embed_tokens_per_layer.weight", np.array([262_142, 262_143], np.int64))
    assert last[:, 0].tolist() == [0, 1]


def _broken_gguf(
    folder: Path, edit: Callable[[gguf.GGUFWriter], None], weights: Weights = WEIGHTS
) -> Path:
    return write_gguf(folder / "m.gguf", weights, edit=edit)


def _with_outer(folder: Path, **outer: object) -> Path:
    config = {"model_type": "gemma3n", "text_config": HF_CONFIG, **outer}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        ("model.", "lm_head.weight"),
        ("model.language_model.", "lm_head.weight"),
        ("model.language_model.", "model.lm_head.weight"),
        ("language_model.model.", "language_model.lm_head.weight"),
    ],
)
@pytest.mark.parametrize("is_said", [True, False])
def test_a_stored_head_is_used(tmp_path: Path, prefix: str, name: str, is_said: bool) -> None:
    """As transformers 5 does, whatever `tie_word_embeddings` says."""
    head = WEIGHTS["embed_tokens.weight"] + 1
    folder = write_folder(tmp_path, WEIGHTS, prefix=prefix, extra={name: head})
    checkpoint = load_checkpoint(_with_outer(folder, tie_word_embeddings=not is_said))
    _assert_equal(_all_tensors(checkpoint), WEIGHTS | {"lm_head.weight": head})
    assert not checkpoint.config.tie_word_embeddings
    assert name not in checkpoint.left_out


def test_an_untied_head_that_is_not_stored_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, WEIGHTS)
    for config in (
        HF_CONFIG | {"tie_word_embeddings": False},
        {"model_type": "gemma3n", "text_config": HF_CONFIG, "tie_word_embeddings": False},
    ):
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelFileError, match=r"config.json: tie_word_embeddings is false, but"):
            load_checkpoint(folder)


def test_two_heads_are_refused(tmp_path: Path) -> None:
    head = WEIGHTS["embed_tokens.weight"]
    extra = {"lm_head.weight": head, "model.lm_head.weight": head}
    with pytest.raises(ModelFileError, match=r"tensor lm_head.weight: is there twice, as lm_head"):
        load_checkpoint(write_folder(tmp_path, WEIGHTS, extra=extra))


def test_a_head_of_another_shape_is_named(tmp_path: Path) -> None:
    extra = {"lm_head.weight": WEIGHTS["embed_tokens.weight"][:-1]}
    with pytest.raises(ModelFileError, match=r"tensor lm_head.weight: .*shape is \[95, 64\]"):
        load_checkpoint(write_folder(tmp_path, WEIGHTS, extra=extra))


def test_the_head_of_a_gguf_is_used(tmp_path: Path) -> None:
    head = WEIGHTS["embed_tokens.weight"] + 1
    path = _broken_gguf(tmp_path, lambda w: w.add_tensor("output.weight", head))
    checkpoint = load_checkpoint(path)
    _assert_equal(_all_tensors(checkpoint), WEIGHTS | {"lm_head.weight": head})
    assert not checkpoint.config.tie_word_embeddings


@pytest.mark.parametrize(
    "name",
    [
        "blk.0.attn_q.bias",
        "blk.0.attn_q.scale",
        "blk.0.attn_q.weight.lora_a",
        "blk.9.attn_q.weight",
        "blk.0.attn_sinks.weight",
        "output.bias",
        "rope_freqs.weight",
        "vv.blk.0.weight",
    ],
)
def test_tensors_that_would_change_the_answers_are_not_ignored(tmp_path: Path, name: str) -> None:
    path = _broken_gguf(tmp_path, lambda w: w.add_tensor(name, np.ones(64, np.float32)))
    reason = "is part of a LoRA adapter" if "lora" in name else "is no tensor that Gemma 3n's text"
    with pytest.raises(ModelFileError, match=f"tensor {name}: {reason}"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.mlp.up_proj.weight_scale",
        "model.layers.5.input_layernorm.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "lm_head.bias",
        "score.weight",
    ],
)
def test_extra_tensors_of_a_folder_are_named(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path, WEIGHTS, extra={name: np.ones(64, np.float32)})
    reason = "is part of a LoRA adapter" if "lora" in name else "is no tensor that Gemma 3n's text"
    with pytest.raises(ModelFileError, match=f"tensor {name}: {reason}"):
        load_checkpoint(folder)


def test_a_scale_that_the_configuration_switches_off_is_left(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, WEIGHTS)
    config = HF_CONFIG | {"altup_correct_scale": False}
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint = load_checkpoint(folder)
    assert "model.layers.0.altup.correct_output_scale" in checkpoint.left_out


def test_a_stack_with_more_parts_than_altup_has_inputs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = tiny_files.gguf_tensors(WEIGHTS)
    stack = tensors["altup_proj.weight"]
    longer = tensors | {"altup_proj.weight": np.concatenate([stack, stack[:1]])}
    monkeypatch.setattr(tiny_files, "gguf_tensors", lambda _: longer)
    path = write_gguf(tmp_path / "m.gguf", WEIGHTS)
    with pytest.raises(ModelFileError, match=r"tensor altup_proj.weight: is no tensor that"):
        load_checkpoint(path)


def test_lora_adapters_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", WEIGHTS)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelFileError, match=r"holds a LoRA adapter; merge it into its model"):
        load_checkpoint(folder)
    path = _broken_gguf(tmp_path, lambda w: w.add_string("general.type", "adapter"))
    with pytest.raises(ModelFileError, match=r"is a LoRA adapter; merge it into its model"):
        load_checkpoint(path)
    path = _broken_gguf(tmp_path, lambda w: w.add_string("general.type", "imatrix"))
    with pytest.raises(ModelFileError, match=r"general.type is 'imatrix', expected 'model'"):
        load_checkpoint(path)


def test_quantised_folders_are_named_by_method_before_their_tensors(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, WEIGHTS)
    for name in folder.glob("*.safetensors"):
        name.write_bytes(b"")
    _with_outer(folder, quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(ModelFileError, match=r"quantised by 'bitsandbytes', .* take the model's"):
        load_checkpoint(folder)


def test_eos_is_found_by_its_piece_where_metadata_name_end_of_turn_only(tmp_path: Path) -> None:
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "[x]", "<start_of_turn>"]
    pieces += ["<end_of_turn>", *(f"<0x{i:02X}>" for i in range(256)), "\u2581", "a"]

    def add_tokenizer(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(pieces)
        writer.add_token_scores([0.0] * len(pieces))
        writer.add_token_types([3, 3, 3, 2, 3, 3, 3, 3] + [6] * 256 + [1, 1])
        writer.add_add_space_prefix(value=False)

    rows = np.zeros((300, tiny_files.HIDDEN), np.float32)
    path = _broken_gguf(tmp_path, add_tokenizer, WEIGHTS | {"embed_tokens.weight": rows})
    checkpoint = load_checkpoint(path)
    assert checkpoint.config.eos_token_ids == (1, 7)
    assert checkpoint.vocabulary is not None


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ({"norm.weight": None}, "tensor norm.weight: is missing, expected shape .64."),
        (
            {"layers.1.mlp.up_proj.weight": np.zeros((64, 96), np.float32)},
            (
                r"model.safetensors: tensor layers.1.mlp.up_proj.weight: "
                r"corrupt model file: shape is \[64, 96\], expected \[96, 64\]"
            ),
        ),
        ({"embed_tokens.weight": None}, "tensor embed_tokens.weight: is missing, expected under"),
    ],
)
def test_a_missing_or_misshapen_tensor_is_named(
    tmp_path: Path, weights: dict[str, NDArray[np.float32] | None], reason: str
) -> None:
    edited = {name: v for name, v in (WEIGHTS | weights).items() if v is not None}
    with pytest.raises(ModelFileError, match=reason):
        load_checkpoint(write_folder(tmp_path, edited))


def test_a_type_that_is_not_read_is_named(tmp_path: Path) -> None:
    raw = np.zeros((96, 66), np.uint8)  # IQ2_XXS: 66 bytes for 256 elements
    weights = {n: v for n, v in WEIGHTS.items() if n != "norm.weight"}
    path = write_gguf(tmp_path / "m.gguf", weights, edit=lambda w: w.add_tensor(
        "output_norm.weight", raw[:1], raw_dtype=gguf.GGMLQuantizationType.IQ2_XXS))  # fmt: skip
    with pytest.raises(ModelFileError, match=r"tensor norm.weight: .*shape is \[1, 256\]"):
        load_checkpoint(path)
    path = write_gguf(tmp_path / "m.gguf", weights, edit=lambda w: w.add_tensor(
        "output_norm.weight", np.zeros(64, np.int8)))  # fmt: skip
    with pytest.raises(ModelFileError, match=r"tensor norm.weight: has type I8, which Nestling"):
        load_checkpoint(path)


def test_other_architectures_and_split_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(str(path), "gemma3")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelFileError, match=r"architecture gemma3, expected gemma3n"):
        load_checkpoint(path)
    split = _broken_gguf(tmp_path, lambda w: w.add_uint16("split.count", 2))
    with pytest.raises(ModelFileError, match=r"one part of a split GGUF"):
        load_checkpoint(split)


def test_paths_that_hold_no_model_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    folder = write_folder(tmp_path / "m", WEIGHTS)
    cases = {
        tmp_path / "absent": "does not exist",
        tmp_path: "holds no config.json",
        text: "expected a folder with config.json",
        fifo: "expected a regular file",
        folder / "model.safetensors": "give the folder that holds it",
    }
    for path, reason in cases.items():
        with pytest.raises(ModelFileError, match=reason):
            load_checkpoint(path)
    (tmp_path / "x.gguf").touch()
    with pytest.raises(ModelFileError, match=r"holds GGUF files; give the path of one, as x.gguf"):
        load_checkpoint(tmp_path)
    with pytest.raises(ModelFileError, match=r"corrupt model file: begins with b''"):
        load_checkpoint(tmp_path / "x.gguf")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(ModelFileError, match=r"does not exist|cannot be read"):
        load_checkpoint(loop)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.pt2"])
def test_pickles_are_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(HF_CONFIG))
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(ModelFileError, match=f"{name}: is a pickle, and reading one can run the"):
        load_checkpoint(tmp_path)
    with pytest.raises(ModelFileError, match=f"{name}: is a pickle"):
        load_checkpoint(tmp_path / name)
    shutil.copy(tmp_path / name, tmp_path / "renamed")
    with pytest.raises(ModelFileError, match=r"renamed: is a pickle"):
        load_checkpoint(tmp_path / "renamed")


def test_code_in_a_model_folder_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, WEIGHTS)
    config = HF_CONFIG | {"auto_map": {"AutoModel": "modeling.Evil"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match=r"auto_map names code to run"):
        load_checkpoint(folder)


@pytest.mark.parametrize("value", [True, "1", [1, 96], -1, [None]])
def test_bad_eos_ids_are_refused(tmp_path: Path, value: object) -> None:
    folder = write_folder(tmp_path, WEIGHTS)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(ModelFileError, match=r"generation_config.json: eos_token_id .* below 96"):
        load_checkpoint(folder)


def test_nothing_in_the_source_can_unpickle_or_evaluate() -> None:
    """No import of a pickling module, no call of eval, exec or a loader that may unpickle."""
    modules = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal",
               "torch"}  # fmt: skip
    root = Path(nestling.__file__).parent
    files = sorted(root.rglob("*.py"))
    assert root / "weights" / "checkpoint.py" in files
    found = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name.partition(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "").partition(".")[0]]
            if modules & set(names):
                found.append((file.name, ast.unparse(node)))
            if isinstance(node, ast.Call):
                call = ast.unparse(node.func)
                unpickles = any(word.arg == "allow_pickle" for word in node.keywords)
                if call in {"eval", "exec", "torch.load", "np.load", "numpy.load"} or unpickles:
                    found.append((file.name, call))
    assert found == []
