"""Captures what transformers answers for the models of `decoder_cases.py`.

`python -m tests.vectors.capture_decoder`, where torch and transformers are (`make parity` installs
them); commit what changes in tests/vectors/decoder/ with the versions in tests/vectors/README.md.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from tests.model.tiny import random_weights, token_ids
from tests.parity.transformers_decoder import ReferenceDecoder
from tests.vectors.decoder_cases import CASES, DecoderCase

FOLDER = Path(__file__).parent / "decoder"


def capture(name: str, case: DecoderCase) -> None:
    """Writes `<name>.json` (config.json as transformers saves it) and `<name>.npz`."""
    ids = token_ids(case.config, case.num_tokens, case.seed)
    reference = ReferenceDecoder(case.config, random_weights(case.config, case.seed))
    output = reference.run(ids)
    rows = list(case.logit_rows)
    arrays: dict[str, Any] = {f"layer_{i}": output.stacks[i][rows] for i in case.stack_layers}
    arrays |= {"input_ids": np.array(ids, np.int32), "logits": output.logits[rows]}
    np.savez_compressed(FOLDER / f"{name}.npz", **arrays)
    text = json.dumps(reference.model.config.to_diff_dict(), indent=1, sort_keys=True)
    (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Captures every case and prints the versions for the README."""
    FOLDER.mkdir(exist_ok=True)
    for name, case in CASES.items():
        capture(name, case)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")


if __name__ == "__main__":
    main()
