"""The decoder against outputs of transformers that were stored once (tests/vectors/README.md)."""

import json
from pathlib import Path

import numpy as np
import pytest

from nestling.model.config import config_from_hf
from nestling.model.kernels import NativeKernels, NumpyKernels
from tests.model.session import Array, make_decoder, one_shot
from tests.model.tiny import random_weights
from tests.vectors.decoder_cases import CASES

FOLDER = Path(__file__).parent.parent / "vectors" / "decoder"


@pytest.mark.parametrize(
    "kernels", [NumpyKernels, lambda: NativeKernels(1)], ids=["numpy", "native"]
)
@pytest.mark.parametrize("name", CASES)
def test_stored_outputs_of_transformers(name: str, kernels: type[NumpyKernels]) -> None:
    case = CASES[name]
    rows = list(case.logit_rows)
    config_file = FOLDER / f"{name}.json"
    config = config_from_hf(json.loads(config_file.read_text(encoding="utf-8")), config_file)
    assert config == case.config
    stacks: dict[int, Array] = {}

    def keep(layer_idx: int, streams: Array) -> None:
        stacks[layer_idx] = streams[rows].copy()

    decoder = make_decoder(config, weights=random_weights(config, case.seed), kernels=kernels())
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as stored:
        logits = one_shot(decoder, stored["input_ids"].tolist(), keep)
        for i in case.stack_layers:
            theirs = stored[f"layer_{i}"]
            # Bounds and their reasons: docs/model.md, "Numerics and tolerances".
            assert np.abs(stacks[i] - theirs).max() / theirs.std() <= 1e-4, f"layer {i}"
        assert np.abs(logits[rows] - stored["logits"]).max() <= 2e-4
