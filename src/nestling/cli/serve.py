"""`nestling serve`: the one place that wires engine, tokenizer, keys and HTTP together."""

import asyncio
import hashlib
import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import typer

from nestling import __version__
from nestling.accounts.accounts import Accounts
from nestling.accounts.api_keys import KeyStore
from nestling.accounts.data_dir import ServerLock, prepare_data_dir
from nestling.accounts.key_records import ApiKey, NewKey
from nestling.accounts.money import Prices
from nestling.api.app import create_app
from nestling.chat.files import FileLimits
from nestling.chat.service import ChatService, ModelIdentity
from nestling.chat.tokenizer import end_token_ids, open_tokenizer
from nestling.cli.options import DataDir, Engine, Model, Threads, command_line
from nestling.cli.output import print_text
from nestling.cli.progress import packing_bar
from nestling.cli.streams import OutputError
from nestling.engine.clients.process_engine import EngineTimeouts, ProcessEngine
from nestling.engine.config import EngineConfig
from nestling.errors import ModelFileError, NestlingError
from nestling.log import configure_logging, get_logger
from nestling.plain_text import escape_line
from nestling.server.listening import reach
from nestling.server.serving import run, spare_startup_objects
from nestling.server.serving import serve as serve_app
from nestling.settings import Settings, load_settings
from nestling.weights.catalog import DOCUMENTED_MODEL_ID, ModelEntry, find_model
from nestling.weights.checkpoint import Checkpoint, load_checkpoint
from nestling.weights.fingerprint import sampled_digest
from nestling.weights.progress import Progress

FIRST_KEY_NAME = "first start"
_log = get_logger("cli")

app = command_line()


@app.command()
def serve(
    model: Model = None,
    host: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Address to listen on. Default: 127.0.0.1."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER", help="Port to listen on; 0 takes a free one. Default: 8000."
        ),
    ] = None,
    data_dir: DataDir = None,
    threads: Threads = None,
    engine: Engine = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Settings file, instead of nestling.toml in the data folder."
        ),
    ] = None,
) -> None:
    """Start the server.

    The first start makes an API key and prints it once.
    """
    arguments = {
        "model": model,
        "host": host,
        "port": port,
        "data_dir": data_dir,
        "threads": threads,
        "engine": engine,
    }
    settings = load_settings(arguments, config=config)
    configure_logging(settings.log_level, settings.log_format)
    run(_serve(settings))


async def _serve(settings: Settings) -> None:
    entry = find_model(settings.model, settings.data_dir)
    checkpoint = load_checkpoint(entry.path)
    async with AsyncExitStack() as stack:
        stack.enter_context(ServerLock(prepare_data_dir(settings.data_dir)))
        bar = packing_bar(entry.path.name)
        engine = _make_engine(settings, entry, bar.update)
        starting = asyncio.create_task(engine.start())
        stack.push_async_callback(engine.stop)
        tokenizer = await asyncio.to_thread(open_tokenizer, checkpoint)
        prices = Prices.per_million(
            settings.usd_per_million_prompt_tokens, settings.usd_per_million_completion_tokens
        )
        accounts = await Accounts.open(settings.data_dir, prices)
        stack.push_async_callback(accounts.close)
        with bar:
            await starting
        if tokenizer is None:
            raise ModelFileError(entry.path, "expected a tokenizer.json beside it; none is there")
        files = FileLimits(settings.max_file_pages, settings.file_timeout_s, settings.scanned_pages)
        identity = await asyncio.to_thread(identify, entry, checkpoint, settings)
        chat = ChatService(engine, tokenizer, identity, files)
        announcement = _Announcement(entry, settings, await _first_key(accounts.keys))
        app = create_app(chat, accounts, settings, engine.health)
        spare_startup_objects()
        try:
            await serve_app(app, settings, announcement.show)
        finally:
            await announcement.take_back(accounts.keys)


def _make_engine(settings: Settings, entry: ModelEntry, on_load: Progress) -> ProcessEngine:
    timeouts = EngineTimeouts(
        step_s=settings.engine_timeout_s, load_s=settings.engine_load_timeout_s
    )
    return ProcessEngine(engine_config(settings, entry), timeouts=timeouts, on_load=on_load)


async def _first_key(keys: KeyStore) -> tuple[ApiKey, str] | None:
    """Make a key if there is none yet."""
    return None if await keys.list() else await keys.create(NewKey(name=FIRST_KEY_NAME))


class _Announcement:
    """The banner of a start, with the key that was made for it, if one was."""

    def __init__(
        self, entry: ModelEntry, settings: Settings, first_key: tuple[ApiKey, str] | None
    ) -> None:
        self._entry = entry
        self._settings = settings
        self._key = first_key and first_key[0]
        self._secret = first_key and first_key[1]

    def show(self, url: str) -> None:
        """Print the banner. Without a key in it, a server also runs if nobody can read it."""
        try:
            print_text(banner(url, self._entry, self._settings, self._secret))
            sys.stdout.flush()
        except OutputError as error:
            if self._key is not None:
                raise NestlingError(
                    f"{error.message}, so the first API key cannot be shown; no key was made"
                ) from None
            _log.warning("banner not shown", problem=error.message)
        self._key = None

    async def take_back(self, keys: KeyStore) -> None:
        """Delete a key that nobody has seen."""
        if self._key is not None:
            await keys.delete(self._key.key_id)


def engine_config(settings: Settings, entry: ModelEntry) -> EngineConfig:
    """Return the engine's part of the settings."""
    return EngineConfig(
        model=str(entry.path),
        engine=settings.engine,
        dtype=settings.dtype,
        num_threads=settings.threads or 0,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        max_step_s=settings.max_step_s,
        max_model_len=settings.max_model_len,
        kv_cache_bytes=settings.kv_cache_bytes,
        kv_dtype=settings.kv_dtype,
        prefix_caching=settings.prefix_caching,
        packed_dir=settings.packed_dir,
        log_level=settings.log_level,
        log_format=settings.log_format,
    )


def identify(entry: ModelEntry, checkpoint: Checkpoint, settings: Settings) -> ModelIdentity:
    """Return what replies call the model. The fingerprint covers weights, quantisation, engine."""
    engine = (__version__, settings.engine, settings.dtype, settings.kv_dtype)
    weights = (checkpoint.quantization, checkpoint.config, sampled_digest(entry.path))
    seen = (engine, entry.model_id, weights)
    fingerprint = hashlib.sha256(repr(seen).encode()).hexdigest()[:12]
    return ModelIdentity(
        model_id=entry.model_id,
        aliases=(DOCUMENTED_MODEL_ID,),
        fingerprint=f"fp_{fingerprint}",
        end_token_ids=end_token_ids(checkpoint),
    )


def banner(url: str, entry: ModelEntry, settings: Settings, first_key: str | None) -> str:
    """Return what a person sees when the server is ready."""
    lines = [f"Nestling {__version__} is ready: {url}", ""]
    if entry.is_embedded:
        lines += [
            f"  model  {entry.model_id}, the embedded demo, answers for {DOCUMENTED_MODEL_ID}",
            "         until you name the real model: make serve MODEL=/path/to/model",
        ]
    else:
        lines += [escape_line(f"  model  {entry.model_id} ({entry.path})")]
    lines += [escape_line(f"  data   {settings.data_dir}")]
    if reach(settings.host) != settings.host:
        lines += [f"  host   {settings.host}, which is {reach(settings.host)}"]
    if first_key is None:
        lines += [
            "  key    one of yours (nestling keys list), or: nestling keys create --name NAME"
        ]
    else:
        lines += [
            f"  key    {first_key}",
            "         made just now and shown only this once; keep it",
        ]
    key = first_key or "YOUR_KEY"
    example = {
        "model": DOCUMENTED_MODEL_ID,
        "messages": [{"role": "user", "content": "Hello!"}],
    }
    lines += [
        "",
        "Try it:",
        f"  curl {url}/v1/chat/completions -H 'Authorization: Bearer {key}' \\",
        "    -H 'Content-Type: application/json' \\",
        f"    -d '{json.dumps(example)}'",
        "",
    ]
    return "\n".join(lines)
