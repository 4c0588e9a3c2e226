"""The wheel in a clean environment, outside of the source tree: `make wheel-test` builds both."""

import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import nestling
from tests.e2e.conftest import start_server, stop_server

pytestmark = pytest.mark.wheel

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / "build" / "wheel-test" / "venv"
PROGRAM = ENVIRONMENT / "bin" / "nestling"
NEEDED = {
    "nestling/py.typed",
    "nestling/native/_core.pyi",
    "nestling/native/_core" + sysconfig.get_config_var("EXT_SUFFIX"),
    "nestling/assets/nano/config.json",
    "nestling/assets/nano/model.safetensors",
    "nestling/assets/nano/tokenizer.json",
    f"nestling-{nestling.__version__}.dist-info/licenses/LICENSE",
}
SOURCES = {"CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml", "src/nestling/py.typed"}
NOT_SHIPPED = (".ci/", ".git/", ".venv/", "benchmarks/", "build/", "tests/", "training/")


@pytest.fixture(scope="module")
def wheel() -> Path:
    """The one wheel in `dist`."""
    (wheel,) = (ROOT / "dist").glob("*.whl")
    return wheel


def run(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program with no other environment than a path and a home of its own."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(cwd)}
    return subprocess.run(
        args, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


def test_the_wheel_carries_all_that_is_used_and_nothing_else(wheel: Path) -> None:
    """Every Python file of the package is in it, and no file of another folder."""
    names = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "src"
    expected = {str(path.relative_to(package)) for path in package.rglob("*.py")}
    assert len(expected) > 100
    assert expected | NEEDED <= names
    roots = {name.split("/")[0] for name in names}
    assert roots == {"nestling", f"nestling-{nestling.__version__}.dist-info"}
    assert not [name for name in names if name.endswith((".pth", ".pyc")) or "/tests/" in name]


def test_the_readme_names_the_wheel(wheel: Path) -> None:
    """The name in the README differs at most in the tags of Python and processor."""
    start = wheel.name.split("-cp")[0]
    assert f"dist/{start}-cp311-cp311-linux_x86_64.whl" in (ROOT / "README.md").read_text()


def test_the_source_archive_holds_what_a_build_needs(tmp_path: Path) -> None:
    """It has the sources of the package and the core, and neither tests nor build products."""
    command = (
        "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", command, str(tmp_path)], cwd=ROOT, check=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    native = {str(path.relative_to(ROOT)) for path in (ROOT / "native").rglob("*.cpp")}
    assert native
    assert SOURCES | native <= names
    assert not [name for name in names if name.startswith(NOT_SHIPPED)]


def test_the_environment_is_clean(tmp_path: Path) -> None:
    """Its Nestling is not that of the source tree, and no requirement is missing."""
    python = str(ENVIRONMENT / "bin" / "python")
    found = run(python, "-c", "import nestling; print(nestling.__file__)", cwd=tmp_path)
    assert Path(found.stdout.strip()).is_relative_to(ENVIRONMENT), found
    checked = run(python, "-m", "pip", "check", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout


def test_chat_answers(tmp_path: Path) -> None:
    """One prompt, one answer."""
    done = run(str(PROGRAM), "chat", "Count from 3 to 6.", "--temperature", "0", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip().startswith("3")


def test_serve_answers_with_the_printed_key(tmp_path: Path) -> None:
    """A request with the key of the first start is answered 201."""
    server = start_server(tmp_path / "data", program=PROGRAM)
    try:
        body = {
            "model": "google/gemma-3n-e4b-it",
            "messages": [{"role": "user", "content": "Hello!"}],
        }
        with server.client() as client:
            response = client.post("/v1/chat/completions", json=body)
        assert response.status_code == 201, response.text
        assert response.json()["choices"][0]["message"]["content"]
    finally:
        assert stop_server(server) == 0
