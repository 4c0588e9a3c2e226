"""Which models this machine has: the embedded one and those in the data directory's `models`."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from nestling.errors import ModelNotFoundError

DOCUMENTED_MODEL_ID = "google/gemma-3n-e4b-it"
"""The name that the API page's requests use; whatever model is served answers to it."""
EMBEDDED_MODEL_ID = "nestling-nano"


@dataclass(frozen=True)
class ModelEntry:
    """A model that can be served. `model_id` is what replies, banner and dashboard call it."""

    model_id: str
    path: Path
    is_embedded: bool


def embedded_model() -> ModelEntry:
    """The demo model that ships with the package."""
    return ModelEntry(EMBEDDED_MODEL_ID, Path(str(files("nestling.assets"))) / "nano", True)


def list_models(data_dir: Path) -> list[ModelEntry]:
    """Folders with a config.json and .gguf files of `data_dir`/models; the embedded one last."""
    folder = data_dir / "models"
    found = [
        _entry(path)
        for path in sorted(folder.iterdir() if folder.is_dir() else ())
        if path.suffix == ".gguf" or (path / "config.json").is_file()
    ]
    return [*found, embedded_model()]


def find_model(name: str | None, data_dir: Path) -> ModelEntry:
    """The model called `name`, or at that path; None: the first of `list_models`.

    Raises ModelNotFoundError that lists what there is.
    """
    entries = list_models(data_dir)
    if name is None:
        return entries[0]
    for entry in entries:
        if name in (entry.model_id, entry.path.name):
            return entry
    path = Path(name).expanduser()
    if path.exists():
        return _entry(path.resolve())
    known = ", ".join(entry.model_id for entry in entries)
    raise ModelNotFoundError(
        f"Model {name!r} is neither a path nor one of the models here: {known}. "
        f"Put a Gemma 3n folder or .gguf file into {data_dir / 'models'}, or give its path.",
        param="model",
    )


def _entry(path: Path) -> ModelEntry:
    embedded = embedded_model()
    if path == embedded.path.resolve():
        return embedded
    if "gemma-3n-e4b-it" in path.name.lower():
        return ModelEntry(DOCUMENTED_MODEL_ID, path, False)
    return ModelEntry(path.name.removesuffix(".gguf"), path, False)
