"""What the documents claim about the repository, held against the repository."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import nestling
from nestling.cli.main import COMMANDS
from nestling.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / folder / "README.md" for folder in ("training", "tests/vectors")),
    ROOT / "src/nestling/assets/nano/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def test_the_documents_are_found() -> None:
    """The tests below look at the pages of `docs` and at those in its folders."""
    names = {str(path.relative_to(ROOT)) for path in DOCUMENTS}
    assert {"docs/api.md", "docs/adr/0001-row-invariant-kernels.md", "docs/lab/README.md"} <= names


def test_version_is_one() -> None:
    """The package and pyproject.toml agree."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == nestling.__version__


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_make_targets_exist(document: Path) -> None:
    """Every `make x` in a document is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z0-9-]+)", document.read_text(), re.MULTILINE))
    assert named <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_linked_files_exist(document: Path) -> None:
    """Every relative link in a document leads somewhere."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text())
    assert all((document.parent / link).exists() for link in links), links


def test_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """The README's example of `LLM` prints an answer, token ids and a shape."""
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (example,) = [block for block in blocks if block.startswith("from nestling")]
    exec(compile(example, "README.md", "exec"), {})  # noqa: S102 - our own text
    answer, token_ids, shape = capsys.readouterr().out.splitlines()
    assert answer == "Paris"
    assert re.fullmatch(r"\[\d+(, \d+)*\]", token_ids)
    assert re.fullmatch(r"\(\d+, 2048\)", shape)


def test_named_commands_exist() -> None:
    """Every `nestling x` in the README is a command."""
    commands = set(COMMANDS)
    named = set(re.findall(r"bin/nestling ([a-z]+)", (ROOT / "README.md").read_text()))
    assert named
    assert named <= commands


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_source_files_exist(document: Path) -> None:
    """Each source file that a document names is there: from the root, the package or itself."""
    names = re.findall(
        r"`([\w.*-]+(?:/[\w.*-]+)*(?:/|\.(?:py|cpp|h)))(?::[\w.]+)?`", document.read_text()
    )
    is_map = document.name == "architecture.md"
    wanted = names if is_map else [n for n in names if "/" in n[:-1]]
    assert len(wanted) > 100 or not is_map
    roots = (ROOT, ROOT / "src" / "nestling", document.parent)
    assert [n for n in wanted if not any(list(root.glob(n)) for root in roots)] == []


@pytest.mark.parametrize(
    "decision", sorted((ROOT / "docs" / "adr").glob("*.md")), ids=lambda page: page.name
)
def test_decisions_are_numbered_and_short(decision: Path) -> None:
    """A page of docs/adr/ has its number in its title, and at most 40 lines."""
    lines = decision.read_text().splitlines()
    assert lines[0].startswith(f"# {decision.name[:4]}: ")
    assert len(lines) <= 40


def test_changelog_keeps_its_form() -> None:
    """CHANGELOG.md has the sections of Keep a Changelog, and lines below 160 characters."""
    text = (ROOT / "CHANGELOG.md").read_text()
    sections = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert sections <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert [line for line in text.splitlines() if len(line) > 160] == []


@pytest.mark.parametrize("lock", ["serve", "dev", "clients", "parity"])
def test_locks_pin_by_hash_and_name_no_index(lock: str) -> None:
    """Each requirement has a version and a hash; no line names a registry."""
    text = (ROOT / "locks" / f"{lock}.lock").read_text()
    for requirement in re.split(r"\n(?=\S)", text.strip()):
        assert re.match(r"[\w.-]+(\[[\w,]+\])?==\S+", requirement), requirement
        assert "--hash=sha256:" in requirement, requirement
    assert "://" not in text


def test_shipped_model_is_small() -> None:
    """The embedded model's weights and tokenizer take at most 12 MB."""
    folder = ROOT / "src" / "nestling" / "assets" / "nano"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 12_000_000


UNIT = ROOT / "docs" / "guides" / "nestling.service"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_unit_of_systemd_is_valid(tmp_path: Path) -> None:
    """systemd knows every line of it; only the program stands elsewhere here."""
    text = UNIT.read_text()
    program = "/opt/nestling/bin/nestling"
    assert text.count(program) == 1
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace(program, str(Path(sys.executable).with_name("nestling"))))
    checked = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=30
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_unit_of_systemd_waits_longer_than_the_server() -> None:
    """Running requests get `shutdown_timeout_s`, and the engine some seconds to end after it."""
    (waits_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.MULTILINE)
    least_s = Settings.model_fields["shutdown_timeout_s"].default + 10
    assert int(waits_s) >= least_s


BAD_MACHINES = [
    ("version_info", "c++", "Nestling needs Python 3.11 or newer: install python3"),
    ("ensurepip", "c++", "Python's venv module is missing: install it"),
    ("Python.h", "c++", "Python's C headers are missing: install them"),
    ("nothing", "no-such-compiler", "Nestling needs a C++20 compiler: install one"),
]


@pytest.mark.parametrize("target", ["serve", "test"])
@pytest.mark.parametrize(
    ("lacks", "compiler", "message"), BAD_MACHINES, ids=["python", "venv", "headers", "compiler"]
)
def test_a_machine_that_lacks_something_is_told_what(
    tmp_path: Path, target: str, lacks: str, compiler: str, message: str
) -> None:
    """The README's commands say in one line what to install, and leave nothing behind."""
    for name in ("Makefile", "pyproject.toml", "CMakeLists.txt"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "locks", tmp_path / "locks")
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\ncase "$2" in *{lacks}*) exit 1;; esac\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    before = set(tmp_path.iterdir())
    command = ["make", "--no-print-directory", target, f"PYTHON={python}", f"CXX={compiler}"]
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stdout == ""
    ours, of_make = done.stderr.splitlines()
    assert ours.startswith(message)
    assert "Debian: apt install" in ours
    assert of_make.startswith("make: ***")
    assert set(tmp_path.iterdir()) == before
