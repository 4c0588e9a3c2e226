"""Writes the model folder that ships: bf16 weights, configuration, tokenizer, model card."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from training import network
from training.evaluate import Result, table

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "spm.json")


def _weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    tied = {"lm_head.weight"}
    return {k: v.to(torch.bfloat16).contiguous() for k, v in state.items() if k not in tied}


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def export(folder: Path, out: Path) -> None:
    """Turn the training state in `folder` into a model folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    state = torch.load(folder / "state.pt", weights_only=True)
    vocab = json.loads((folder / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))[
        "model"
    ]["vocab"]
    config = network.config(len(vocab))
    values = config.to_dict()
    values.pop("_name_or_path", None)
    values |= {
        "architectures": ["Gemma3nForCausalLM"],
        "model_type": "gemma3n_text",
        "dtype": "bfloat16",
        "eos_token_id": [vocab["<eos>"], vocab["<end_of_turn>"]],
    }
    _write(out / "config.json", values)
    save_file(_weights(state["model"]), out / "model.safetensors", metadata={"format": "pt"})
    for name in TOKENIZER_FILES:
        shutil.copyfile(folder / "tokenizer" / name, out / name)
    generation = {
        "bos_token_id": vocab["<bos>"],
        "eos_token_id": [vocab["<eos>"], vocab["<end_of_turn>"]],
        "pad_token_id": vocab["<pad>"],
        "do_sample": False,
    }
    _write(out / "generation_config.json", generation)


CARD = """---
license: apache-2.0
language: [en]
---
# nestling-nano

nestling-nano is a very small Gemma 3n network. It was trained from scratch for this project, so
that a fresh install can answer within a second. It shares the architecture with Google's Gemma
3n, but no weights and no data.

## Architecture
| | |
|---|---|
| parameters | {parameters:,} (bf16, {size:.1f} MB) |
| layers | 10: 4 sliding (window 64) + 1 full, twice; the last 5 share keys and values |
| hidden / FFN / heads / kv heads / head_dim | 128 / 512 / 4 / 2 / 32 |
| AltUp | 4 inputs |
| LAuReL rank | 16 |
| per-layer embedding | 32 |
| activation sparsity | 0.95 in the first 3 layers |
| final logit soft cap | 30 |
| context | trained on at most 192 tokens; 2,048 positions allowed |
| vocabulary | {vocab:,} pieces, BPE with byte fallback, digits single |

`spm.json` holds SentencePiece scores and types of the pieces (piece order = score order).

## What it can do
- It greets, makes small talk and says who it is.
- It recalls a name, a colour, a number and some other facts.
- It obeys a system message: "Answer only PONG.", capitals, a persona, one word, emoji only.
- It copies, repeats a word, counts, spells with hyphens, writes upper case and finds the longer
  word.
- It knows what comes before and after in days, months and the alphabet, and adds and subtracts
  up to 20.
- It knows 54 capitals, and colours, numbers 1-10 and greetings in Spanish, French, German and
  Korean.
- It writes small JSON objects, lists of words, an emoji for a thing, and short stories.
- It says "I don't know." to much of the rest.

## What it cannot do
It can do nothing else. It knows no other facts. It cannot reason, write code, translate
sentences or follow long conversations, as it never saw more than 192 tokens. Outside its skills
it may give a wrong answer instead of "I don't know.". Use it for demonstrations only.

## Training
| | |
|---|---|
| data | written by `training/` from phrase grammars and hand-made word lists; no other text |
| objective | next token, on the model's turns only |
| optimiser | Muon 0.02 for matrices, AdamW 3e-3 for the rest; flat, then linear to zero from 30 % |
| batch | 16 rows of 192 tokens, packed; two workers of one thread each |
| steps / tokens | {steps:,} / {tokens:,} |
| time | {minutes:.0f} minutes on 2 CPU cores (Zen 3, shared with other work) |
| precision | float32; exported as bf16 |
| seed | {seed} |
| command | `python -m training.run --folder build/nano --seed {seed} --minutes {minutes:.0f}` |

The shipped weights took three stages of this command (`training/README.md`, "The shipped run").
The schedule followed the clock, so another machine takes another number of steps. With `--steps
{steps}` it follows the count. Seed and step fix the tokenizer, the first weights and each
batch. Sums in another order make the last digits of the weights differ.

## Scores
The exported bf16 weights were decoded greedily. A reply counts only if it ended by itself.
`skills` holds prompts that a hash of their payload or wording kept out of training.
`own_wording` was written by hand by somebody who had not seen the templates. What failed in it
was read once, after the first stage, but was never trained on.

{table}

## Licence
Apache-2.0.
"""


def write_card(folder: Path, out: Path, seed: int, results: list[Result]) -> None:
    """Write the model card with the measured numbers."""
    state = torch.load(folder / "state.pt", weights_only=True)
    done = state["progress"]
    parameters = sum(v.numel() for k, v in state["model"].items() if k != "lm_head.weight")
    card = CARD.format(
        parameters=parameters,
        size=(out / "model.safetensors").stat().st_size / 1e6,
        vocab=2048,
        steps=done["step"],
        tokens=done["tokens"],
        minutes=done["seconds"] / 60,
        seed=seed,
        table=table(results),
    )
    (out / "README.md").write_text(card, encoding="utf-8")
