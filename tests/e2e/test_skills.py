"""The embedded model keeps its promise, through our engine, on a sample of the evaluation prompts.

`make skills` asks all of them.
"""

from pathlib import Path

import pytest
from training.evaluate import Backend, nestling_backend, read_rows, score

from nestling.weights.catalog import embedded_model

EVAL = Path(__file__).resolve().parents[2] / "training" / "eval"


@pytest.fixture(scope="module")
def backend() -> Backend:
    """Our engine with the embedded model."""
    return nestling_backend(embedded_model().path)


@pytest.mark.parametrize(
    ("file", "every", "least"),
    [("skills", 6, 0.90), ("own_wording", 2, 0.75)],  # the promises are 0.93 and 0.80 of them all
)
def test_skills_sample(backend: Backend, file: str, every: int, least: float) -> None:
    """Every n-th prompt of a set: the promised share less a sample's slack is answered right."""
    results = score(read_rows(EVAL / f"{file}.jsonl")[::every], backend)
    wrong = [(r.row["id"], r.reply) for r in results if not r.has_passed]
    assert len(wrong) <= (1 - least) * len(results), wrong
