"""What the papers say is so: links lead somewhere, and the README's first function answers as the README shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAPERS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def headings(text: str) -> set[str]:
    """The anchors of a page: headings in lower case, spaces as dashes, other marks left out."""
    titles = re.findall(r"^#+ (.+)$", BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: str(paper.relative_to(ROOT)))
def test_every_link_leads_somewhere(paper: Path) -> None:
    broken = []
    for link in LINK.findall(BLOCK.sub("", paper.read_text())):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (paper.parent / path).resolve() if path else paper
        if not target.exists() or (anchor and anchor not in headings(target.read_text())):
            broken.append(link)
    assert broken == []


def test_the_first_function_of_the_readme_answers_as_shown(tmp_path: Path) -> None:
    blocks = dict(reversed(BLOCK.findall((ROOT / "README.md").read_text())))
    folder = tmp_path / "hello"
    folder.mkdir()
    (folder / "function.toml").write_text(blocks["toml"])
    (folder / "main.py").write_text(blocks["python"])
    command = [str(Path(sys.executable).with_name("edgehost")), "invoke", "--local", "hello", "--body", "Ada"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, '{"hello": "Ada"}'), done.stderr
