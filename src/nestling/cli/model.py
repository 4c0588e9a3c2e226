"""The model that a command computes with itself, as the settings say."""

from pathlib import Path

from nestling.llm import LLM
from nestling.settings import Settings
from nestling.weights.packed_store import show_notices


def open_model(path: Path, settings: Settings) -> LLM:
    """The model at `path`; says on stderr if that takes long. To be closed by the caller."""
    show_notices()
    return LLM(
        str(path),
        engine=settings.engine,
        dtype=settings.dtype,
        threads=settings.threads,
        packed_dir=settings.packed_dir,
    )
