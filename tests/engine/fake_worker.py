"""The worker with the fake model behind it: `python tests/engine/fake_worker.py FD PAGE`."""

import os
import sys
import time

from fake_model import (  # type: ignore[import-not-found] # beside this script, on its path
    FakeRunner,
    SpinningRunner,
    load_fake_runner,
)

from nestling.engine import worker
from nestling.engine.config import EngineConfig
from nestling.engine.progress import EngineProgress
from nestling.errors import ModelFileError


def load(config: EngineConfig, progress: EngineProgress) -> FakeRunner:
    """As the fake model; other names fail, spin or take their time in their ways.

    "slow:<n>" reports progress n times, every 0.1 s; "stuck" reports once and never comes back.
    """
    name, _, number = config.model.partition(":")
    match name:
        case "bad_file":
            raise ModelFileError("/models/x.gguf", "expected 4 bytes, got 3", tensor="norm.weight")
        case "crash":
            os.abort()
        case "raise":
            raise RuntimeError("secret detail")
        case "slow":
            for i in range(int(number)):
                time.sleep(0.1)
                progress.report_bytes(i, int(number))
        case "stuck":
            progress.report_bytes(1_200_000_000, 3_000_000_000)
            time.sleep(600)
        case "spin":
            return SpinningRunner(num_blocks=config.num_blocks or 64)
        case _:
            return load_fake_runner(config)
    return FakeRunner(num_blocks=config.num_blocks or 64)


if __name__ == "__main__":
    sys.exit(worker.main(sys.argv, load))
