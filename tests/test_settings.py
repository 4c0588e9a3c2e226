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
    ("model", "", "text of at least 1 character"),
    ("host", "", "a host name or address alone"),
    ("host", "*", "0.0.0.0 and :: are all of this machine"),
    ("host", "http://example.org:80/", "such as example.org,"),
    ("host", "127.0.0.1:8000", "such as 127.0.0.1,"),
    ("host", "127.1", "a host name or address alone"),
    ("allowed_hosts", "*", "without port, scheme or wildcard"),
    ("allowed_hosts", "*.example.org", "such as example.org,"),
    ("allowed_hosts", "example.org:8000", "such as example.org,"),
    ("allowed_hosts", "[::1]:8000", "such as [::1],"),
    ("allowed_hosts", "https://example.org/", "such as example.org,"),
    ("allowed_hosts", "münchen.example", "such as xn--mnchen-3ya.example,"),
    ("allowed_hosts", "two words", "such as example.org,"),
    ("cors_origins", "example.org", "such as https://example.org,"),
    ("cors_origins", "http://example.org/app", "such as http://example.org,"),
    ("cors_origins", "https://*.example.org", "such as https://example.org,"),
    ("cors_origins", "https://me@example.org", "without path or wildcard"),
    ("cors_origins", "https://example.org:99999", "such as https://example.org,"),
    ("data_dir", "", "the path of a folder"),
    ("data_dir", "~nobody-of-that-name/x", "without ~"),
    ("idle_timeout_s", "0.4", "valid integer"),
    ("threads", "0", "greater than or equal to 1"),
    ("threads", "-1", "greater than or equal to 1"),
    ("threads", "257", "less than or equal to 256"),
    ("kv_cache_bytes", "-1", "greater than or equal to 1"),
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


def test_names_are_brought_to_the_form_that_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """What can only mean one thing is understood."""
    monkeypatch.setenv("NESTLING_ALLOWED_HOSTS", "Example.ORG., 2001:DB8:0::1, [::1], 192.0.2.1")
    monkeypatch.setenv(
        "NESTLING_CORS_ORIGINS",
        "HTTPS://Example.org/, https://a.example:443, http://b.example:8080, http://[::1]:3000, "
        "null, chrome-extension://abc",
    )
    monkeypatch.setenv("NESTLING_HOST", "[::1]")
    settings = load_settings()
    assert settings.allowed_hosts == ("example.org", "[2001:db8::1]", "[::1]", "192.0.2.1")
    assert settings.cors_origins == (
        "https://example.org",
        "https://a.example",
        "http://b.example:8080",
        "http://[::1]:3000",
        "null",
        "chrome-extension://abc",
    )
    assert settings.host == "::1"


def test_the_item_at_fault_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, 'port = 1\nallowed_hosts = ["a.example", "b.example:80"]\n')
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert caught.value.message.startswith(f"{path}:2: allowed_hosts: expected ")
    assert caught.value.message.endswith("such as b.example, but got 'b.example:80'")


def test_any_origin_stands_alone(tmp_path: Path) -> None:
    write(tmp_path, 'cors_origins = ["*", "https://a.example"]')
    with pytest.raises(SettingsError, match=r"cors_origins: expected \* alone"):
        load_settings()


def test_a_file_limit_that_no_body_can_reach(tmp_path: Path) -> None:
    """Only a limit that somebody has set is refused, not the default under a small body."""
    path = write(tmp_path, "max_body_bytes = 4096")
    assert load_settings().max_body_bytes == 4096
    path.write_text("max_body_bytes = 4096\nmax_file_bytes = 3073")
    with pytest.raises(SettingsError, match=r":2: max_file_bytes: expected at most 3072, .* 3073"):
        load_settings()


ORCHESTRATOR = {
    "NESTLING_PORT": "tcp://10.0.0.7:8000",
    "NESTLING_SERVICE_HOST": "10.0.0.7",
    "NESTLING_SERVICE_PORT": "8000",
    "NESTLING_SERVICE_PORT_HTTP": "8000",
    "NESTLING_PORT_8000_TCP": "tcp://10.0.0.7:8000",
    "NESTLING_PORT_8000_TCP_PROTO": "tcp",
    "NESTLING_PORT_8000_TCP_PORT": "8000",
    "NESTLING_PORT_8000_TCP_ADDR": "10.0.0.7",
    "NESTLING_GPU_PORT": "tcp://10.0.0.8:80",
    "NESTLING_GPU_SERVICE_HOST": "10.0.0.8",
    "NESTLING_API_KEY": "g3n_live_x",
    "NESTLING_BASE_URL": "http://127.0.0.1:8000/v1",
}


def test_variables_of_others_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes describes a service called nestling so, and clients have a key of their own."""
    for name, value in ORCHESTRATOR.items():
        monkeypatch.setenv(name, value)
    assert load_settings().port == 8000


def test_several_unknown_variables_are_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NESTLING_PONY", "1")
    monkeypatch.setenv("NESTLING_GPU_PORT", "80")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert caught.value.message == (
        "environment variables NESTLING_GPU_PORT, NESTLING_PONY: these are no settings; "
        "docs/operations.md lists the settings"
    )


def test_a_byte_order_mark_is_no_key(tmp_path: Path) -> None:
    path = tmp_path / "nestling.toml"
    path.write_bytes("\ufeffport = 7\n".encode())
    assert load_settings().port == 7
    path.write_bytes("\ufeffport = true\n".encode())
    with pytest.raises(SettingsError, match=r"nestling\.toml:1: port: expected"):
        load_settings()


def test_a_file_that_is_not_utf_8_is_named_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "nestling.toml"
    path.write_bytes(b"port = 7\nmodel = '\xe9'\n")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert caught.value.message == (
        f"{path}: expected TOML, but it is not UTF-8: byte 0xe9 at offset 18 (line 2, byte 10)"
    )


def test_a_home_that_is_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that need no data directory work; those that need it say so later."""
    monkeypatch.delenv("NESTLING_DATA_DIR")
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert load_settings().data_dir == Path("/dev/null/.local/share/nestling")


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
