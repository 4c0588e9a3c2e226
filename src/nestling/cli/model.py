"""Opens the model that a command computes with itself."""

from pathlib import Path

from nestling.llm import LLM
from nestling.settings import Settings
from nestling.weights.packed_store import show_notices


def open_model(path: Path, settings: Settings) -> LLM:
    """Return the model at `path`, to be closed by the caller; tell on stderr if that takes long."""
    show_notices()
    return LLM(
        str(path),
        engine=settings.engine,
        dtype=settings.dtype,
        threads=settings.threads,
        packed_dir=settings.packed_dir,
    )
