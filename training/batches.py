"""Packs conversations into rows; every conversation sees only itself and starts at position 0."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from training.chatform import ChatTokenizer
from training.data import conversation

NUM_ROWS, ROW_LEN, NUM_CHOSEN, SLIDING_WINDOW = 16, 192, 80, 64


@dataclass
class Batch:
    """One step: R rows of T tokens, of which C a row are predicted from."""

    ids: Tensor  # [R, T]
    positions: Tensor  # [R, T]
    full: Tensor  # [R, 1, T, T], 0 or a large negative number
    sliding: Tensor  # [R, 1, T, T]
    chosen: Tensor  # [R, C] indices into T
    chosen_full: Tensor  # [R, 1, C, T]
    chosen_sliding: Tensor  # [R, 1, C, T]
    targets: Tensor  # [R, C], -100 where nothing is asked
    num_tokens: int  # in all rows of the step, whoever computes them
    num_targets: Tensor  # likewise


@dataclass
class _Row:
    ids: list[int]
    positions: list[int]
    segments: list[int]
    chosen: list[int]
    targets: list[int]


def _place(rows: list[_Row], ids: list[int], trained: list[bool], segment: int) -> bool:
    wanted = [i - 1 for i, t in enumerate(trained) if t]
    for row in rows:
        start = len(row.ids)
        if start + len(ids) <= ROW_LEN and len(row.chosen) + len(wanted) <= NUM_CHOSEN:
            row.ids += ids
            row.positions += range(len(ids))
            row.segments += [segment] * len(ids)
            row.chosen += [start + i for i in wanted]
            row.targets += [ids[i + 1] for i in wanted]
            return True
    return False


def _padded(values: list[int], size: int, fill: int) -> list[int]:
    return values + [fill] * (size - len(values))


def build(tok: ChatTokenizer, seed: int, step: int, rank: int = 0, workers: int = 1) -> Batch:
    """Return one worker's rows of a step, from the arguments alone."""
    rng = random.Random(f"{seed}/{step}")
    rows = [_Row([], [], [], [], []) for _ in range(NUM_ROWS)]
    misses, segment = 0, 0
    while misses < 12:
        talk = conversation(rng)
        messages = [*talk.messages(), {"role": "assistant", "content": talk.turns[-1].answer}]
        ids, trained = tok.encode(messages)
        ids, trained = ids[:-1], trained[:-1]
        segment += 1
        misses += 0 if _place(rows, ids, trained, segment) else 1
    num_tokens = sum(len(r.ids) for r in rows)
    num_targets = torch.tensor(float(sum(len(r.targets) for r in rows)))
    rows = rows[rank::workers]
    ids_t = torch.tensor([_padded(r.ids, ROW_LEN, 0) for r in rows])
    positions = torch.tensor([_padded(r.positions, ROW_LEN, 0) for r in rows])
    segments = torch.tensor([_padded(r.segments, ROW_LEN, 0) for r in rows])
    chosen = torch.tensor([_padded(r.chosen, NUM_CHOSEN, 0) for r in rows])
    targets = torch.tensor([_padded(r.targets, NUM_CHOSEN, -100) for r in rows])
    index = torch.arange(ROW_LEN)
    gap = index[:, None] - index[None, :]
    seen = (segments[:, :, None] == segments[:, None, :]) & (gap >= 0)
    full = torch.where(seen, 0.0, -1e9)[:, None]
    sliding = torch.where(seen & (gap < SLIDING_WINDOW), 0.0, -1e9)[:, None]
    at = torch.arange(len(rows))[:, None]
    return Batch(
        ids_t,
        positions,
        full,
        sliding,
        chosen,
        full[at, 0, chosen][:, None].contiguous(),
        sliding[at, 0, chosen][:, None].contiguous(),
        targets,
        num_tokens,
        num_targets,
    )
