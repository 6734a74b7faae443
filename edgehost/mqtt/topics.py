"""MQTT topics and topic filters: which are valid, which match, and who is to get a message. Pure; knows no packets."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")

LONGEST_BYTES = 65535
_SHARED = "$share/"
# A topic seen once is looked up, not matched, ever after. Sensors use few topics; one topic a message must not fill memory.
_CACHED_TOPICS = 4096


def topic_problem(topic: str) -> str:
    """Why nothing can be published to `topic`, or "" when it is a topic name (MQTT 5, 4.7.1 and 4.7.3)."""
    if "+" in topic or "#" in topic:
        return "a topic to publish to holds no '+' and no '#'"
    return _text_problem(topic)


def filter_problem(text: str) -> str:
    """Why `text` is not a topic filter, or "" when it is one (MQTT 5, 4.7.1 to 4.7.3 and 4.8.2)."""
    if problem := _text_problem(text):
        return problem
    if text.startswith(_SHARED):
        group, _, rest = text[len(_SHARED) :].partition("/")
        if not group or not rest or "+" in group or "#" in group:
            return "a shared subscription is $share/GROUP/FILTER, with no '+' or '#' in GROUP"
        text = rest
    levels = text.split("/")
    if any("#" in level for level in levels[:-1]) or ("#" in levels[-1] and levels[-1] != "#"):
        return "'#' stands alone, as the last level: sensors/#"
    if any("+" in level and level != "+" for level in levels):
        return "'+' stands alone in its level: sensors/+/temperature"
    return ""


def _text_problem(text: str) -> str:
    if not text:
        return "it is empty"
    if "\0" in text:
        return "it holds a NUL character"
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError:
        return "it is not valid UTF-8"
    return f"it is longer than {LONGEST_BYTES} bytes" if size_bytes > LONGEST_BYTES else ""


def unshared(text: str) -> str:
    """The part of a filter that topics are matched with: `$share/group/a/+` gives `a/+`."""
    return text[len(_SHARED) :].partition("/")[2] if text.startswith(_SHARED) else text


def matches(text: str, topic: str) -> bool:
    """Does the valid filter `text` match `topic`? No leading wildcard matches a topic that begins with `$` (MQTT 5, 4.7.2)."""
    return _levels_match(tuple(unshared(text).split("/")), topic.split("/"))


def _levels_match(levels: tuple[str, ...], topic: list[str]) -> bool:
    if topic[0].startswith("$") and levels[0] in ("+", "#"):
        return False
    for index, level in enumerate(levels):
        if level == "#":
            return True
        if index == len(topic) or level not in ("+", topic[index]):
            return False
    return len(levels) == len(topic)


class Routes(Generic[T]):
    """Which values are subscribed to a topic, quickly: exact filters in a dict, wildcards in a list, answers remembered."""

    def __init__(self) -> None:
        self._exact: dict[str, list[T]] = {}
        self._wild: list[tuple[tuple[str, ...], T]] = []
        self._remembered: dict[str, tuple[T, ...]] = {}

    def add(self, text: str, value: T) -> None:
        """Give `value` every message whose topic matches the valid filter `text`."""
        text = unshared(text)
        if "+" in text or "#" in text:
            self._wild.append((tuple(text.split("/")), value))
        else:
            self._exact.setdefault(text, []).append(value)
        self._remembered.clear()

    def remove(self, text: str, value: T) -> None:
        """Undo one `add` of the same pair; ValueError when there was none."""
        text = unshared(text)
        if "+" in text or "#" in text:
            self._wild.remove((tuple(text.split("/")), value))
        elif text in self._exact:
            self._exact[text].remove(value)
            if not self._exact[text]:
                del self._exact[text]
        else:
            raise ValueError(f"{text!r} was never added")
        self._remembered.clear()

    def match(self, topic: str) -> tuple[T, ...]:
        """The values whose filter matches, exact ones first."""
        found = self._remembered.get(topic)
        if found is None:
            levels = topic.split("/")
            wild = (value for pattern, value in self._wild if _levels_match(pattern, levels))
            found = (*self._exact.get(topic, ()), *wild)
            if len(self._remembered) >= _CACHED_TOPICS:
                self._remembered.clear()
            self._remembered[topic] = found
        return found
