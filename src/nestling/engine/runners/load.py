"""Opens a checkpoint and gives it to the runner that the configuration names."""

from pathlib import Path

from nestling.engine.config import EngineConfig
from nestling.engine.progress import EngineProgress
from nestling.engine.runners.native import NativeRunner
from nestling.engine.runners.reference import ReferenceRunner
from nestling.engine.runners.runner import ModelRunner
from nestling.weights.checkpoint import Checkpoint, load_checkpoint


def load_runner(config: EngineConfig, progress: EngineProgress | None = None) -> ModelRunner:
    """Load the checkpoint and pack its weights; raises `ModelFileError`, `SettingsError`."""
    return make_runner(load_checkpoint(Path(config.model)), config, progress)


def make_runner(
    checkpoint: Checkpoint, config: EngineConfig, progress: EngineProgress | None = None
) -> ModelRunner:
    """The runner of an opened checkpoint; raises as `load_runner`."""
    if config.engine == "reference":
        return ReferenceRunner(checkpoint, config, progress)
    return NativeRunner(checkpoint, config, progress)
