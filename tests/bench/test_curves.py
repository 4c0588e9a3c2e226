"""The curves of a tiny model: every point is there, and its files come of it."""

from pathlib import Path

import pytest

from nestling.bench.curves import BATCHES, draw, measure_curves, prompt_lengths
from nestling.bench.plan import BenchPlan
from nestling.bench.session import EngineSession
from nestling.engine.config import EngineConfig
from tests.weights.tiny_files import random_weights, write_folder


@pytest.mark.parametrize(
    ("most", "lengths"),
    [
        (99, (99,)),
        (128, (128,)),
        (2047, (128, 256, 512, 1024, 2047)),
        (32767, (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32767)),
        (99999, (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)),
    ],
)
def test_prompt_lengths(most: int, lengths: tuple[int, ...]) -> None:
    assert prompt_lengths(most) == lengths


def test_curves_of_a_tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """128 tokens of context allow one prompt length beside two steps; all batch sizes run."""
    write_folder(tmp_path, random_weights())
    configs = []

    class Session(EngineSession):
        def __init__(self, config: EngineConfig) -> None:
            configs.append(config)
            super().__init__(config)

    monkeypatch.setattr("nestling.bench.curves.EngineSession", Session)
    plan = BenchPlan(model=str(tmp_path), threads=1, generate=2, context=3, packed_dir="packed")
    curves = measure_curves(plan)
    assert [(c.prefix_caching, c.packed_dir) for c in configs] == [(False, "packed")]
    assert tuple(curves.decode_tokens_per_s) == BATCHES
    for by_length in (curves.context_tokens_per_s, curves.first_token_s, curves.resident_bytes):
        assert tuple(by_length) == (124,)
    files = draw(curves, tmp_path, "my/tiny", "here, commit <none>")
    names = ("decode", "context", "first-token", "memory")
    assert files == [tmp_path / f"speed-my_tiny-{name}.svg" for name in names]
    for file in files:
        assert "my/tiny: " in file.read_text()
        assert "commit &lt;none&gt;" in file.read_text()
