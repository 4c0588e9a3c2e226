"""Trains the network for a number of steps or minutes; resumable, seeded, on the CPU.

Workers are processes of one thread each that share gradients once a step: on a busy machine that
waits far less than threads, which meet at the end of every kernel.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from training import batches, network
from training.chatform import ChatTokenizer
from training.optimizer import Optimizer


@dataclass(frozen=True)
class Settings:
    """How to train. The schedule follows `steps`, or the clock when only `minutes` is given."""

    folder: Path
    seed: int = 1
    steps: int | None = None
    minutes: float = 60.0
    workers: int = 2
    compiled: bool = True
    save_every_s: float = 120.0


def schedule(progress: float, step: int) -> float:
    """Return the share of the peak rate: short warm-up, flat, then linear to zero from 30 %."""
    warm = min(1.0, (step + 1) / 100)
    return warm * min(1.0, max(0.0, (1.0 - progress) / 0.7))


@dataclass
class Progress:
    """What a run has done so far."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    loss: float = 0.0


def _save(folder: Path, model: torch.nn.Module, optimizer: Optimizer, done: Progress) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "progress": done.__dict__,
    }
    torch.save(state, folder / "state.tmp")
    (folder / "state.tmp").replace(folder / "state.pt")


def _log(folder: Path, done: Progress, fraction: float) -> None:
    line = {
        **done.__dict__,
        "progress": round(fraction, 4),
        "time": time.strftime("%H:%M:%S", time.gmtime()),
    }
    with (folder / "log.jsonl").open("a", encoding="utf-8") as f:
        f.write(json.dumps(line) + "\n")


def _agreed(fraction: float) -> float:
    """Return the first worker's clock, so that all follow one schedule."""
    value = torch.tensor(fraction, dtype=torch.float64)
    if dist.is_initialized():
        dist.broadcast(value, 0)
    return float(value.item())


def _worker(rank: int, settings: Settings) -> None:
    torch.set_num_threads(1)
    if settings.workers > 1:
        store = (settings.folder / "workers").resolve()
        dist.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=settings.workers
        )
    tok = ChatTokenizer.load(settings.folder / "tokenizer")
    model = network.fresh(settings.seed, tok.tok.get_vocab_size())
    optimizer, done = Optimizer(model), Progress()
    path = settings.folder / "state.pt"
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = Progress(**state["progress"])
    compute = torch.compile(network.loss, dynamic=False) if settings.compiled else network.loss
    saved, started = time.monotonic(), done.step
    while True:
        began = time.monotonic()
        spent = (
            done.step / settings.steps if settings.steps else done.seconds / (60 * settings.minutes)
        )
        fraction = _agreed(spent)
        if fraction >= 1.0:
            break
        batch = batches.build(tok, settings.seed, done.step, rank, settings.workers)
        value = compute(model, batch)
        torch.autograd.backward(value)
        optimizer.step(schedule(fraction, done.step))
        summed = value.detach().clone()
        if settings.workers > 1:
            dist.all_reduce(summed)
        done.loss = summed.item() if done.step == 0 else 0.98 * done.loss + 0.02 * summed.item()
        done.step += 1
        done.tokens += batch.num_tokens
        if done.step > started + 2 or not settings.compiled:
            done.seconds += time.monotonic() - began
        if rank == 0 and done.step % 25 == 0:
            _log(settings.folder, done, fraction)
        if rank == 0 and time.monotonic() - saved > settings.save_every_s:
            _save(settings.folder, model, optimizer, done)
            saved = time.monotonic()
    if rank == 0:
        _save(settings.folder, model, optimizer, done)
    if settings.workers > 1:
        dist.barrier()
        dist.destroy_process_group()


def run(settings: Settings) -> None:
    """Train, or go on training; the state lies in the folder."""
    (settings.folder / "workers").unlink(missing_ok=True)
    if settings.workers == 1:
        _worker(0, settings)
    else:
        spawn(_worker, (settings,), nprocs=settings.workers)
