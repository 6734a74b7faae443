"""`edgehost invoke` against an agent: the event as asked for, the answer as it came, and an exit code by its status."""

from __future__ import annotations

import pytest

from edgehost.control.protocol import LIMIT_BYTES


def test_the_body_is_printed_as_it_came(cli, agent):
    result = cli("invoke", "echo", "--body", "hé", "--socket", agent)
    assert (result.code, result.out, result.err) == (0, "hé", "")


def test_json_prints_the_whole_answer(cli, agent):
    result = cli("invoke", "echo", "-b", "text", "-H", "A: b:c", "-H", "D:e", "--path", "/p", "--socket", agent, "--json")
    answer = result.json
    assert answer.pop("duration_ms") > 0
    assert answer == {
        "status": 200,
        "headers": {"A": "b:c", "D": "e", "X-Method": "POST", "X-Path": "/p"},
        "content_type": "text/plain",
        "body": "text",
        "logs": [],
    }


def test_a_body_that_is_no_text_is_base64_in_json(cli, agent):
    answer = cli("invoke", "image", "--socket", agent, "--json").json
    assert answer["body_base64"] == "iVBOR/8=" and "body" not in answer


@pytest.mark.parametrize(
    ("options", "method", "content_type"),
    [
        ([], "GET", ""),
        (["--body", ""], "POST", "text/plain"),
        (["--body", "[1]"], "POST", "application/json"),
        (["--body", '{"a": 1}'], "POST", "application/json"),
        (["--body", "12"], "POST", "text/plain"),
        (["--body", "{"], "POST", "text/plain"),
        (["--body", "[1]", "--content-type", "a/b", "--method", "PUT"], "PUT", "a/b"),
        (["--file", "e.json"], "POST", "application/json"),
        (["--file", "e.txt"], "POST", "text/plain"),
        (["--file", "e.bin"], "POST", "application/octet-stream"),
        (["--file", "e"], "POST", "application/octet-stream"),
    ],
)
def test_method_and_content_type_follow_the_body_unless_given(cli, agent, tmp_path, monkeypatch, options, method, content_type):
    monkeypatch.chdir(tmp_path)
    for name in ("e.json", "e.txt", "e.bin", "e"):
        (tmp_path / name).write_bytes(b"\x00\xff")
    answer = cli("invoke", "echo", *options, "--socket", agent, "--json").json
    assert (answer["headers"]["X-Method"], answer["content_type"]) == (method, content_type)


def test_the_body_may_come_from_standard_input(program, agent):
    result = program("invoke", "echo", "--file", "-", "--socket", agent, stdin=b"piped")
    assert (result.code, result.out) == (0, "piped")


def test_the_socket_may_come_from_the_environment(program, agent):
    assert program("invoke", "echo", "--body", "x", EDGEHOST_SOCKET=str(agent)).out == "x"


def test_a_failed_event_is_one_line_and_1(cli, agent):
    result = cli("invoke", "fails", "--socket", agent)
    assert (result.code, result.out, result.err) == (1, "", "edgehost: fails failed (raised, 500): ValueError: no\n")


def test_a_failed_event_has_its_code_in_json(cli, agent):
    result = cli("invoke", "fails", "--socket", agent, "--json")
    assert result.code == 1
    assert (result.json["status"], result.json["code"], result.json["body"]) == (500, "raised", "ValueError: no\n")


def test_an_answer_of_400_or_more_is_shown_and_ends_with_1(cli, agent):
    result = cli("invoke", "missing", "--socket", agent)
    assert (result.code, result.out, result.err) == (1, "nothing here", "edgehost: missing answered 404\n")


def test_a_stream_that_breaks_off_ends_with_1_and_says_why(cli, agent):
    result = cli("invoke", "torn", "--socket", agent)
    assert (result.code, result.out) == (1, "one two")
    assert result.err == "edgehost: torn broke off its answer: the worker died\n"
    as_json = cli("invoke", "torn", "--socket", agent, "--json")
    assert (as_json.code, as_json.json["body"], as_json.json["error"]) == (1, "one two", "the worker died")


def test_log_level_asks_for_the_calls_own_log(cli, agent):
    asked = cli("invoke", "echo", "--log-level", "debug", "--socket", agent, "--json").json
    assert asked["headers"]["X-Edgehost-Log-Level"] == "debug"
    answer = cli("invoke", "chatty", "--socket", agent, "--json").json
    assert answer["logs"] == [{"level": "info", "message": "hm", "time": 1, "with": {"n": 1}}]
    assert answer["headers"] == {}
    assert "info  hm n=1" in cli("invoke", "chatty", "--socket", agent).err


def test_an_unknown_function_is_refused_with_5(cli, agent):
    result = cli("invoke", "nope", "--socket", agent)
    assert (result.code, result.err) == (5, "edgehost: 'nope' is not a function here; there are: echo\n")
    assert cli("invoke", "nope", "--socket", agent, "--json").error["error"] == "control"


def test_no_answer_in_time_ends_with_6(cli, agent):
    result = cli("invoke", "slow", "--timeout", "0.1", "--socket", agent)
    assert (result.code, result.err) == (6, "edgehost: no answer within 0.1 s; give a larger --timeout\n")


def test_a_body_over_the_limit_is_refused_before_it_is_sent(cli, agent, tmp_path):
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(LIMIT_BYTES + 1)
    result = cli("invoke", "echo", "--file", large, "--socket", agent)
    assert result.code == 5 and "the local socket carries at once; send less" in result.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--header", "nocolon"], "--header 'nocolon' is no header; give NAME:VALUE"),
        (["--header", ":x"], "--header ':x' is no header"),
        (["--body", "a", "--file", "e"], "--body and --file are both given; give one"),
        (["--timeout", "0"], "0.001"),
        (["--file", "gone"], "--file 'gone' cannot be read: No such file or directory"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(cli, agent, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "e").write_text("x")
    result = cli("invoke", "echo", *options, "--socket", agent)
    assert result.code == 2 and message in result.err
