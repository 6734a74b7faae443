"""The agent's command line as values: what it adds to edgehost.toml, and what it says beside it. Reads files, starts nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from edgehost.config import Broker, Config, SerialPort


@dataclass(frozen=True)
class Options:
    """What the command line adds to the configuration file."""

    watch: bool = False
    embedded_broker: bool = False
    standalone: bool = False
    """One function was named and nothing else runs: it answers at `/` too."""


def parse(argv: Sequence[str]) -> tuple[Config, Options]:
    """The command line as values. Raises ConfigError; argparse exits with 2 for options that do not exist."""
    parser = argparse.ArgumentParser(prog="edgehost agent", description="Run the agent until SIGTERM.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="edgehost.toml")
    parser.add_argument(
        "--function", type=Path, action="append", default=[], metavar="FOLDER", help="a function's folder; may be repeated"
    )
    parser.add_argument("--broker", metavar="embedded|URL", help="the default broker")
    parser.add_argument("--http", metavar="HOST:PORT", help="where HTTP triggers listen")
    parser.add_argument(
        "--serial", type=_serial_port, action="append", default=[], metavar="[NAME=]PORT", help="what a serial port's name means"
    )
    parser.add_argument("--gpio", choices=["auto", "gpiod", "sim"], help="where functions' pins are")
    parser.add_argument("--socket", type=Path, metavar="PATH", help="the local control socket")
    parser.add_argument("--state", type=Path, metavar="FOLDER", help="what must survive a restart")
    parser.add_argument("--watch", action="store_true", help="reload functions when their files change")
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"])
    parser.add_argument("--log-format", choices=["auto", "text", "json"])
    given = parser.parse_args(argv)
    config = Config()
    if given.config is not None:
        from edgehost.config_toml import read_config

        config = read_config(given.config)
    if given.broker not in (None, "embedded"):
        config = replace(config, brokers={**config.brokers, "default": Broker(url=given.broker)})
    if given.serial:
        config = replace(config, serial={**config.serial, **dict(given.serial)})
    if given.gpio:
        config = replace(config, gpio=replace(config.gpio, driver=given.gpio))
    if given.http:
        config = replace(config, http=replace(config.http, listen=given.http))
    config = replace(
        config,
        functions=(*config.functions, *(folder.resolve() for folder in given.function)),
        socket=given.socket or config.socket,
        state=given.state.resolve() if given.state is not None else config.state,
        log=replace(config.log, level=given.log_level or config.log.level, format=given.log_format or config.log.format),
    )
    # A service's one function keeps its own path: a second one may join it tomorrow.
    alone = len(given.function) == 1 and len(config.functions) == 1
    return config, Options(given.watch, given.broker == "embedded", alone)


def _serial_port(text: str) -> tuple[str, SerialPort]:
    """`PORT`, which is the default one, or `NAME=PORT`."""
    name, equals, port = text.partition("=")
    named = bool(equals) and "/" not in name
    return (name, SerialPort(port)) if named else ("default", SerialPort(text))
