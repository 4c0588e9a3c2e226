"""Prints how fast the native sampler is on this machine.

Run: `.venv/bin/python benchmarks/native_kernels.py`. Times are the best of many runs, in
milliseconds, so that neighbours on the machine count little. `nestling bench --profile` measures
the parts of a step.
"""

import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestling.native.sampling import sample, top_logprobs
from nestling.native.system import instruction_set

VOCAB_SIZE = 262_144
NEUTRAL: dict[str, Any] = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "top_a": 0.0,
    "min_p": 0.0,
    "uniform": 0.37,
}


def best_ms(function: Callable[..., object], *args: object, **kwargs: object) -> float:
    """Return the milliseconds of the fastest of at least five calls in about half a second."""
    function(*args, **kwargs)
    times: list[float] = []
    deadline = time.perf_counter() + 0.5
    while len(times) < 5 or time.perf_counter() < deadline:
        start = time.perf_counter()
        function(*args, **kwargs)
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def sampled_tokens(num_samples: int) -> NDArray[np.int64]:
    """Return the ids whose logits guess where a filter ends (native/src/sampling/selection.cpp)."""
    stretch = VOCAB_SIZE // 2048
    tokens = []
    for seed in range(num_samples):
        random = seed
        for i in range(2048):
            random = (random * 1664525 + 1013904223) % 2**32
            tokens.append(i * stretch + (random * stretch >> 32))
    return np.array(tokens)


def vocabularies() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=VOCAB_SIZE).astype(np.float32)
    nearly_flat = 5 + normal * np.float32(1e-3)
    outlier = nearly_flat.copy()
    outlier[7] = -20
    peaked = normal * 2 - 6
    peaked[rng.integers(0, VOCAB_SIZE, 40)] += 18
    zipf = -np.log(rng.permutation(VOCAB_SIZE) + 1)
    capped = 30 * np.tanh(normal * 8 / 30)
    two_levels = np.where(rng.random(VOCAB_SIZE) < 0.3, 5, 0)
    misleading = normal * np.float32(1e-3)
    misleading[sampled_tokens(1)] += 8
    misleading_always = normal * np.float32(1e-3)
    misleading_always[sampled_tokens(3)] += 8
    vocabularies = {
        "normal(-5, 3)": normal * 3 - 5,
        "nearly flat": nearly_flat,
        "all equal": np.zeros(VOCAB_SIZE),
        "flat + outlier": outlier,
        "peaked": peaked,
        "zipf": zipf,
        "soft-capped": capped,
        "two levels": two_levels,
        "misleading": misleading,
        "misleading x 3": misleading_always,
    }
    return {name: logits.astype(np.float32) for name, logits in vocabularies.items()}


def print_sampling() -> None:
    settings: dict[str, dict[str, Any]] = {
        "greedy": {"temperature": 0.0},
        "temperature": {},
        "top_k 64": {"top_k": 64},
        "top_p 0.99": {"top_p": 0.99},
        "all, top_k 64": {"top_k": 64, "top_p": 0.95, "top_a": 0.1, "min_p": 0.01},
        "all but top_k": {"top_p": 0.99, "top_a": 0.1, "min_p": 0.01},
        "all, top_k 200000": {"top_k": 200_000, "top_p": 0.99, "top_a": 0.1, "min_p": 0.01},
    }
    print(f"sampling, ms a token of {VOCAB_SIZE:,} logits")
    names = vocabularies()
    print(f"  {'':18}" + "".join(f"{name:>16}" for name in names))
    for setting, filters in settings.items():
        row = [best_ms(sample, x, **{**NEUTRAL, **filters}) for x in names.values()]
        print(f"  {setting:18}" + "".join(f"{ms:16.3f}" for ms in row))
    row = [best_ms(top_logprobs, x, 20) for x in names.values()]
    print(f"  {'top_logprobs 20':18}" + "".join(f"{ms:16.3f}" for ms in row))


def main() -> None:
    print(f"{platform.machine()}, {instruction_set()}")
    print_sampling()


if __name__ == "__main__":
    main()
