"""Every setting of the server, declared once: name, type, bounds, default.

Read in this order, the later one wins: defaults, the TOML file, `NESTLING_*` variables, arguments.
Frozen after that. An unknown key or a bad value anywhere stops the start with a `SettingsError`
that names the place, the key, what was expected and what came.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from platformdirs import user_data_path
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import EnvSettingsSource as EnvironmentSource

from nestling.addresses import host_name, listen_address, web_origin
from nestling.errors import SettingsError
from nestling.log import LogFormat, LogLevel
from nestling.plain_text import NotUtf8Error, decode_utf8

ENV_PREFIX = "NESTLING_"
CONFIG_FILE_NAME = "nestling.toml"
_SEE_TABLE = "docs/operations.md lists the settings"
FLAGS = frozenset({"prefix_caching", "pack_cache"})
"""The settings that are true or false."""
_FOREIGN = re.compile(
    r"API_KEY|BASE_URL"  # what clients of a server are told
    r"|(.+_)?SERVICE_(HOST|PORT(_.+)?)|(.+_)?PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?"
)
"""Ends of `NESTLING_` variables that others set. Kubernetes and Docker describe each service in
variables that begin with its name."""
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://.*")
"""The value of NESTLING_PORT, and of NESTLING_..._PORT, if an orchestrator has set it."""


def _integer(value: object) -> object:
    """Turn digits, as environment variables and arguments hold them, into a number."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _flag(value: object) -> object:
    """Take true and false, and their names as environment variables hold them; no numbers."""
    named = {"true": True, "false": False}.get(value) if isinstance(value, str) else value
    if not isinstance(named, bool):
        raise ValueError("true or false")  # noqa: TRY004 - pydantic collects ValueErrors
    return named


def _folder(value: object) -> Path:
    """Return the absolute path of a folder, which need not be there yet."""
    text = str(value) if isinstance(value, (str, Path)) else ""
    if not text or "\0" in text:
        raise ValueError("the path of a folder")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise ValueError("a folder, without ~ as that home directory is unknown") from None


def _default_data_dir() -> Path:
    path = user_data_path("nestling")
    if not path.is_absolute():
        raise SettingsError("data_dir: this user has no home directory; name a folder")
    return path


def _any_or_named(origins: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse origins that make no difference."""
    if "*" in origins and len(origins) > 1:
        raise ValueError("* alone, which is any origin, or a list without it")
    return origins


HostNames = Annotated[tuple[Annotated[str, AfterValidator(host_name)], ...], NoDecode]
Origins = Annotated[
    tuple[Annotated[str, AfterValidator(web_origin)], ...], NoDecode, AfterValidator(_any_or_named)
]
SuccessStatus = Annotated[Literal[200, 201], BeforeValidator(_integer)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]


def _whole_nano_usd(value: float) -> float:
    """Accept prices that are a whole number of nano-dollars a token."""
    if abs(value * 1000 - round(value * 1000)) > 1e-6:
        raise ValueError("a number with at most three decimals")
    return value


Price = Annotated[
    float, Field(ge=0, le=1_000_000, allow_inf_nan=False), AfterValidator(_whole_nano_usd)
]


class Settings(BaseSettings):
    """Settings of `nestling serve`. Build them with `load_settings`, in tests also directly."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    host: Annotated[str, AfterValidator(listen_address)] = Field(
        "127.0.0.1", description="address to listen on"
    )
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    data_dir: Annotated[Path, BeforeValidator(_folder)] = Field(
        default_factory=_default_data_dir,
        description="folder of the accounts database, the pepper, nestling.toml, packed weights",
    )
    model: str | None = Field(
        None,
        min_length=1,
        description="name or path of the model; if unset, the first that `nestling models` lists",
    )
    engine: Literal["native", "reference"] = Field(
        "native", description="the C++ core, or the slow numpy reference"
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16", "q8", "q4"] = Field(
        "auto", description="how matrices are held; auto: as in the file; q8, q4: quantised at load"
    )
    pack_cache: Flag = Field(
        True, description="keep a large model's packed weights in data_dir, for fast starts"
    )
    threads: int | None = Field(
        None, ge=1, le=256, description="compute threads; all usable physical cores if unset"
    )
    max_num_seqs: int = Field(64, ge=1, le=1024, description="requests that are computed at once")
    max_num_batched_tokens: int | None = Field(
        None,
        ge=16,
        le=65_536,
        description="tokens of one engine step; by the model's size if unset",
    )
    max_step_s: Seconds = Field(
        0.4, description="longest engine step, by estimate, that decode requests wait for a prompt"
    )
    engine_timeout_s: Seconds = Field(
        10.0, description="time without progress, while there is work, after which it is replaced"
    )
    engine_load_timeout_s: Seconds = Field(
        600.0, description="time without progress after which a load of the model is given up"
    )
    kv_cache_bytes: int = Field(
        2 * 2**30,
        ge=1,
        le=2**48,
        description="memory for keys and values; one context fits at the least",
    )
    kv_dtype: Literal["auto", "float16", "float32"] = Field(
        "auto",
        description="how keys and values are held; auto: float16 if the weights are quantised",
    )
    prefix_caching: Flag = Field(
        True, description="take over what the cache still has of a prompt's beginning"
    )
    max_model_len: int | None = Field(
        None,
        ge=16,
        le=2**31 - 1,
        description="tokens of prompt and answer together; the model's own if unset",
    )
    system_role: Literal["fold", "refuse"] = Field(
        "fold",
        description="system and developer messages: fold them into the first user turn, or refuse "
        "them with 400 as the hosted API does",
    )
    requests_per_minute: int = Field(
        60_000, ge=1, le=10**9, description="requests of one key per minute"
    )
    tokens_per_minute: int = Field(
        60_000_000, ge=1, le=10**12, description="tokens of one key per minute, answers included"
    )
    usd_per_million_prompt_tokens: Price = Field(
        0.02, description="what a key's spending limit is charged for prompts, in USD"
    )
    usd_per_million_completion_tokens: Price = Field(
        0.04, description="what a key's spending limit is charged for answers, in USD"
    )
    max_file_bytes: int = Field(8 * 2**20, ge=1024, description="largest file part, decoded")
    max_file_pages: int = Field(200, ge=1, le=10_000, description="most pages of a PDF")
    scanned_pages: Literal["mark", "refuse"] = Field(
        "mark",
        description="pages of a PDF whose text cannot be read, beside others: mark them for the "
        "model, or refuse the file",
    )
    file_timeout_s: Seconds = Field(10.0, description="time to read one file part's text")
    success_status: SuccessStatus = Field(201, description="HTTP status of a completed chat")
    cors_origins: Origins = Field(
        ("*",), description='web origins that may call the API, comma-separated; "*" is any'
    )
    allowed_hosts: HostNames = Field(
        (), description="names the Host header may carry besides loopback ones, comma-separated"
    )
    max_body_bytes: int = Field(16 * 2**20, ge=1024, description="largest request body")
    max_header_bytes: int = Field(2**16, ge=4096, description="largest request head")
    header_timeout_s: Seconds = Field(10.0, description="time for a request head to arrive")
    body_timeout_s: Seconds = Field(30.0, description="time for a request body to arrive")
    write_timeout_s: Seconds = Field(
        30.0, description="time for a client to read what piles up of its answer"
    )
    idle_timeout_s: int = Field(
        75, ge=1, le=86400, description="life of a connection between requests, in whole seconds"
    )
    keep_alive_interval_s: Seconds = Field(
        10.0, description="silence in a stream after which a comment line is sent"
    )
    shutdown_timeout_s: Seconds = Field(
        25.0, description="time that running requests get to finish after SIGTERM"
    )
    log_level: LogLevel = Field("info", description="least level")
    log_format: LogFormat = Field(
        "auto", description="console on a terminal and json elsewhere, or always one of them"
    )

    @property
    def packed_dir(self) -> str | None:
        """Return the folder of packed weights, None if they are not kept."""
        return str(self.data_dir / "packed") if self.pack_cache else None

    @field_validator("cors_origins", "allowed_hosts", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_booleans(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and info.field_name not in FLAGS:
            raise ValueError("a number or text")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - these are the library's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from the constructor only: `load_settings` merges, so it can name places."""
        return (init_settings,)


def load_settings(
    arguments: Mapping[str, object] | None = None, *, config: Path | None = None
) -> Settings:
    """Merge all sources. `arguments` that are None count as not given.

    `config` must exist; without it `<data_dir>/nestling.toml` is read if it is there.
    """
    given = {name: value for name, value in (arguments or {}).items() if value is not None}
    environment = _read_environment()
    path = config if config is not None else _default_config_path({**environment, **given})
    from_file = _read_file(path, must_exist=config is not None)
    merged = {**from_file, **environment, **given}
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = str(problem["loc"][0])
        value = merged[key] if len(problem["loc"]) == 1 else problem["input"]
        expected, got = _expected(problem["msg"]), _shown(value)
    else:
        key, most = "max_file_bytes", settings.max_body_bytes * 3 // 4
        if key not in merged or settings.max_file_bytes <= most:
            return settings
        expected = f"at most {most}, as files come in base64 within max_body_bytes"
        got = _shown(merged[key])
    place = _place(key, given, environment, path)
    raise SettingsError(f"{place}: {key}: expected {expected}, but got {got}", param=key)


def _read_environment() -> dict[str, Any]:
    """Return the settings among the environment variables, raw; refuse unknown NESTLING_ ones."""
    unknown = []
    for variable, value in sorted(os.environ.items()):
        prefix, name = variable[: len(ENV_PREFIX)].upper(), variable[len(ENV_PREFIX) :]
        if prefix != ENV_PREFIX or name.lower() in Settings.model_fields:
            continue
        is_service = name.upper().endswith("_PORT") and _SERVICE_URL.fullmatch(value)
        if not is_service and not _FOREIGN.fullmatch(name.upper()):
            unknown.append(variable)
    if len(unknown) == 1:
        name = unknown[0][len(ENV_PREFIX) :].lower()
        raise _unknown_key(f"environment variable {unknown[0]}", name)
    if unknown:
        names = ", ".join(unknown)
        raise SettingsError(f"environment variables {names}: these are no settings; {_SEE_TABLE}")
    values = dict(EnvironmentSource(Settings, env_prefix=ENV_PREFIX)())
    if _SERVICE_URL.fullmatch(str(values.get("port", ""))):
        del values["port"]
    return values


def _default_config_path(given: Mapping[str, Any]) -> Path:
    """Return where nestling.toml would be, by the data directory that is `given` or the default."""
    try:
        folder = _folder(given["data_dir"]) if "data_dir" in given else _default_data_dir()
    except ValueError:  # the value is refused with all others, in one place
        folder = Path(os.devnull)
    return folder / CONFIG_FILE_NAME


def _read_file(path: Path, *, must_exist: bool) -> dict[str, Any]:
    """Return the raw content of a TOML file, its keys checked; empty if there is none."""
    try:
        content = tomllib.loads(decode_utf8(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        if must_exist:
            raise SettingsError(f"{path}: expected a settings file, but there is none") from None
        return {}
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except NotUtf8Error as error:
        raise SettingsError(f"{path}: expected TOML, but {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: expected TOML, but got: {error}") from None
    for key in content:
        if key not in Settings.model_fields:
            raise _unknown_key(_line_of(path, key), key)
    return content


def _unknown_key(place: str, key: str) -> SettingsError:
    close = difflib.get_close_matches(key, Settings.model_fields, n=1)
    hint = f"did you mean {close[0]}?" if close else _SEE_TABLE
    return SettingsError(f"{place}: {key} is not a setting; {hint}", param=key)


def _place(key: str, given: Mapping[str, Any], environment: Mapping[str, Any], path: Path) -> str:
    """Say where the value that was used for `key` came from."""
    if key in given:
        return "argument"
    if key in environment:
        return f"environment variable {ENV_PREFIX}{key.upper()}"
    return _line_of(path, key)


def _line_of(path: Path, key: str) -> str:
    """Return `path:line` of a top-level key, or just the path if no line starts with it."""
    pattern = re.compile(rf'\s*(\[?)"?{re.escape(key)}"?\s*[=.\]]')
    for number, line in enumerate(decode_utf8(path.read_bytes()).splitlines(), start=1):
        if pattern.match(line):
            return f"{path}:{number}"
    return str(path)


def _expected(message: str) -> str:
    """Return what fits, out of a message of pydantic's."""
    wanted = message.removeprefix("Value error, ").removeprefix("Input should be ")
    return wanted.replace("String should have", "text of").partition(", unable to parse")[0]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
