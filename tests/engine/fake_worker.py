"""The worker with the fake model behind it: `python tests/engine/fake_worker.py FD`."""

import os
import sys

from fake_model import (  # type: ignore[import-not-found] # beside this script, on its path
    FakeRunner,
    load_fake_runner,
)

from nestling.engine import worker
from nestling.engine.config import EngineConfig
from nestling.errors import ModelFileError


def load(config: EngineConfig) -> FakeRunner:
    """As the fake model; "bad_file", "crash" and "raise" fail in their ways."""
    match config.model:
        case "bad_file":
            raise ModelFileError("/models/x.gguf", "expected 4 bytes, got 3", tensor="norm.weight")
        case "crash":
            os.abort()
        case "raise":
            raise RuntimeError("secret detail")
    return load_fake_runner(config)


if __name__ == "__main__":
    sys.exit(worker.main(sys.argv, load))
