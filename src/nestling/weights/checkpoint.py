"""The one way in: a path to a `Checkpoint`, checked whole before any work starts.

Accepts a Hugging Face folder (config.json and safetensors) or a GGUF file. Opening costs the
headers and the vocabulary; tensors are decoded when asked. Code and pickles of a model repository
are never run or read. Call it in the process that runs the model (see `mapped_file`).
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from nestling.errors import ModelFileError
from nestling.model.config import Gemma3nTextConfig
from nestling.model.gguf_config import config_from_gguf
from nestling.model.hf_config import config_from_hf
from nestling.model.names import EMBEDDING, HEAD, PER_LAYER_EMBEDDING, required_tensors
from nestling.model.tensors import TensorSource
from nestling.weights.gguf_file import MAGIC, GgufFile, read_gguf
from nestling.weights.gguf_names import rename_all
from nestling.weights.json_file import read_object
from nestling.weights.left_out import check_left_out
from nestling.weights.mapped_file import (
    SourceFile,
    advise_random,
    corrupt,
    map_file,
    model_files,
)
from nestling.weights.safetensors_file import read_safetensors_folder
from nestling.weights.stored_tensor import StoredTensor, StoredTensors
from nestling.weights.stored_types import is_read
from nestling.weights.vocabulary import (
    Vocabulary,
    vocabulary_from_folder,
    vocabulary_from_gguf,
)

_PREFIXES = ("model.language_model.", "language_model.model.", "model.")
_HEAD_NAME = r"(?:model\.|language_model\.){0,2}lm_head\.weight"
_PICKLES = (".bin", ".pt", ".pt2", ".pth", ".pkl", ".ckpt")
_PICKLE_REASON = (
    "is a pickle, and reading one can run the code inside it; "
    "Nestling reads safetensors folders and GGUF files only"
)
_MERGE_IT = "merge it into its model first, as Nestling reads whole models only"
_STOP_PIECES = ("<eos>", "<end_of_turn>")


@dataclass(frozen=True)
class Checkpoint:
    """An opened model. `tensors` holds exactly what the text decoder needs, mapped, not decoded."""

    path: Path
    config: Gemma3nTextConfig
    tensors: TensorSource
    vocabulary: Vocabulary | None
    """None: a folder without tokenizer; it serves token ids only."""
    left_out: tuple[str, ...]
    """Stored names that change no answer: towers, the shared layers' keys and values."""
    quantization: str
    """The stored type of most weights, such as "bf16" or "q4_k"."""
    sources: tuple[SourceFile, ...] = ()
    """The files of its weights, as they were just before they were opened."""


def load_checkpoint(path: Path) -> Checkpoint:
    """Opens the model at `path` and checks presence, shape and type of every tensor it needs.

    Raises ModelFileError naming file and tensor or key.
    """
    try:
        sources = model_files(path)
        if path.is_dir():
            return replace(_load_folder(path), sources=sources)
        if not path.exists():
            raise ModelFileError(path, "does not exist; expected a model folder or a .gguf file")
        return replace(_load_file(path), sources=sources)
    except OSError as error:  # a folder that may not be listed, a link that loops
        raise ModelFileError(path, f"cannot be read: {error.strerror}") from error


def _load_file(path: Path) -> Checkpoint:
    start = map_file(path)[:4].tobytes()
    if start == MAGIC or path.suffix == ".gguf":
        return _load_gguf(path)
    if path.suffix in _PICKLES or start[:2] in (b"PK", b"\x80\x02", b"\x80\x04"):
        raise ModelFileError(path, _PICKLE_REASON)
    if path.suffix == ".safetensors":
        raise ModelFileError(path, "is part of a model; give the folder that holds it")
    raise ModelFileError(path, "expected a folder with config.json and safetensors, or a GGUF file")


def _load_folder(folder: Path) -> Checkpoint:
    _check_folder(folder)
    raw = read_object(folder / "config.json")
    if "auto_map" in raw:
        raise ModelFileError(
            folder / "config.json", "auto_map names code to run; Nestling runs no code of a model"
        )
    config = config_from_hf(raw, folder / "config.json")
    stored = read_safetensors_folder(folder)
    named = _named(folder, stored)
    if HEAD not in named and not config.tie_word_embeddings:
        raise ModelFileError(
            folder / "config.json",
            f"tie_word_embeddings is false, but no {HEAD} is stored; expected the head, or true",
        )
    config = replace(config, tie_word_embeddings=HEAD not in named)
    generation = folder / "generation_config.json"
    if generation.is_file():
        config = _with_eos(config, read_object(generation).get("eos_token_id"), generation)
    return _checkpoint(folder, config, named, stored, vocabulary_from_folder(folder))


def _check_folder(folder: Path) -> None:
    names = sorted(entry.name for entry in folder.iterdir())
    if not any(name.endswith(".safetensors") for name in names):
        for name in names:
            if name.endswith(_PICKLES):
                raise ModelFileError(folder / name, _PICKLE_REASON)
            if name.endswith(".gguf"):
                raise ModelFileError(folder, f"holds GGUF files; give the path of one, as {name}")
    if "adapter_config.json" in names:
        raise ModelFileError(folder, f"holds a LoRA adapter; {_MERGE_IT}")
    if "config.json" not in names:
        raise ModelFileError(folder, "holds no config.json; expected a Gemma 3n model folder")


def _named(folder: Path, stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return the decoder's tensors without their prefix, its own head among them."""
    found = [prefix for prefix in _PREFIXES if f"{prefix}{EMBEDDING}" in stored]
    if len(found) != 1:
        problem = f"is there as each of {', '.join(found)}" if found else "is missing"
        raise ModelFileError(
            folder,
            f"{problem}, expected under one of the prefixes {', '.join(_PREFIXES)}",
            tensor=EMBEDDING,
        )
    named = {
        name.removeprefix(found[0]): tensor
        for name, tensor in stored.items()
        if name.startswith(found[0])
    }
    heads = [name for name in stored if re.fullmatch(_HEAD_NAME, name)]
    if len(heads) > 1:
        raise ModelFileError(folder, f"is there twice, as {' and '.join(heads)}", tensor=HEAD)
    if heads:
        named[HEAD] = stored[heads[0]]
    return named


def _load_gguf(path: Path) -> Checkpoint:
    file = read_gguf(path)
    architecture = file.metadata.get("general.architecture")
    if architecture != "gemma3n":
        raise ModelFileError(path, f"architecture {architecture}, expected gemma3n")
    kind = file.metadata.get("general.type", "model")
    if kind == "adapter":
        raise ModelFileError(path, f"is a LoRA adapter; {_MERGE_IT}")
    if kind != "model":
        raise ModelFileError(path, f"general.type is {kind!r}, expected 'model'")
    if file.metadata.get("split.count", 1) not in (0, 1):
        raise ModelFileError(path, "is one part of a split GGUF; merge the parts first")
    named = rename_all(file.tensors)
    shapes = {name: tensor.shape for name, tensor in named.items()}
    config = config_from_gguf(file.metadata, shapes, path)
    config = _with_eos(config, _stop_ids(file), path)
    per_layer = named.get(PER_LAYER_EMBEDDING)
    if per_layer is not None and per_layer.shape[0] > config.vocab_size_per_layer_input:
        # Newer converters pad it with zero rows up to the rows of token_embd.
        named[PER_LAYER_EMBEDDING] = per_layer.first_rows(config.vocab_size_per_layer_input)
    return _checkpoint(path, config, named, file.tensors, vocabulary_from_gguf(file.metadata, path))


def _stop_ids(file: GgufFile) -> list[int]:
    """Ids that end a turn, by their pieces: the -it files' metadata name 106 alone, not `<eos>`."""
    pieces = file.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(pieces, list):
        return []
    return [pieces.index(piece) for piece in _STOP_PIECES if piece in pieces]


def _with_eos(config: Gemma3nTextConfig, value: object, path: Path) -> Gemma3nTextConfig:
    """`config` that also stops at `value`: None, an id or a list of ids, as in `eos_token_id`."""
    ids = [] if value is None else value if isinstance(value, list) else [value]
    for token_id in ids:
        if type(token_id) is not int or not 0 <= token_id < config.vocab_size:
            raise ModelFileError(
                path, f"eos_token_id {token_id!r}, expected an id below {config.vocab_size}"
            )
    return replace(config, eos_token_ids=tuple(sorted({*config.eos_token_ids, *ids})))


def _checkpoint(
    path: Path,
    config: Gemma3nTextConfig,
    named: Mapping[str, StoredTensor],
    stored: Mapping[str, StoredTensor],
    vocabulary: Vocabulary | None,
) -> Checkpoint:
    """Check `named` (by checkpoint name) against what the decoder needs, and the rest too."""
    required = required_tensors(config)
    used = {name: _checked(path, name, named.get(name), shape) for name, shape in required.items()}
    used_names = {tensor.stored_name for tensor in used.values()}
    names = {tensor.stored_name: name for name, tensor in named.items() if name not in required}
    left_out = sorted((set(stored) - used_names) | set(names))
    for stored_name in left_out:
        check_left_out(path, names.get(stored_name, stored_name), stored_name, config)
    advise_random(used[PER_LAYER_EMBEDDING].data)
    if not config.tie_word_embeddings:
        advise_random(used[EMBEDDING].data)
    num_elements: Counter[str] = Counter()
    for tensor in used.values():
        num_elements[tensor.dtype] += tensor.num_elements
    quantization = num_elements.most_common(1)[0][0].lower()
    return Checkpoint(
        path, config, StoredTensors(path, used), vocabulary, tuple(left_out), quantization
    )


def _checked(
    path: Path, name: str, tensor: StoredTensor | None, shape: tuple[int, ...]
) -> StoredTensor:
    if tensor is None:
        raise ModelFileError(path, f"is missing, expected shape {list(shape)}", tensor=name)
    if tensor.shape != shape:
        raise corrupt(
            tensor.path, f"shape is {list(tensor.shape)}, expected {list(shape)}", tensor=name
        )
    if not is_read(tensor.dtype):
        raise ModelFileError(
            tensor.path, f"has type {tensor.dtype}, which Nestling does not read", tensor=name
        )
    return tensor
