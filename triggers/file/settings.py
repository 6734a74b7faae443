"""`[triggers.NAME]` with `kind = "file"`: what it may say, and what of it goes together."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from edgehost.framing import Delimiter, Framing, Line
from edgehost.framing.notation import octets
from edgehost.manifest.model import Positive, Seconds

Name = Annotated[str, Meta(min_length=1)]


class FileSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """`[triggers.NAME]` with `kind = "file"`."""

    path: Name
    """The folder to watch; a relative one counts from the function's own."""
    pattern: Name = "*"
    """Names to take, as in a shell; names that begin with a dot only if the pattern does."""
    recursive: bool = False
    mode: Literal["whole", "tail"] = "whole"
    """whole: each file is an event. tail: each line that is appended is one."""
    events: Literal["new", "changed", "both"] = "both"
    """Which files are events (mode whole): names not seen before, files whose content changed, or both."""
    existing: bool = True
    """Whether what is there before the trigger runs for the first time is taken too; tail then begins at the start of files."""
    size_limit_bytes: Positive = 4 * 1024 * 1024
    """A larger file is an event without a body; the function opens it itself."""
    content_type: str = ""
    """Empty: by the name's ending."""
    when_done: Literal["keep", "move", "delete"] = "keep"
    """What happens to a file once the function has answered."""
    done_folder: str = ""
    """Where `move` puts it; a relative one counts from `path`."""
    failed_folder: str = ""
    """Where a file goes that the function failed for; empty: it stays, and is not tried again until it changes."""
    framing: Framing | None = None
    """How tail cuts a file into events: `line`, or a `delimiter` with an end."""
    settle_s: Seconds = 2.0
    """How long a file must hold still where nothing tells that its writer has closed it (network file systems)."""
    rescan_s: Seconds = 30.0
    """How often to look through the folder for what the kernel did not tell."""
    max_in_flight: Positive = 16
    """Events the function gets before it has answered the first; 1 keeps them strictly in order."""

    def __post_init__(self) -> None:
        if "/" in self.pattern:
            raise ValueError(f"pattern: {self.pattern!r} is about names, not paths; use path and recursive for folders")
        if "\0" in self.path + self.done_folder + self.failed_folder:
            raise ValueError("path: a path has no NUL in it")
        if (self.when_done == "move") != bool(self.done_folder):
            raise ValueError('done_folder: when_done = "move" and done_folder go together; give both or neither')
        if self.mode == "tail":
            self._check_tail()
        elif self.framing is not None:
            raise ValueError('framing: goes with mode = "tail"; a whole file is not cut')

    def _check_tail(self) -> None:
        if self.when_done != "keep" or self.failed_folder:
            raise ValueError('when_done: goes with mode = "whole"; a file that is still written stays where it is')
        if not self.terminators():
            raise ValueError('framing: tail needs "line", or a delimiter with an end: a restart goes on after one')

    def terminators(self) -> tuple[bytes, ...]:
        """What an event of a tailed file ends with, each of them; none for framings that have no such bytes."""
        framing = self.framing or Line()
        if isinstance(framing, Line):
            return (octets("terminator", framing.terminator),) if framing.terminator else (b"\n", b"\r")
        return (octets("end", framing.end),) if isinstance(framing, Delimiter) and framing.end else ()
