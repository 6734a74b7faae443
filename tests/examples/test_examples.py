"""Every example, called once as a person would: `edgehost invoke --local examples/NAME`, in a real worker."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgehost.manifest import read_manifest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path.parent.name for path in (ROOT / "examples").glob("*/function.toml"))
SILERO = ROOT / "examples" / "speech" / "silero_vad_16k_op15.onnx"
SOUNDS = (Path("/usr/share/sounds/alsa"), ROOT / ".cache/demo/alsa/usr/share/sounds/alsa")


def invoke(folder: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "edgehost.cli.entry", "invoke", "--local", str(folder), "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT)
    assert done.stdout, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return {**told, "code": done.returncode}


def body(answer: dict[str, Any]) -> Any:
    assert answer["code"] == 0, answer
    text = answer["body"] if "body" in answer else base64.b64decode(answer["body_base64"]).decode()
    return json.loads(text) if answer["content_type"] == "application/json" else text


@pytest.fixture
def silero() -> Path:
    """The speech example's model, once tools/demo has fetched it."""
    if not SILERO.is_file():
        pytest.skip(f"{SILERO.name} is not here; tools/demo fetches it")
    return SILERO


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "speech"])
def test_an_example_has_a_manifest_without_warnings_and_a_readme(name: str) -> None:
    manifest = read_manifest(ROOT / "examples" / name)
    assert manifest.name == name and manifest.description and manifest.warnings == ()
    assert (ROOT / "examples" / name / "README.md").read_text().startswith(f"# {name}\n")


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "speech"])
def test_an_example_answers_a_call_without_a_body(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    answer = invoke(ROOT / "examples" / name)
    assert answer["code"] == 0 and answer["status"] == 200


def test_hello_greets_and_echoes() -> None:
    assert body(invoke(ROOT / "examples/hello")) == "Hello, world!\n"
    assert body(invoke(ROOT / "examples/hello", "--body", '{"a": 1}')) == {"a": 1}


def test_live_readings_are_this_machines() -> None:
    reading = body(invoke(ROOT / "examples/live-readings"))
    assert 0 < reading["memory_percent"] <= 100 and 0 <= reading["cpu_percent"] <= 100 and reading["host"]


def test_stream_sends_server_sent_events() -> None:
    answer = invoke(ROOT / "examples/stream")
    assert answer["content_type"] == "text/event-stream"
    events = [json.loads(line.removeprefix("data: ")) for line in body(answer).splitlines() if line]
    assert [event["number"] for event in events] == [0, 1, 2]


def test_batch_keeps_what_it_was_sent(tmp_path: Path) -> None:
    folder = tmp_path / "batch"
    shutil.copytree(ROOT / "examples/batch", folder)
    manifest = folder / "function.toml"
    text = manifest.read_text().replace('DATABASE = ""', f'DATABASE = "{tmp_path}/kept/readings.db"')
    manifest.write_text(f'{text}\n[sandbox]\nwrite = ["{tmp_path}/kept"]\n')
    (tmp_path / "kept").mkdir()
    assert body(invoke(folder, "--body", '{"t": 1}')) == {"stored": 1, "together": 1}
    assert body(invoke(folder, "--body", "not JSON")) == {"stored": 2, "together": 1}


@pytest.mark.needs("module:onnxruntime")
@pytest.mark.parametrize(
    ("flower", "species"),
    [("[5.1, 3.5, 1.4, 0.2]", "setosa"), ("[5.9, 3.0, 5.1, 1.8]", "virginica"), ("[5.7, 2.8, 4.1, 1.3]", "versicolor")],
)
def test_iris_names_the_flower(flower: str, species: str) -> None:
    ranked = body(invoke(ROOT / "examples/iris", "--body", flower))["labels"]
    assert ranked[0]["label"] == species and ranked[0]["score"] > 0.5 and len(ranked) == 2


def test_speech_without_its_model_says_how_to_get_it(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples/speech", tmp_path / "speech", ignore=shutil.ignore_patterns("*.onnx"))
    command = [sys.executable, "-m", "edgehost.cli.entry", "invoke", "--local", str(tmp_path / "speech")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "no file 'silero_vad_16k_op15.onnx'" in done.stderr and "run tools/demo once" in done.stderr


@pytest.mark.needs("module:onnxruntime")
def test_speech_takes_a_frame_and_hears_nothing_in_silence(silero: Path, tmp_path: Path) -> None:
    (tmp_path / "frame").write_bytes(bytes(1024))
    (ranked,) = body(invoke(silero.parent, "--file", str(tmp_path / "frame")))["labels"]
    assert ranked["label"] == "speech" and ranked["score"] < 0.1
    (tmp_path / "frame").write_bytes(bytes(1000))
    answer = invoke(silero.parent, "--file", str(tmp_path / "frame"))
    assert answer["code"] != 0 and "the body has 1000 bytes; int16[1, 512] takes 1024" in answer["body"]


@pytest.mark.needs("module:onnxruntime")
def test_speech_hears_every_voice_and_no_voice_in_noise(silero: Path) -> None:
    folder = next((folder for folder in SOUNDS if any(folder.glob("*.wav"))), None)
    if folder is None:
        pytest.skip("no recorded speech; tools/demo fetches it")
    code = """
import json, sys
from pathlib import Path
import msgspec
from edgehost.engine.spec import worker_spec
from edgehost.manifest import read_manifest
from edgehost.runtimes.onnx import OnnxRuntime
from edgehost.sdk.event import Event
from tools.demonstration import sound

class Link:
    def log(self, *record): pass

handle = OnnxRuntime.load(worker_spec(read_manifest(Path("examples/speech"))), Link()).handle
heard = {}
for recording in sound.load(Path(sys.argv[1])):
    scores = [handle(Event(frame, path=recording.name)).body["labels"][0]["score"] for frame in recording.frames]
    heard[recording.name] = sum(score >= 0.5 for score in scores)
print(json.dumps(heard))
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=100, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    heard = json.loads(done.stdout)
    assert heard.pop("noise") == 0
    assert len(heard) == 8 and all(frames >= 20 for frames in heard.values()), heard
