"""Prints how fast the native kernels are on this machine, beside numpy where it has the same thing.

Run: `.venv/bin/python benchmarks/native_kernels.py [num_threads]`. Times are the best of many runs,
in milliseconds, so that neighbours on the machine count little.
"""

import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestling.native import _core
from nestling.native.attention import attention
from nestling.native.linear import PackedLinear, linear
from nestling.native.sampling import sample, top_logprobs
from nestling.native.threads import ThreadPool

VOCAB_SIZE = 262_144
DTYPES: tuple[Any, ...] = ("float32", "bfloat16")
NEUTRAL: dict[str, Any] = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "top_a": 0.0,
    "min_p": 0.0,
    "uniform": 0.37,
}


def best_ms(function: Callable[..., object], *args: object, **kwargs: object) -> float:
    """Milliseconds of the fastest call in about half a second, at least five calls."""
    function(*args, **kwargs)
    times: list[float] = []
    deadline = time.perf_counter() + 0.5
    while len(times) < 5 or time.perf_counter() < deadline:
        start = time.perf_counter()
        function(*args, **kwargs)
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def vocabularies() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=VOCAB_SIZE).astype(np.float32)
    nearly_flat = 5 + normal * np.float32(1e-3)
    outlier = nearly_flat.copy()
    outlier[7] = -20
    return {
        "normal(-5, 3)": normal * 3 - 5,
        "nearly flat": nearly_flat,
        "all equal": np.zeros(VOCAB_SIZE, np.float32),
        "flat + outlier": outlier,
    }


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


def print_linear(pool: ThreadPool, num_out: int, num_in: int) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(num_out, num_in)).astype(np.float32)
    packed = {name: PackedLinear.pack(weight, name) for name in DTYPES}
    print(f"linear, {num_out} x {num_in} (numpy: its own BLAS and threads)")
    for num_rows in (1, 2, 4, 6, 16, 64, 256):
        x = rng.normal(size=(num_rows, num_in)).astype(np.float32)
        gflop = 2 * num_rows * num_out * num_in / 1e9
        cells = []
        for name, handle in packed.items():
            ms = best_ms(linear, x, handle, pool)
            rates = f"{handle.nbytes / 1e6 / ms:6.1f} GB/s {gflop / ms * 1e3:6.1f} GFLOP/s"
            cells.append(f"{name} {ms:8.3f} ms {rates}")
        ms = best_ms(np.matmul, x, weight.T)
        cells.append(f"numpy {ms:8.3f} ms {gflop / ms * 1e3:6.1f} GFLOP/s")
        print(f"  n={num_rows:<4}" + "  | ".join(cells))


def print_attention(pool: ThreadPool) -> None:
    rng = np.random.default_rng(0)
    num_heads, num_kv_heads, head_dim = 8, 2, 256
    print(f"attention, {num_heads} heads, {num_kv_heads} kv heads, head_dim {head_dim}")
    for num_rows, num_keys in ((1, 512), (1, 4096), (64, 512)):
        q = rng.normal(size=(num_rows, num_heads, head_dim)).astype(np.float32)
        k_cache, v_cache = rng.normal(size=(2, num_keys, num_kv_heads, head_dim)).astype(np.float32)
        slots = np.arange(num_keys)
        begin, end = np.zeros(num_rows, np.int64), np.full(num_rows, num_keys)
        ms = best_ms(attention, q, k_cache, v_cache, slots, begin, end, pool)
        gflop = 4 * num_rows * num_keys * num_heads * head_dim / 1e9
        print(f"  n={num_rows:<4} keys={num_keys:<5} {ms:8.3f} ms {gflop / ms * 1e3:6.1f} GFLOP/s")


def main() -> None:
    pool = ThreadPool(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    print(f"{platform.machine()}, {_core.variants()[-1]}, {pool.num_threads} thread(s)")
    print_sampling()
    print_linear(pool, 2048, 2048)
    print_linear(pool, 512, 128)
    print_attention(pool)


if __name__ == "__main__":
    main()
