"""Where a broker is, and who we are there."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from edgehost.config import Broker
from edgehost.mqtt.endpoint import Address, client_id, in_thread, parse_url
from edgehost.mqtt.reasons import explain, trouble


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://host", Address("host", 1883, False)),
        ("mqtts://host", Address("host", 8883, True)),
        ("mqtt://10.0.0.1:99", Address("10.0.0.1", 99, False)),
        ("mqtts://[::1]:8884", Address("::1", 8884, True)),
        ("mqtt://host/", Address("host", 1883, False)),
    ],
)
def test_a_url_names_host_port_and_tls(url: str, address: Address) -> None:
    assert parse_url(url) == address


def test_client_ids_stay_and_differ_between_brokers() -> None:
    broker, host = Broker(url="mqtt://h"), socket.gethostname()
    assert client_id("default", broker) == f"edgehost-{host}"
    assert client_id("plant", broker) == f"edgehost-{host}-plant"
    assert client_id("mqtt://h:1", broker) == f"edgehost-{host}-mqtt-h-1"
    assert client_id("default", Broker(url="mqtt://h", client_id="own")) == "own"


def test_a_reason_code_comes_with_advice() -> None:
    assert explain(0x86, "Bad user name or password").startswith("bad user name or password (0x86): ")
    assert explain(0x83) == "reason 0x83"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionRefusedError(111, "refused"), "nothing listens there"),
        (socket.gaierror(-2, "Name or service not known"), "has no address"),
        (TimeoutError(), "did not answer in time"),
        (OSError(113, "No route to host"), "No route to host"),
    ],
)
def test_network_errors_are_told_in_words(error: OSError, said: str) -> None:
    told = trouble(error, Broker(url="mqtt://h"))
    assert said in told and "mqtt://h" in told


async def test_blocking_work_runs_in_a_thread_that_ends() -> None:
    loop, names = asyncio.get_running_loop(), []
    await in_thread(lambda: names.append(threading.current_thread().name), loop)
    assert names == ["mqtt-connect"]

    def fail() -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        await in_thread(fail, loop)


async def test_work_that_nobody_waits_for_any_more_is_no_trouble() -> None:
    loop, go = asyncio.get_running_loop(), threading.Event()
    future = in_thread(lambda: (go.wait(10), None)[1], loop)
    future.cancel()
    go.set()
    await asyncio.sleep(0.05)
    assert future.cancelled()
