"""Opens the model that a command computes with itself."""

import sys
from pathlib import Path

from nestling.cli.progress import packing_bar
from nestling.llm import LLM
from nestling.settings import Settings
from nestling.weights.packed_store import show_notices


def open_model(path: Path, settings: Settings) -> LLM:
    """Return the model at `path`, to be closed by the caller; tell on stderr if that takes long."""
    if not sys.stderr.isatty():
        show_notices()
    with packing_bar(path.name) as bar:
        return LLM(
            str(path),
            engine=settings.engine,
            dtype=settings.dtype,
            threads=settings.threads,
            packed_dir=settings.packed_dir,
            on_load=bar.update,
        )
