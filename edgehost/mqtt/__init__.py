"""The one MQTT session of the agent with a broker: paho-mqtt inside the loop, with a lane of our own for PUBLISH.

session      what others use: subscribe, publish, acknowledge; the loop that connects again
publisher    messages on their way out
inbox        subscriptions, and which message goes to whom
connection   one connection: reading ahead, joined writes, PUBLISH past paho
paho_client  paho-mqtt with our socket; the only file that knows its insides
exchanges    what is owed in each direction, as tables
capacity     how much of it a broker takes at once
packets      PUBLISH and its acknowledgements as bytes
topics       filters, and who gets a message
endpoint     address, password, certificates; reasons: what went wrong, in words
"""

from edgehost.mqtt.inbox import Subscription
from edgehost.mqtt.packets import Message
from edgehost.mqtt.paho_client import Will
from edgehost.mqtt.session import Session, State

__all__ = ["Message", "Session", "State", "Subscription", "Will"]
