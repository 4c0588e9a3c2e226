"""Settings: where they come from, who wins, and that nothing wrong is let by."""

import json
import re
from pathlib import Path

import pytest

from nestling.errors import SettingsError
from nestling.settings import ENV_PREFIX, Settings, load_settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in list(os.environ):
        if name.upper().startswith(ENV_PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NESTLING_DATA_DIR", str(tmp_path))


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "nestling.toml"
    path.write_text(text)
    return path


def test_defaults() -> None:
    settings = load_settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.success_status == 201


def test_the_later_source_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 'port = 1\nmax_num_seqs = 2\nhost = "::1"\ncors_origins = ["http://a"]\n')
    monkeypatch.setenv("NESTLING_PORT", "3")
    monkeypatch.setenv("nestling_max_num_seqs", "4")
    settings = load_settings({"port": 5, "host": None})
    assert (settings.port, settings.max_num_seqs, settings.host) == (5, 4, "::1")
    assert settings.cors_origins == ("http://a",)


def test_named_file(tmp_path: Path) -> None:
    write(tmp_path, "port = 1")
    other = tmp_path / "other.toml"
    other.write_text("port = 2")
    assert load_settings(config=other).port == 2


def test_names_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NESTLING_ALLOWED_HOSTS", "a.example, b.example")
    assert load_settings().allowed_hosts == ("a.example", "b.example")


def test_a_flag_is_true_or_false(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().prefix_caching
    path = write(tmp_path, "prefix_caching = false")
    assert not load_settings().prefix_caching
    monkeypatch.setenv("NESTLING_PREFIX_CACHING", "true")
    assert load_settings().prefix_caching
    monkeypatch.delenv("NESTLING_PREFIX_CACHING")
    path.write_text("prefix_caching = 1")
    with pytest.raises(SettingsError, match="prefix_caching: expected true or false, but got 1"):
        load_settings()


def test_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 5  # type: ignore[misc]


BAD_VALUES = [
    ("port", "99999", "less than or equal to 65535"),
    ("port", "http", "valid integer"),
    ("port", "1.5", "valid integer"),
    ("success_status", "202", "200 or 201"),
    ("log_level", "loud", "'debug', 'info'"),
    ("body_timeout_s", "inf", "finite"),
    ("body_timeout_s", "0", "greater than 0"),
    ("max_num_seqs", "0", "greater than or equal to 1"),
    ("host", "", "at least 1 character"),
    ("engine", "fast", "'native' or 'reference'"),
    ("prefix_caching", "1", "true or false"),
    ("max_step_s", "0", "greater than 0"),
    ("kv_cache_bytes", "0", "greater than or equal to 1"),
    ("kv_cache_bytes", "9" * 20, f"less than or equal to {2**48}"),
    ("max_num_batched_tokens", "65537", "less than or equal to 65536"),
    ("max_model_len", str(2**31), f"less than or equal to {2**31 - 1}"),
]


@pytest.mark.parametrize(("key", "value", "expected"), BAD_VALUES, ids=str)
def test_bad_value_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, key: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(f"NESTLING_{key.upper()}", value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    message = caught.value.message
    assert message.startswith(f"environment variable NESTLING_{key.upper()}: {key}: expected ")
    assert expected in message
    assert f"but got {value!r}" in message
    assert "\n" not in message
    assert caught.value.exit_code == 2


def test_bad_value_in_the_file_names_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "# ours\n\nport = true\n")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert caught.value.message.startswith(f"{path}:3: port: expected ")
    assert caught.value.message.endswith("but got True")


def test_bad_argument() -> None:
    with pytest.raises(SettingsError, match=r"^argument: port: expected .*, but got -1$"):
        load_settings({"port": -1})


def test_unknown_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "port = 1\nprot = 2\n")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert caught.value.message == f"{path}:2: prot is not a setting; did you mean port?"
    path.unlink()
    monkeypatch.setenv("NESTLING_PONY", "1")
    with pytest.raises(SettingsError, match="environment variable NESTLING_PONY: pony is not"):
        load_settings()


@pytest.mark.parametrize("text", ["port = ", "\x00", "[server]\nport = 1"])
def test_unreadable_file(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert caught.value.message.startswith(str(path))


def test_missing_named_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is none"):
        load_settings(config=tmp_path / "none.toml")


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_the_documented_settings_are_these() -> None:
    """docs/operations.md has a row for each setting, with its default and its description."""
    page = (Path(__file__).parents[1] / "docs" / "operations.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", page, re.MULTILINE)
    documented = {name: (default, text) for name, default, text in rows}
    assert list(documented) == list(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        default, text = documented[name]
        assert text == field.description, name
        if default == "unset":
            assert field.default is None, name
        elif default != "by system":
            assert default == f"`{json.dumps(field.default)}`", name
