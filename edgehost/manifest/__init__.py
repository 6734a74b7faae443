"""A function's manifest: the values it says (`model`), and `read_manifest`, which finds and reads the one of a folder."""

from edgehost.manifest.folder import read_manifest

__all__ = ["read_manifest"]
