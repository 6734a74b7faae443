"""What a function finds in its environment variables. Pure: the worker sets them."""

from __future__ import annotations

from typing import Protocol


class Described(Protocol):
    """The part of `edgehost.engine.spec.WorkerSpec` this needs."""

    @property
    def function(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def handler(self) -> str: ...
    @property
    def env(self) -> dict[str, str]: ...


def function_environment(spec: Described) -> dict[str, str]:
    """The manifest's `env`, and what names the function: `NUCLIO_FUNCTION_NAME` and its like, each with its `EDGEHOST_` twin.

    The names win over `env`: code written for Nuclio trusts them.
    """
    names = {
        "FUNCTION_NAME": spec.function,
        "FUNCTION_DESCRIPTION": spec.description,
        "FUNCTION_VERSION": spec.version,
        "FUNCTION_HANDLER": spec.handler,
        "HANDLER": spec.handler,
    }
    return {**spec.env, **{prefix + name: value for prefix in ("NUCLIO_", "EDGEHOST_") for name, value in names.items()}}
