"""The plan of a benchmark, checked once: lengths, batch sizes, runs. Plain data."""

import msgspec

from nestling.engine.config import SWITCHES
from nestling.errors import SettingsError
from nestling.native.system import MAX_THREADS

MAX_BATCH = 64
"""The most sequences that the engine computes together."""
NUM_RUNS = 3


class BenchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark of one model; `fitted` checks it against the model."""

    model: str
    """Path of a checkpoint folder or a .gguf file."""
    threads: int
    prompt: int = 512
    """Tokens of the prompt whose prefill is timed."""
    generate: int = 32
    """Decode steps that are timed, after every sequence of the batch has its first token."""
    batch: tuple[int, ...] = (1, 4, 16)
    """Numbers of sequences that decode together."""
    context: int = 16
    """Tokens of each sequence before it decodes."""
    memory_context: int = 4096
    """Tokens of context at which memory is read."""
    prefix: int = 1024
    """Tokens that the two requests of the prefix cache's figure have in common."""
    runs: int = NUM_RUNS
    """Number of fresh processes that measure everything; figures are their medians."""
    packed_dir: str | None = None
    """Switches of `EngineConfig`."""
    switches_off: tuple[str, ...] = ()

    def fitted(self, max_model_len: int) -> "BenchPlan":
        """Return the plan with memory context and prefix cut to what the model takes.

        Raises SettingsError that names the option, what fits and what came.
        """
        room = max_model_len - 1
        self._check_range("threads", self.threads, 1, MAX_THREADS)
        self._check_range("prompt", self.prompt, 1, room)
        self._check_range("generate", self.generate, 1, longest_context(max_model_len, 1))
        longest = longest_context(max_model_len, self.generate)
        self._check_range("context", self.context, 1, longest)
        self._check_range("memory-context", self.memory_context, 1, None)
        self._check_range("runs", self.runs, 1, 100)
        for size in self.batch:
            self._check_range("batch", size, 1, MAX_BATCH)
        if not self.batch or len(set(self.batch)) != len(self.batch):
            given = ",".join(map(str, self.batch))
            raise SettingsError(f"batch: expected distinct sizes, got {given!r}", param="batch")
        for name in self.switches_off:
            if name not in SWITCHES:
                known = ", ".join(SWITCHES) or "none"
                raise SettingsError(f"off: known switches: {known}; got {name!r}", param="off")
        return msgspec.structs.replace(
            self, memory_context=min(self.memory_context, room), prefix=min(self.prefix, room - 1)
        )

    def _check_range(self, name: str, value: int, least: int, most: int | None) -> None:
        if value < least or (most is not None and value > most):
            fits = f"at least {least}" if most is None else f"{least} to {most}"
            raise SettingsError(f"{name}: expected {fits}, got {value}", param=name)


def longest_context(max_model_len: int, num_steps: int) -> int:
    """Return the longest context that leaves room for a first token, the steps and one more."""
    return max_model_len - num_steps - 2


def parse_count(name: str, text: str) -> int:
    """Return the whole number that an option holds. Raises SettingsError."""
    try:
        return int(text)
    except ValueError:
        raise SettingsError(f"{name}: expected a whole number, got {text!r}", param=name) from None


def parse_batch(text: str) -> tuple[int, ...]:
    """Return sizes that commas separate, such as "1,4,16". Raises SettingsError."""
    return tuple(parse_count("batch", part) for part in text.split(","))
