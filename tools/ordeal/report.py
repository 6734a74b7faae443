"""How a run is told: a table for people, one JSON object for machines, a message's history for who looks for the cause."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from tools.ordeal.verdict import Count, Result, letters_broken, shown

_MOST_LINES = 60
_HEAD = (
    *("flow", "promise", "sent", "taken", "answered", "lost", "never taken"),
    *("duplicated", "out of order", "broker lost", "copies"),
)


def broken(result: Result) -> list[str]:
    """Every broken promise, one line each."""
    lines = [
        f"{count.flow.name} ({count.flow.promise}): {len(numbers)} {what}: {shown(numbers)}"
        for count in result.counts
        for what, numbers in count.broken
    ]
    lines += [f"E (dead letters): {len(numbers)} {what}: {shown(numbers)}" for what, numbers in letters_broken(result.letters)]
    return lines + result.troubles


def culprits(result: Result) -> list[str]:
    """One message of each broken promise, as the history names it."""
    found = [f"{count.flow.name}-{numbers[0]}" for count in result.counts for _, numbers in count.broken]
    return found + [f"E-{numbers[0]}" for _, numbers in letters_broken(result.letters)]


def history(log: Path, of: str) -> list[str]:
    """What happened to one message, and to the line and the agent meanwhile."""
    lines = [line for line in log.read_text().splitlines() if re.match(rf"\s*[-\d.]+ ({re.escape(of)}|-) ", line)]
    own = [index for index, line in enumerate(lines) if f" {of} " in line]
    if not own:
        return []
    part = lines[own[0] : own[-1] + 12]
    if len(part) <= _MOST_LINES:
        return part
    half = _MOST_LINES // 2
    return [*part[:half], f"... {len(part) - 2 * half} lines more in {log}", *part[-half:]]


def as_json(result: Result) -> str:
    """One line."""
    told = {
        "seed": result.seed,
        "seconds": round(result.seconds, 1),
        "faults": result.faults,
        "faults_in_all": sum(result.faults.values()),
        "not_reached": result.unreached,
        "skipped": result.skipped,
        "flows": {
            count.flow.name: {
                "promise": count.flow.promise,
                "sent": count.sent,
                "taken": count.taken,
                "answered": count.answered,
                "lost": count.lost,
                "never_taken": count.stuck,
                "duplicated": count.duplicated,
                "excused": count.excused,
                "out_of_order": count.disordered,
                "lost_by_the_broker": len(count.by_broker),
                "copies_at_the_far_end": count.copies,
            }
            for count in result.counts
        },
        "dead_letters": {
            "expected": len(result.letters.expected),
            "found": len(result.letters.found),
            "replayed": result.letters.replayed,
            "left": len(result.letters.left),
            "unchecked": result.letters.unchecked,
        },
        "longest_stall_s": round(result.longest_stall_s, 2),
        "refused_by_the_broker": result.refused,
        "http_refusals": result.refusals,
        "broken": broken(result),
    }
    return json.dumps(told)


def as_table(result: Result) -> str:
    """The same for people."""
    total = sum(result.faults.values())
    lines = [f"{total} faults in {result.seconds:.0f} s, seed {result.seed}", ""]
    lines += _aligned([("fault", "times"), *((kind, str(times)) for kind, times in result.faults.items())])
    lines += [f"  not reached: {point}" for point in result.unreached]
    lines += [f"  skipped: {kind}: {why}" for kind, why in result.skipped.items()]
    lines += ["", *_aligned([_HEAD, *map(_cells, result.counts)])]
    letters = result.letters
    if letters.unchecked:
        lines.append(f"  dead letters: not checked: {letters.unchecked}")
    else:
        found = f"{len(letters.found)} found of {len(letters.expected)} expected"
        lines.append(f"  dead letters: {found}, {letters.replayed} replayed, {len(letters.left)} left")
    excused = sum(count.excused for count in result.counts)
    lines += ["", f"  longest stall while nothing was wrong: {result.longest_stall_s:.1f} s"]
    lines += [f"  sent again because the broker had forgotten the session: {excused}"] if excused else []
    lines += [f"  answers that the broker refused, sent again: {result.refused}"] if result.refused else []
    if result.refusals:
        refusals = ", ".join(f"{times} x {status}" for status, times in result.refusals.items())
        lines.append(f"  HTTP requests without a 202, sent again: {refusals}")
    return "\n".join(lines)


def _cells(count: Count) -> tuple[str, ...]:
    flow = count.flow
    duplicated = str(len(count.duplicated)) if flow.exactly else f"({len(count.duplicated)})"
    disordered = str(len(count.disordered)) if flow.ordered else ""
    numbers = (count.sent, count.taken, count.answered, len(count.lost), len(count.stuck))
    return (flow.name, flow.promise, *map(str, numbers), duplicated, disordered, str(len(count.by_broker)), str(count.copies))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Text to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    texts = [not any(char.isdigit() for char in row) for row in rows[-1]] if len(rows) > 1 else [True] * len(widths)
    lines = []
    for row in rows:
        cells = zip(row, widths, texts, strict=True)
        lines.append("  " + "  ".join(cell.ljust(width) if text else cell.rjust(width) for cell, width, text in cells).rstrip())
    return lines
