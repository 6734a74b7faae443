"""Handler contract, "Loading": the environment variables of a function."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgehost.engine.spec import WorkerSpec
from edgehost.sdk.environment import function_environment


@pytest.mark.parametrize("prefix", ["NUCLIO_", "EDGEHOST_"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FUNCTION_NAME", "thermo"),
        ("FUNCTION_DESCRIPTION", "reads a thermometer"),
        ("FUNCTION_VERSION", "1.2.3"),
        ("FUNCTION_HANDLER", "main:handler"),
        ("HANDLER", "main:handler"),
    ],
)
def test_a_function_finds_what_it_is(prefix: str, name: str, value: str, make_spec: Callable[..., WorkerSpec]) -> None:
    assert function_environment(make_spec())[prefix + name] == value


def test_the_env_of_the_manifest_is_there_and_cannot_hide_the_names(make_spec: Callable[..., WorkerSpec]) -> None:
    environment = function_environment(make_spec(env={"UNIT": "C", "NUCLIO_FUNCTION_NAME": "other"}))
    assert (environment["UNIT"], environment["NUCLIO_FUNCTION_NAME"]) == ("C", "thermo")
    assert len(environment) == 11
