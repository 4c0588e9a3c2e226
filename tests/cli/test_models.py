"""`nestling models`: what is listed, for people and for programs."""

import json
from pathlib import Path

from nestling.weights.catalog import embedded_model
from tests.cli.conftest import Call


def test_the_embedded_model(call: Call, tmp_path: Path) -> None:
    (row,) = json.loads(call("models", "--json").out)
    assert row == {
        "id": "nestling-nano",
        "path": str(embedded_model().path),
        "is_embedded": True,
        "parameters": 3_572_128,
        "layers": 10,
        "quantization": "bf16",
        "context": 2048,
    }
    done = call("models")
    assert (done.exit_code, done.err) == (0, "")
    header, shown, _, hint = done.out.splitlines()
    assert header.split() == ["MODEL", "PARAMETERS", "LAYERS", "WEIGHTS", "PATH"]
    assert shown.split() == ["nestling-nano", "3,572,128", "10", "bf16", row["path"]]
    assert hint.endswith(str(tmp_path / "data" / "models"))


def test_models_of_the_data_directory_come_first(call: Call, tmp_path: Path) -> None:
    """One that cannot be read is listed with the reason, and the exit code stays 0."""
    folder = tmp_path / "data" / "models"
    folder.mkdir(parents=True)
    (folder / "broken.gguf").write_bytes(b"GGUF")
    (folder / "copy").symlink_to(embedded_model().path)
    (folder / "notes.txt").write_text("no model")
    done = call("models", "--json")
    rows = json.loads(done.out)
    assert done.exit_code == 0
    assert [row["id"] for row in rows] == ["broken", "copy", "nestling-nano"]
    assert "corrupt" in rows[0]["error"]
    assert rows[1]["parameters"] == rows[2]["parameters"]
    assert not rows[1]["is_embedded"]


def test_a_data_directory_that_is_a_file(call: Call, tmp_path: Path) -> None:
    """The embedded model is there all the same."""
    (tmp_path / "data").write_text("")
    assert "nestling-nano" in call("models").out
