"""Reads YAML text with PyYAML, which is an extra and imported only here. Knows nothing of what the text means."""

from __future__ import annotations

from datetime import date
from typing import Any

from edgehost.errors import ManifestError


def read_yaml(text: str, name: str) -> Any:
    """What a YAML document says, keys as text, empty values left out. Raises ManifestError with line and column.

    Unlike PyYAML alone it refuses a key that is written twice, of which one would be lost in silence.
    """
    try:
        import yaml
    except ImportError:
        advice = "pip install 'edgehost[nuclio]', or write a function.toml"
        raise ManifestError(f"{name}: reading YAML needs PyYAML; {advice}") from None

    class Loader(yaml.SafeLoader):
        """SafeLoader that refuses a mapping with the same key twice."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen: set[str] = set()
            for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                key = str(key_node.value)
                if key in seen and key != "<<":
                    raise yaml.constructor.ConstructorError(None, None, f"{key} is written twice; keep one", key_node.start_mark)
                seen.add(key)
            return super().construct_mapping(node, deep)

    try:
        return _tidy(yaml.load(text, Loader))
    except yaml.MarkedYAMLError as error:
        raise ManifestError(f"{name}{_yaml_problem(error)}") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ManifestError(f"{name}: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ManifestError(f"{name}: is nested too deeply, or holds itself") from None


def _yaml_problem(error: Any) -> str:
    mark = error.problem_mark or error.context_mark
    place = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    problem = error.problem or error.context or "cannot be read"
    return f"{place}: {problem}" if "written twice" in problem else f"{place}: not YAML: {problem}"


def _tidy(value: Any) -> Any:
    """Keys as text; a key without a value left out, as Nuclio has it; dates as the text they were."""
    if isinstance(value, dict):
        return {_key(key): _tidy(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    return value.isoformat() if isinstance(value, date) else value


def _key(key: Any) -> str:
    return "true" if key is True else "false" if key is False else str(key)
