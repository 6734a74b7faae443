"""`edgehost invoke --local`: one real call in a real worker, whatever the function does, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("whole_again")


@pytest.fixture
def function(tmp_path):
    """`function("def handler(context, event): ...", "timeout_s = 1")`: a folder with this code and manifest."""

    def make(code: str, manifest: str = "") -> Path:
        folder = tmp_path / "f"
        folder.mkdir()
        (folder / "main.py").write_text(code)
        (folder / "function.toml").write_text(f'name = "f"\nhandler = "main:handler"\n{manifest}')
        return folder

    return make


def test_the_handler_gets_the_event_as_asked_for(cli, function):
    code = "def handler(c, event):\n    return [event.method, event.path, event.body, event.get_header('a'), event.trigger.kind]"
    result = cli("invoke", "--local", function(code), "--body", '{"x": 1}', "-H", "A:b", "--path", "/p", "--json")
    answer = result.json
    assert result.code == 0 and set(answer) == {"status", "headers", "content_type", "body", "duration_ms", "logs"}
    assert answer["body"] == '["POST", "/p", {"x": 1}, "b", "control"]' and answer["duration_ms"] > 0


def test_what_it_logs_and_prints_is_told(cli, function):
    code = "def handler(context, event):\n    context.logger.warn_with('careful', n=1)\n    print('printed')\n    return 'done'"
    folder = function(code)
    logs = cli("invoke", "--local", folder, "--json").json["logs"]
    assert [(log["level"], log["message"], log.get("with")) for log in logs] == [
        ("warn", "careful", {"n": 1}),
        ("info", "printed", {"stream": "stdout"}),
    ]
    for_people = cli("invoke", "--local", folder)
    assert for_people.out == "done"
    assert "warn  careful n=1" in for_people.err and "info  printed" in for_people.err


@pytest.mark.parametrize(
    ("code", "manifest", "failure", "words"),
    [
        ("def handler(c, e):\n    raise ValueError('no')", "", "raised", "no"),
        ("import os\ndef handler(c, e):\n    os._exit(3)", "", "worker_died", "died"),
        ("import sys\ndef handler(c, e):\n    sys.exit(3)", "", "worker_died", "3"),
        ("def handler(c, e):\n    while True: pass", "timeout_s = 0.3", "timeout", "did not answer"),
        ("import asyncio\nasync def handler(c, e):\n    await asyncio.sleep(60)", "timeout_s = 0.3", "timeout", "did not answer"),
        ("def handler(c, e):\n    return {1: {1, 2}}", "", "", ""),
    ],
)
def test_whatever_a_handler_does_ends_in_an_answer(cli, function, code, manifest, failure, words):
    result = cli("invoke", "--local", function(code, manifest), "--json")
    assert result.code == (1 if failure else 0)
    assert result.json.get("code", "") == failure and words in result.json["body"]


def test_a_failed_call_is_one_line_at_the_end(cli, function):
    result = cli("invoke", "--local", function("def handler(c, e):\n    raise ValueError('no')"))
    assert (result.code, result.out) == (1, "")
    assert result.err.splitlines()[-1] == "edgehost: f failed (raised, 500): no"
    assert "ValueError: no" in result.err


def test_timeout_may_be_given_for_one_call(cli, function):
    folder = function("import time\ndef handler(c, e):\n    time.sleep(60)")
    result = cli("invoke", "--local", folder, "--timeout", "0.3", "--json")
    assert (result.code, result.json["code"], result.json["status"]) == (1, "timeout", 408)


def test_a_stream_is_joined(cli, function):
    result = cli("invoke", "--local", function("def handler(c, e):\n    yield 'a'\n    yield 'b'\n    yield 'c'"))
    assert (result.code, result.out) == (0, "abc")


def test_a_status_of_400_or_more_ends_with_1(cli, function):
    result = cli("invoke", "--local", function("def handler(c, e):\n    return 404, 'not here'"))
    assert (result.code, result.out, result.err) == (1, "not here", "edgehost: f answered 404\n")


def test_large_bodies_go_through_whole(cli, function, tmp_path):
    (tmp_path / "large").write_bytes(bytes(range(256)) * 4096 * 5)
    folder = function("import hashlib\ndef handler(c, e):\n    return hashlib.sha256(e.body).hexdigest() + str(len(e.body))")
    assert cli("invoke", "--local", folder, "--file", tmp_path / "large").out.endswith(str(256 * 4096 * 5))


def test_publish_is_noted_and_other_functions_are_not_there(cli, function):
    code = (
        "def handler(context, event):\n"
        "    context.publish('out', {'a': 1}, topic='t/x')\n"
        "    return context.platform.call_function('other', {'body': 'x'}).body.decode()"
    )
    answer = cli("invoke", "--local", function(code, '[outputs.out]\nkind = "log"\n'), "--json").json
    assert "function 'other' is not here: --local runs one function alone" in answer["body"]
    assert [log["message"] for log in answer["logs"]] == ['published to output out (t/x): {"a": 1}']


START_FAILURES = {
    "an import that fails": ("import nothing_of_that_name\ndef handler(c, e): pass", "nothing_of_that_name"),
    "a syntax error": ("def handler(c, e) pass", "main.py"),
    "no handler": ("def other(c, e): pass", "handler"),
    "init_context raises": ("def init_context(c):\n    raise ValueError('not today')\ndef handler(c, e): pass", "not today"),
    "init_context ends the process": ("import os\ndef init_context(c): os._exit(1)\ndef handler(c, e): pass", "exit status 1"),
}


@pytest.mark.parametrize(("code", "words"), START_FAILURES.values(), ids=START_FAILURES.keys())
def test_a_function_that_cannot_start_is_one_line_and_1(cli, function, code, words):
    folder = function(code)
    result = cli("invoke", "--local", folder, "--json")
    assert (result.code, result.error["error"]) == (1, "start")
    assert words in result.error["message"] and "\n" not in result.error["message"]


def test_a_wrong_manifest_is_one_line_and_3(cli, function):
    result = cli("invoke", "--local", function("", "workers = 0"))
    assert (result.code, result.out) == (3, "")
    assert result.err.startswith("edgehost: ") and "function.toml" in result.err and "workers" in result.err
    assert result.err.count("\n") == 1


def test_a_folder_without_a_function_is_3(cli, tmp_path):
    assert cli("invoke", "--local", tmp_path, "--json").error["error"] == "manifest"


def test_a_relative_folder_will_do(cli, function, monkeypatch):
    monkeypatch.chdir(function("def handler(c, e):\n    return 'here'"))
    assert cli("invoke", "--local", ".").out == "here"


def test_a_name_and_a_folder_are_one_too_many(cli, tmp_path):
    assert cli("invoke", "f", "--local", tmp_path).code == 2
