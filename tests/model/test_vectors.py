"""Both decoders against outputs of transformers that were stored once (tests/vectors/README.md)."""

import json
from pathlib import Path

import numpy as np
import pytest

from nestling.model.hf_config import config_from_hf
from tests.model.native_decoder import Native
from tests.model.session import Array, make_decoder, one_shot
from tests.model.tiny import random_weights
from tests.native.variants import VARIANTS
from tests.vectors.decoder_cases import CASES

FOLDER = Path(__file__).parent.parent / "vectors" / "decoder"
ENGINES = {"numpy": None} | {
    f"{variant}-{'sparse' if sparse else 'dense'}": Native(
        variant=variant, sparse_feed_forward=sparse, num_threads=2
    )
    for variant in VARIANTS
    for sparse in (True, False)
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CASES)
def test_stored_outputs_of_transformers(name: str, engine: str) -> None:
    case = CASES[name]
    rows = list(case.logit_rows)
    config_file = FOLDER / f"{name}.json"
    config = config_from_hf(json.loads(config_file.read_text(encoding="utf-8")), config_file)
    assert config == case.config
    stacks: dict[int, Array] = {}

    def keep(layer_idx: int, streams: Array) -> None:
        stacks[layer_idx] = streams[rows].copy()

    weights = random_weights(config, case.seed)
    decoder = make_decoder(config, native=ENGINES[engine], weights=weights)
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as stored:
        logits = one_shot(decoder, stored["input_ids"].tolist(), keep)
        for i in case.stack_layers:
            theirs = stored[f"layer_{i}"]
            # Bounds and their reasons: docs/model.md, "Numerics and tolerances".
            assert np.abs(stacks[i] - theirs).max() / theirs.std() <= 1e-4, f"layer {i}"
        assert np.abs(logits[rows] - stored["logits"]).max() <= 2e-4
