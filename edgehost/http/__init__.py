"""The agent's one HTTP listener: address, routes and the server. Twin of `edgehost/mqtt.py`; knows nothing of functions."""
