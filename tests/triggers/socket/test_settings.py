"""What a manifest may say of sockets, and how addresses are written."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehost.manifest.conversion import to_struct
from edgehost.manifest.problem import Mistake
from edgehost.triggers.socket.address import FORM, Address, parse, spell_peer
from edgehost.triggers.socket.settings import SocketSettings

NO_NAME = "is not the name of a host; each part between its dots has 1 to 63 characters, as in gps.local"


@pytest.mark.parametrize(
    ("settings", "place", "text"),
    [
        ({}, "", 'give one of listen, as in "udp://:5514", and connect, as in "tcp://127.0.0.1:2947"'),
        ({"listen": "udp://:1", "connect": "tcp://a:1"}, "", None),
        ({"listen": "5514"}, "listen", f"'5514' is not an address; {FORM}"),
        ({"listen": "tcp://::1:80"}, "listen", None),
        ({"listen": "tcp://:65536"}, "listen", None),
        ({"listen": "http://:80"}, "listen", None),
        ({"listen": "unix://relative"}, "listen", None),
        ({"listen": "unix:///" + "x" * 108}, "listen", None),
        ({"listen": "tcp://localhost:80"}, "listen", None),
        ({"connect": "udp://a:1"}, "connect", None),
        ({"connect": "tcp://:1"}, "connect", None),
        ({"connect": "tcp://gps..local:2947"}, "connect", f"'gps..local' {NO_NAME}"),
        ({"connect": f"tcp://{'x' * 64}.local:2947"}, "connect", None),
        ({"connect": "tcp://gps\0.local:2947"}, "connect", None),
        ({"listen": "tcp://:1", "greeting": "x"}, "greeting", "goes with connect"),
        ({"connect": "tcp://a:1", "greeting": "0x1"}, "greeting", None),
        ({"listen": "tcp://:1", "group": "239.1.2.3"}, "group", "goes with listen = udp://…"),
        ({"listen": "udp://:1", "group": "10.1.2.3"}, "group", None),
        ({"listen": "udp://[::1]:1", "group": "239.1.2.3"}, "group", None),
        ({"listen": "udp://:1", "interface": "eth0"}, "interface", "goes with group"),
        ({"listen": "udp://:1", "datagram_limit": "1MiB"}, "datagram_limit_bytes", None),
    ],
)  # fmt: skip
def test_refused_settings(settings: dict[str, Any], place: str, text: str | None) -> None:
    with pytest.raises(Mistake) as caught:
        to_struct(settings, SocketSettings)
    assert caught.value.path == (place,)
    assert text is None or caught.value.text == text


@given(
    st.sampled_from(["udp", "tcp"]),
    st.one_of(st.just(""), st.ip_addresses().map(str), st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z]{1,5})?", fullmatch=True)),
    st.integers(0, 65535),
)
def test_addresses_read_as_they_are_written(kind: Any, host: str, port: int) -> None:
    address = Address(kind, host, port)
    assert parse("listen", str(address)) == address


@given(st.text())
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        parse("listen", text)
    except ValueError as error:
        assert str(error).startswith("listen: ")


def test_peers_are_spelt_as_people_know_them() -> None:
    assert spell_peer("udp", ("::ffff:10.0.0.1", 5, 0, 0)) == "udp://10.0.0.1:5"
    assert spell_peer("tcp", ("fe80::1", 5, 0, 2)) == "tcp://[fe80::1]:5"
    assert spell_peer("unixgram", None) == ""
    assert spell_peer("unixgram", b"\0abstract") == "unixgram://\0abstract"
