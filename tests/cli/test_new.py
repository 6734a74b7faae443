"""`edgehost new` makes functions that can be read, run and answered by at once, and never overwrites anything."""

from __future__ import annotations

import pytest

from edgehost.cli.new import NAME, TEMPLATES, templates
from edgehost.manifest import read_manifest

KINDS = {"http": {"http"}, "mqtt": {"mqtt"}, "cron": {"cron"}, "stream": {"mqtt"}, "onnx": {"http"}}


def test_every_template_is_tested():
    assert set(templates()) == set(KINDS)


@pytest.mark.parametrize("template", KINDS)
def test_what_it_makes_is_read_and_answers(cli, program, tmp_path, template):
    if template == "onnx":
        pytest.importorskip("onnxruntime")
    made = cli("new", "my-1st", "--template", template, "--into", tmp_path)
    assert made.code == 0 and "edgehost run" in made.out
    folder = tmp_path / "my-1st"
    manifest = read_manifest(folder)
    assert (manifest.name, manifest.warnings) == ("my-1st", ())
    assert {trigger.kind for trigger in manifest.triggers} == KINDS[template]
    assert not any("{{" in path.read_text(errors="ignore") for path in folder.iterdir())
    answer = program("invoke", "--local", folder, "--file", folder / "event.json", "--path", "a/b/c", "--json")
    assert (answer.code, answer.err) == (0, "")
    assert answer.json["content_type"] == "application/json"


def test_nothing_is_overwritten(cli, tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "main.py").write_text("precious")
    result = cli("new", "f", "--into", tmp_path, "--json")
    assert (result.code, result.error["error"]) == (2, "usage")
    assert f"{tmp_path}/f is there already; choose another name, or another folder with --into" in result.error["message"]
    assert (tmp_path / "f" / "main.py").read_text() == "precious"


def test_json_says_what_was_made(cli, tmp_path):
    made = cli("new", "f", "--into", tmp_path / "deep" / "er", "--json").json
    folder = tmp_path / "deep" / "er" / "f"
    assert made == {
        "name": "f", "template": "http", "folder": str(folder), "files": sorted(path.name for path in folder.iterdir())
    }  # fmt: skip


def test_a_folder_that_cannot_be_made_is_one_line(cli, tmp_path):
    (tmp_path / "file").write_text("")
    result = cli("new", "f", "--into", tmp_path / "file" / "x")
    assert result.code == 2 and "cannot be made: Not a directory" in result.err


def test_an_unknown_template_names_the_known_ones(cli):
    assert "'nope' is not a template; use cron, http, mqtt, onnx, stream" in cli("new", "f", "-t", "nope").err


@pytest.mark.parametrize("name", ["../x", "a/b", "", "-x", "A", "x" * 64, "x-", "ä"])
def test_a_name_no_manifest_takes_is_refused_before_anything_is_made(cli, tmp_path, name):
    assert cli("new", "--into", tmp_path, "--", name).code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a", "x" * 63, "a_b-c", "0"])
def test_a_name_new_takes_is_one_a_manifest_takes(cli, tmp_path, name):
    assert NAME.fullmatch(name)
    assert cli("new", name, "--into", tmp_path).code == 0
    assert read_manifest(tmp_path / name).name == name


def test_templates_hold_nothing_compiled():
    assert not [path for path in TEMPLATES.rglob("*.pyc") if "__pycache__" not in path.parts]
