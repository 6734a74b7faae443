"""What leaves the project is whole: the wheel from the tree, and the wheel built from the sdist, hold every file of the package.

The linked folders (triggers, runtimes, device_profiles) are what such builds lose. Builds call hatchling's hooks in a process of
their own, with no isolation, so no network is needed.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def build(kind: str, tree: Path, into: Path) -> Path:
    """Build `wheel` or `sdist` of `tree` through PEP 517; hatchling reads the project from the working directory."""
    code = f"import sys, hatchling.build as b; print(b.build_{kind}(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(into)], cwd=tree, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return into / done.stdout.split()[-1]


def files_of(package: Path) -> set[str]:
    """Every file of the package in the tree that is not a build product, linked folders followed."""
    found: set[str] = set()
    folders = [package]
    while folders:
        for entry in folders.pop().iterdir():
            if entry.is_dir():
                folders.extend([entry] if entry.name != "__pycache__" else [])
            elif entry.suffix != ".pyc":
                found.add(entry.relative_to(package.parent).as_posix())
    return found


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


def wheel_names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_from_the_tree_holds_every_file(tmp_path: Path) -> None:
    names = wheel_names(build("wheel", ROOT, tmp_path))
    assert files_of(ROOT / "edgehost") - names == set()


def test_the_wheel_from_the_sdist_holds_every_file(sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    into = tmp_path / "wheel"
    into.mkdir()
    names = wheel_names(build("wheel", tree, into))
    assert files_of(ROOT / "edgehost") - names == set()


def test_the_wheel_brings_the_device_profiles(tmp_path: Path) -> None:
    """Data files are what a package loses first: every profile is read from the wheel alone."""
    wheel = build("wheel", ROOT, tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = "import edgehost.profile as p; print(p.__file__, *[p.load(name).name for name in p.names()])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "site", capture_output=True, text=True, timeout=60, check=True
    )
    file, *profiles = done.stdout.split()
    assert Path(file).is_relative_to(tmp_path / "site")
    assert profiles == sorted(path.stem for path in (ROOT / "device_profiles").glob("*.toml"))


def test_the_wheel_puts_no_generic_name_into_site_packages(tmp_path: Path) -> None:
    names = wheel_names(build("wheel", ROOT, tmp_path))
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"edgehost"}


def test_the_sdist_holds_the_papers(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        top = {name.split("/", 1)[1] for name in archive.getnames() if name.count("/") == 1}
    papers = {"README.md", "ARCHITECTURE.md", "CHANGELOG.md", "LICENSE", "pyproject.toml"}
    assert {paper for paper in papers if (ROOT / paper).exists()} - top == set()
