"""Which models are found, under which names, and which one comes first."""

from pathlib import Path

import pytest

from nestling.errors import ModelNotFoundError
from nestling.weights.catalog import (
    DOCUMENTED_MODEL_ID,
    EMBEDDED_MODEL_ID,
    embedded_model,
    find_model,
    list_models,
)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data folder with a model folder, a file, and two things that are no models."""
    models = tmp_path / "models"
    for name in ("Gemma-3n-E4B-it", "no-model"):
        (models / name).mkdir(parents=True)
    (models / "Gemma-3n-E4B-it" / "config.json").touch()
    (models / "small.gguf").touch()
    (models / "notes.txt").touch()
    return tmp_path


def test_models_are_listed_by_name_and_the_embedded_one_last(data_dir: Path) -> None:
    """A copy of the hosted model carries its name; a file is called as it is without its suffix."""
    found = [model.model_id for model in list_models(data_dir)]
    assert found == [DOCUMENTED_MODEL_ID, "small", EMBEDDED_MODEL_ID]


def test_without_models_there_is_the_embedded_one(tmp_path: Path) -> None:
    """The folder need not exist."""
    assert list_models(tmp_path) == [embedded_model()]
    assert find_model(None, tmp_path).is_embedded


def test_the_first_model_is_taken_if_none_is_named(data_dir: Path) -> None:
    """It is the first of the list."""
    assert find_model(None, data_dir).model_id == DOCUMENTED_MODEL_ID


@pytest.mark.parametrize("name", ["small", "small.gguf"])
def test_a_model_is_found_by_its_name_or_file(data_dir: Path, name: str) -> None:
    """Both stand in the models folder."""
    assert find_model(name, data_dir).path == data_dir / "models" / "small.gguf"


def test_a_model_is_found_by_its_path(data_dir: Path) -> None:
    """A path outside of the models folder is as good; that of the embedded model is known."""
    (data_dir / "other.gguf").touch()
    assert find_model(str(data_dir / "other.gguf"), data_dir).model_id == "other"
    assert find_model(str(embedded_model().path), data_dir) == embedded_model()


def test_an_unknown_model_is_refused_with_those_that_there_are(data_dir: Path) -> None:
    """The message names them and the folder."""
    with pytest.raises(ModelNotFoundError, match=r"'gpt-4' is neither .* small, nestling-nano"):
        find_model("gpt-4", data_dir)
