"""HTTP requests that ask too much are refused with the status of the contract; the listener goes on."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.e2e.conftest import Agent, AgentStarter, BundleMaker

WEB = '[triggers.web]\nkind = "http"\n'
SMALL = "[http]\nbody_limit_bytes = 1000\n"


def assert_good_goes_on(running: Agent) -> None:
    assert running.request("POST", "/good", b"still here").body == b"still here"


def test_a_body_at_the_limit_is_taken_and_one_above_it_refused(agent: AgentStarter, bundle: BundleMaker) -> None:
    running = agent(bundle("good", manifest=WEB), config=SMALL)
    assert running.request("POST", "/good", b"x" * 1000).status == 200
    assert running.request("POST", "/good", b"x" * 1001).status == 413
    assert_good_goes_on(running)
    assert running.functions()["good"].handled == 2, "the body over the limit reached the function"


def test_a_body_over_the_limit_is_refused_when_its_length_is_not_told(agent: AgentStarter, bundle: BundleMaker) -> None:
    running = agent(bundle("good", manifest=WEB), config=SMALL)
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
    halves = iter([b"x" * 600, b"x" * 600])
    connection.request("POST", "/good", halves, {"Transfer-Encoding": "chunked"}, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()
    assert_good_goes_on(running)


def test_bytes_that_are_no_http_are_refused(agent: AgentStarter, bundle: BundleMaker) -> None:
    running = agent(bundle("good", manifest=WEB))
    tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20
    for garbage in (tls, b"GET\r\n\r\n", b"POST /good HTTP/1.1\r\nContent-Length: -4\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", running.port), timeout=30) as peer:
            peer.sendall(garbage)
            answer = peer.recv(4096)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer
    assert_good_goes_on(running)


def test_a_caller_that_goes_away_costs_nobody_anything(agent: AgentStarter, bundle: BundleMaker) -> None:
    slow = "import time\ndef handler(context, event):\n    time.sleep(0.3)\n    return 'late'\n"
    running = agent(bundle("slow", slow, WEB), bundle("good", manifest=WEB))
    for _ in range(5):
        peer = socket.create_connection(("127.0.0.1", running.port), timeout=30)
        peer.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        peer.close()
    half = socket.create_connection(("127.0.0.1", running.port), timeout=30)
    half.sendall(b"POST /good HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nonly this")
    half.close()
    running.wait_until_full("slow")
    running.wait_until_full("good")
    assert_good_goes_on(running)
    assert running.request("GET", "/slow").body == b"late"


def test_a_full_queue_answers_429_and_drains(agent: AgentStarter, bundle: BundleMaker) -> None:
    slow = "import time\ndef handler(context, event):\n    time.sleep(0.2)\n    return 'done'\n"
    queue = '[queue]\nsize = 2\npolicy = "reject"\n'
    running = agent(bundle("slow", slow, queue + WEB), bundle("good", manifest=WEB))
    running.request("GET", "/slow")  # how slow it is decides how many events its worker takes at once
    peers = []
    for _ in range(12):
        peer = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
        peer.request("GET", "/slow")
        peers.append(peer)
    statuses = [peer.getresponse().status for peer in peers]
    for peer in peers:
        peer.close()
    assert set(statuses) == {200, 429}, statuses
    assert running.wait_until_full("slow").dropped == statuses.count(429)
    assert_good_goes_on(running)


def test_a_path_nobody_answers_is_404(agent: AgentStarter, bundle: BundleMaker) -> None:
    running = agent(bundle("good", manifest=WEB), bundle("quiet"))
    assert running.request("GET", "/nobody").status == 404
    assert running.request("GET", "/quiet").status == 404, "a function without an http trigger answers HTTP"
    assert_good_goes_on(running)


def test_what_a_function_answers_is_what_the_caller_gets(agent: AgentStarter, bundle: BundleMaker) -> None:
    code = """
    def handler(context, event):
        told = {"method": event.method, "path": event.path, "body": event.body, "fields": event.fields}
        told["kind"] = event.trigger.kind
        return context.Response(body=told, headers={"X-Made-By": event.get_header("x-caller")}, status_code=207)
    """
    running = agent(bundle("tell", code, WEB))
    headers = {"X-Caller": "me", "Content-Type": "application/json"}
    answered = running.request("PUT", "/tell/rooms/7?unit=C", b'{"t": 21.5}', headers)
    assert (answered.status, answered.content_type, answered.headers["x-made-by"]) == (207, "application/json", "me")
    told = {"method": "PUT", "path": "/rooms/7", "body": {"t": 21.5}, "fields": {"unit": "C"}, "kind": "http"}
    assert json.loads(answered.body) == told
