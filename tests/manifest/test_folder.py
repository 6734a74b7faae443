"""Which file of a folder is its manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgehost.errors import ManifestError
from edgehost.manifest import read_manifest

HANDLER = "def handler(context, event):\n    return 1\n"
INLINE = "# @nuclio.configure\n#\n# function.yaml:\n#   metadata:\n#     name: inline\n#\n\n" + HANDLER


def put(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.mark.parametrize(
    ("files", "name", "source"),
    [
        (
            {"function__toml": 'name = "toml"\nhandler = "a:b"', "function__yaml": "{}", "main__py": INLINE},
            "toml",
            "function.toml",
        ),
        ({"function__yaml": "metadata: {name: yaml}\nspec: {handler: 'a:b'}", "main__py": INLINE}, "yaml", "function.yaml"),
        ({"function__yml": "metadata: {name: yml}\nspec: {handler: 'a:b'}", "main__py": INLINE}, "yml", "function.yml"),
        ({"sensor__py": INLINE, "main__py": HANDLER}, "inline", "sensor.py"),
        ({"main__py": HANDLER, "handler__py": HANDLER}, "thermostat", "main.py"),
        ({"handler__py": "async " + HANDLER}, "thermostat", "handler.py"),
        ({"main__py": "x = (", "handler__py": HANDLER}, "thermostat", "handler.py"),
    ],
)
def test_the_first_of_the_known_files_is_the_manifest(
    plugins: None, folder: Path, files: dict[str, str], name: str, source: str
) -> None:
    put(folder, **files)
    manifest = read_manifest(folder)
    assert (manifest.name, manifest.source) == (name, folder / source)


def test_a_bare_handler_answers_http(plugins: None, folder: Path) -> None:
    put(folder, main__py=HANDLER)
    manifest = read_manifest(folder)
    assert manifest.handler == "main:handler"
    assert [(trigger.name, trigger.kind) for trigger in manifest.triggers] == [("http", "http")]


@pytest.mark.parametrize(
    "files", [{}, {"main__py": "def handle(c, e): ..."}, {"tool__py": HANDLER}, {"main__py": "  " + HANDLER}]
)
def test_a_folder_without_a_function_says_what_was_looked_for(plugins: None, folder: Path, files: dict[str, str]) -> None:
    put(folder, **files)
    with pytest.raises(ManifestError) as caught:
        read_manifest(folder)
    assert str(caught.value) == (
        f"{folder}: holds no function; looked for function.toml, function.yaml, function.yml, a Python file with a "
        "# @nuclio.configure block, and main.py or handler.py with a function named handler"
    )


def test_two_blocks_are_one_too_many(plugins: None, folder: Path) -> None:
    put(folder, a__py=INLINE, b__py=INLINE)
    with pytest.raises(ManifestError, match=r": a.py and b.py both hold a # @nuclio.configure block; keep one$"):
        read_manifest(folder)


def test_a_folder_that_is_not_there_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"/nowhere: there is no such folder$"):
        read_manifest(tmp_path / "nowhere")
    put(tmp_path, file__txt="")
    with pytest.raises(ManifestError, match=r"/file.txt: is not a folder$"):
        read_manifest(tmp_path / "file.txt")


def test_a_python_file_in_another_encoding_does_not_hide_the_function(plugins: None, folder: Path) -> None:
    (folder / "old.py").write_bytes(b"# -*- coding: latin-1 -*-\n# caf\xe9\n")
    put(folder, main__py=HANDLER)
    assert read_manifest(folder).handler == "main:handler"
