"""Trains the network for a number of steps or minutes; resumable, seeded, on the CPU."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch

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
    threads: int = 2
    compiled: bool = True
    save_every_s: float = 120.0


def schedule(progress: float, step: int) -> float:
    """Share of the peak learning rate: short warm-up, flat, then linear to zero from 30 %."""
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
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": done.__dict__}
    torch.save(state, folder / "state.tmp")
    (folder / "state.tmp").replace(folder / "state.pt")


def _log(folder: Path, done: Progress, fraction: float) -> None:
    line = {**done.__dict__, "progress": round(fraction, 4), "time": time.strftime("%H:%M:%S", time.gmtime())}
    with (folder / "log.jsonl").open("a", encoding="utf-8") as f:
        f.write(json.dumps(line) + "\n")


def run(settings: Settings) -> Progress:
    """Trains (or goes on training) and returns what was done; the state lies in the folder."""
    torch.set_num_threads(settings.threads)
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
    saved = time.monotonic()
    while True:
        began = time.monotonic()
        fraction = done.step / settings.steps if settings.steps else done.seconds / (60 * settings.minutes)
        if fraction >= 1.0:
            break
        batch = batches.build(tok, settings.seed, done.step)
        value = compute(model, batch)
        value.backward()
        optimizer.step(schedule(fraction, done.step))
        done.loss = value.item() if done.step == 0 else 0.98 * done.loss + 0.02 * value.item()
        done.step += 1
        done.tokens += batch.num_tokens
        if done.step > 5 or not settings.compiled:
            done.seconds += time.monotonic() - began
        if done.step % 50 == 0:
            _log(settings.folder, done, fraction)
        if time.monotonic() - saved > settings.save_every_s:
            _save(settings.folder, model, optimizer, done)
            saved = time.monotonic()
    _save(settings.folder, model, optimizer, done)
    return done
