"""What a function.toml that is right becomes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgehost.errors import ManifestError
from edgehost.manifest import read_manifest
from edgehost.manifest.model import Batch, Limits, Manifest, Queue, Retry, Sandbox

H = 'handler = "main:handler"\n'


def test_a_handler_is_all_a_function_needs(read: Callable[[str], Manifest], folder: Path) -> None:
    manifest = read(H)
    assert manifest == Manifest(name="thermostat", folder=folder, source=folder / "function.toml", handler="main:handler")


def test_every_table_becomes_its_struct(read: Callable[[str], Manifest]) -> None:
    manifest = read(
        """
        name = "thermo-stat_2"
        version = "1.4.0"
        description = "Keeps the room warm"
        handler = "app.heat:handle"
        workers = 2
        concurrency = 8
        timeout = "1m30s"
        start_timeout_s = 5
        body = "view"
        preload = ["json"]
        log_level = "debug"
        drain = "handover"
        [queue]
        size = 50
        policy = "drop_oldest"
        [retry]
        attempts = 5
        delay = "500ms"
        max_delay = "1m"
        permanent = ["ValueError", "app.heat.BadReading"]
        [env]
        ROOM = "kitchen"
        [limits]
        memory = "128MiB"
        open_files = 64
        cpu = 0.5
        cpu_s = "1h"
        temp = "1MiB"
        [sandbox]
        read = ["/srv"]
        network = [1883]
        [triggers.temp]
        kind = "mqtt"
        topics = ["house/+/temp"]
        qos = 0
        batch = { size = 10, wait = "2s" }
        [triggers.web]
        kind = "http"
        wait = 3
        body_limit = "1 MB"
        cors = { max_age = "1h" }
        [outputs.out]
        kind = "mqtt"
        topics = ["x"]
        on = "always"
        triggers = ["temp"]
        """
    )
    assert (manifest.name, manifest.version, manifest.handler) == ("thermo-stat_2", "1.4.0", "app.heat:handle")
    assert (manifest.workers, manifest.concurrency, manifest.timeout_s, manifest.start_timeout_s) == (2, 8, 90, 5)
    assert (manifest.body, manifest.preload, manifest.log_level, manifest.drain) == ("view", ("json",), "debug", "handover")
    assert manifest.queue == Queue(50, "drop_oldest")
    assert manifest.retry == Retry(5, 0.5, 60.0, permanent=("ValueError", "app.heat.BadReading"))
    assert manifest.env == {"ROOM": "kitchen"}
    assert manifest.limits == Limits(memory_bytes=128 * 1024 * 1024, open_files=64, cpu=0.5, cpu_s=3600, temp_bytes=1 << 20)
    assert manifest.sandbox == Sandbox(read=("/srv",), network=(1883,))
    temp, web = manifest.triggers
    assert (temp.name, temp.kind, temp.batch) == ("temp", "mqtt", Batch(10, 2.0))
    assert (temp.settings.topics, temp.settings.qos) == (("house/+/temp",), 0)  # type: ignore[attr-defined]
    assert (web.settings.wait_s, web.settings.body_limit_bytes, web.settings.cors.max_age_s) == (3, 1_000_000, 3600)  # type: ignore[attr-defined]
    (out,) = manifest.outputs
    assert (out.name, out.kind, out.on, out.triggers) == ("out", "mqtt", "always", ("temp",))
    assert manifest.warnings == ()


def test_seconds_are_floats_whatever_was_written(read: Callable[[str], Manifest]) -> None:
    assert isinstance(read(H + 'timeout = "30s"').timeout_s, float)
    assert isinstance(read(H + "timeout = 30").timeout_s, float)


def test_a_runtime_without_code_has_its_own_table(read: Callable[[str], Manifest], folder: Path) -> None:
    (folder / "net.onnx").write_bytes(b"x")
    manifest = read('runtime = "onnx"\n[onnx]\nmodel = "net.onnx"\nthreads = 4')
    assert (manifest.options.model, manifest.options.threads) == ("net.onnx", 4)  # type: ignore[union-attr]


def test_the_given_name_beats_the_written_one(plugins: None, folder: Path) -> None:
    (folder / "function.toml").write_text('name = "written"\n' + H)
    assert read_manifest(folder).name == "written"
    assert read_manifest(folder, name="given").name == "given"


@pytest.mark.parametrize(
    ("folder_name", "name"), [("My Sensor", "my-sensor"), ("x_1", "x_1"), ("Ünit 7!", "nit-7"), ("!!", "function")]
)
def test_the_folder_lends_its_name(plugins: None, tmp_path: Path, folder_name: str, name: str) -> None:
    folder = tmp_path / folder_name
    folder.mkdir()
    (folder / "function.toml").write_text(H)
    assert read_manifest(folder).name == name


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'\xef\xbb\xbfhandler = "a:b"', "starts with a byte order mark (BOM); save it as UTF-8 without one"),
        (b'\n# caf\xe9\nhandler = "a:b"', "line 2 holds the byte 0xe9, which is not UTF-8; save the file as UTF-8"),
        ("handler = 1".encode("utf-16"), "line 1 holds the byte 0xff, which is not UTF-8; save the file as UTF-8"),
        (b"#" * 1_048_577, "is larger than 1024 KiB; this is not such a file"),
        (b"a = " + b"[" * 50_000, "is nested too deeply"),
    ],
)
def test_a_file_that_is_no_text_is_told_as_such(plugins: None, folder: Path, data: bytes, message: str) -> None:
    (folder / "function.toml").write_bytes(data)
    with pytest.raises(ManifestError) as caught:
        read_manifest(folder)
    assert str(caught.value) == f"thermostat/function.toml: {message}"


def test_a_manifest_that_cannot_be_read_is_told_as_such(plugins: None, folder: Path) -> None:
    (folder / "function.toml").mkdir()
    with pytest.raises(ManifestError, match=r"^thermostat/function.toml: cannot be read: Is a directory$"):
        read_manifest(folder)
