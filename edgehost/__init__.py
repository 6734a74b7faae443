"""edgehost: runs functions and models next to the sensors."""

__version__ = "0.1.0"
