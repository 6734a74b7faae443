"""What the tools set up by themselves: decided right, and nothing done twice. No network and no environment is made here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Bash = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def bash(tmp_path: Path) -> Bash:
    """`bash(script)`: run it after tools/environment.sh, with an environment folder of its own that has a Python but no stamp."""
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)

    def run(script: str) -> subprocess.CompletedProcess[str]:
        before = f"set -u; EDGEHOST_VENV='{venv}'; . '{ROOT}/tools/environment.sh'; stamp=$venv/edgehost-environment"
        whole = f"{before}\n{script}"
        return subprocess.run(["bash", "-c", whole, "tool"], capture_output=True, text=True, timeout=60, cwd=tmp_path)

    return run


def test_requirements_of_the_groups_are_read_from_the_project(bash: Bash) -> None:
    words = bash("environment_requirements test check").stdout.split()
    assert any(word.startswith("pytest>=") for word in words)
    assert any(word.startswith("mypy>=") for word in words)
    assert all(";" not in word for word in words), "a marker would need quoting"


def test_an_unknown_group_is_an_error(bash: Bash) -> None:
    assert bash("environment_requirements nothing").returncode != 0


def test_an_environment_is_current_for_the_groups_it_was_made_with(bash: Bash) -> None:
    stamped = "{ environment_fingerprint; echo test; } >$stamp; "
    assert bash("environment_current $stamp test").returncode != 0, "nothing was ever installed"
    assert bash(stamped + "environment_current $stamp test").returncode == 0
    assert bash(stamped + "environment_current $stamp test check").returncode != 0


def test_an_environment_copied_with_its_checkout_is_not_current(bash: Bash) -> None:
    stamp = "{ environment_fingerprint; echo test; } >$stamp; "
    copy = "mkdir copy; cp $project/pyproject.toml copy; project=$PWD/copy; "
    assert bash(copy + stamp + "environment_current $stamp test").returncode == 0
    assert bash(stamp + copy + "environment_current $stamp test").returncode != 0


def test_a_python_that_is_too_old_or_absent_is_not_taken(bash: Bash) -> None:
    assert bash("environment_find_python 3.9").returncode != 0
    assert bash("environment_find_python 9.9").returncode != 0


def test_a_python_is_found(bash: Bash) -> None:
    found = bash("environment_find_python").stdout.strip()
    assert Path(found).exists()


def test_bytecode_is_written_by_what_the_tools_start(bash: Bash) -> None:
    again = "export PYTHONDONTWRITEBYTECODE=1; . $project/tools/environment.sh; "
    assert bash(again + "echo ${PYTHONDONTWRITEBYTECODE-unset}").stdout == "unset\n"


def test_a_command_that_is_here_needs_no_installation(bash: Bash) -> None:
    fake = "environment_apt() { echo asked for $*; }; "
    assert bash(fake + "environment_commands bash sh").stdout == ""
    assert bash(fake + "environment_commands bash not-a-command").stdout == "asked for not-a-command\n"
