"""Says what is new of a station."""

from __future__ import annotations


def handler(context, event):
    station = event.body or {}
    change = event.headers.get("X-Edgehost-Change", "new")
    return {"change": change, "text": f"{station.get('name', 'nobody')}: {station.get('celsius', '?')} °C"}
