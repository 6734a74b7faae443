"""What went wrong between us and a broker, in words that say what to do. Pure."""

from __future__ import annotations

import socket
import ssl
from datetime import datetime

from edgehost.config import Broker
from edgehost.trust import distrust

# MQTT 5 reason codes (2.4). paho-mqtt translates the return codes of a 3.1.1 CONNACK into these.
_ADVICE = {
    0x84: "it does not speak MQTT 5; set version = \"3.1.1\" in [brokers.NAME]",
    0x85: "it does not take the client id; set client_id in [brokers.NAME]",
    0x86: "user name or password is wrong; see username and password_file in [brokers.NAME]",
    0x87: "we are not authorised; see username, password_file and the broker's access list",
    0x88: "it is not available now; it is asked again",
    0x89: "it is busy; it is asked again",
    0x8A: "it has banned this client; ask whoever runs it",
    0x8B: "it is shutting down; it is asked again",
    0x8C: "it wants another way to authenticate than user name and password or a certificate",
    0x8D: "it heard nothing from us for too long; see keepalive_s in [brokers.NAME]",
    0x8E: "another client came with the same client id; give each agent its own client_id in [brokers.NAME]",
    0x90: "the topic is not one it takes",
    0x91: "it has not ended an earlier exchange of the same packet identifier; it is sent again",
    0x93: "we sent more than it can take at once",
    0x95: "a message is larger than it takes; send smaller ones or raise the broker's limit",
    0x97: "a quota is used up; send less or raise the broker's limit",
    0x99: "the payload is not of the format it announces",
    0x9A: "it keeps no retained messages; set retain = false",
    0x9B: "it does not offer this QoS; use a lower one",
    0x9C: "it wants us at another server; change url in [brokers.NAME]",
    0x9D: "it has moved; change url in [brokers.NAME]",
    0x9E: "it does not offer shared subscriptions",
    0x9F: "we connect too often; it is asked again",
    0xA1: "it does not offer subscription identifiers",
    0xA2: "it does not offer wildcards in topic filters",
}


QUOTA_EXCEEDED = 0x97
FOR_NOW = frozenset({0x88, 0x89, 0x8B, 0x91, 0x93, QUOTA_EXCEEDED, 0x9F})
"""Refusals of a message that the broker may take later."""


def explain(code: int, name: str = "") -> str:
    """A reason code with what to do: `not authorized (0x87): we are not ...`. `name` is the standard's own word for it."""
    words = [name.lower(), f"(0x{code:02x})"] if name else [f"reason 0x{code:02x}"]
    advice = _ADVICE.get(code)
    return " ".join(words) + (f": {advice}" if advice else "")


def refusal(code: int, name: str, broker: Broker) -> str:
    """The broker said no, to our CONNECT or later with a DISCONNECT."""
    return f"the broker at {broker.url} refused us: {explain(code, name)}"


def trouble(error: BaseException, broker: Broker) -> str:
    """An error of the socket, the name lookup or TLS."""
    where = f"the broker at {broker.url}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{where} shows a certificate we do not trust: {distrust(error, 'ca_file of [brokers.NAME]', datetime.now())}"
    if isinstance(error, ssl.SSLError):
        return f"{where}: TLS failed: {error.reason or error}{_certificate_advice(broker)}"
    if isinstance(error, socket.gaierror):
        return f"{where} has no address: {error.strerror}; see url in [brokers.NAME] and the device's name server"
    if isinstance(error, ConnectionRefusedError):
        return f"{where} refused the connection: nothing listens there; start it, or see url in [brokers.NAME]"
    if isinstance(error, TimeoutError):
        return f"{where} did not answer in time; see url in [brokers.NAME] and any firewall between"
    if isinstance(error, ConnectionError):
        return closed(broker, greeted=True)
    return f"{where}: {error}"


def closed(broker: Broker, greeted: bool) -> str:
    """The broker ended the connection without a reason; `greeted` says whether it had answered our CONNECT.

    With TLS 1.3 that is also how it refuses a client certificate, and some do so to a version of MQTT they do not speak.
    """
    version = "" if greeted else f"; does it speak MQTT {broker.version}? See version in [brokers.NAME]"
    return f"the broker at {broker.url} closed the connection{_certificate_advice(broker)}{version}"


def _certificate_advice(broker: Broker) -> str:
    if broker.cert_file or not broker.url.startswith("mqtts:"):
        return ""
    return "; if it wants a client certificate, give cert_file and key_file in [brokers.NAME]"
