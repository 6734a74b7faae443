"""What a person sees: a live table on a terminal, a line a second elsewhere, and the summary. Reads counts, changes nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tools.demonstration.observer import HEARD_FROM, Observer, Seen
from tools.demonstration.tally import Tally

_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Line:
    """One function in figures."""

    name: str
    what: str
    tally: Tally


def lines(observer: Observer) -> tuple[Line, ...]:
    """The functions under demonstration."""
    return (
        Line("live-readings", "this machine, by psutil", observer.live),
        Line("anomaly", "robust z-score, plain Python", observer.anomaly),
        Line("speech", "Silero VAD, ONNX, no code", observer.speech),
    )


def watch(console: Console, observer: Observer, seconds: float) -> None:
    """Show what happens, for so long."""
    until = time.monotonic() + seconds
    if not console.is_terminal:
        while (left_s := until - time.monotonic()) > 0:
            time.sleep(min(1.0, left_s))
            console.print(_plain(observer), soft_wrap=True, highlight=False)
        return
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        while (left_s := until - time.monotonic()) > 0:
            live.update(Group(table(lines(observer)), *_scenes(observer.seen), Text(f"ends in {left_s:.0f} s", "dim")))
            time.sleep(0.1)


def table(rows: tuple[Line, ...], title: str = "") -> Table:
    """Events in and out, and the latency from sensor to answer, for each function."""
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False)
    shown.add_column("function", style="bold")
    shown.add_column("", style="dim")
    for name in ("in", "out", "p50 ms", "p99 ms"):
        shown.add_column(name, justify="right")
    for row in rows:
        times = (row.tally.percentile_ms(50), row.tally.percentile_ms(99))
        cells = ("-" if each is None else f"{each:.1f}" for each in times)
        shown.add_row(row.name, row.what, str(row.tally.went_in), str(row.tally.came_out), *cells)
    return shown


def _scenes(seen: Seen) -> list[Text]:
    curve = Text("".join(_BARS[min(7, int(each * 8))] for each in seen.probabilities), "green")
    sound = Text.assemble(("speech    ", "bold"), (f"{seen.recording:14}", ""), curve)
    last = seen.probabilities[-1] if seen.probabilities else 0.0
    sound.append(f"  {last:4.2f} {'speech' if last >= HEARD_FROM else ''}")
    reading = "  ".join(f"{name} {value}" for name, value in seen.reading.items() if name not in ("host", "time"))
    anomalies = [Text(f"  {_told(each)}", "yellow") for each in list(seen.anomalies)[-5:]]
    return [sound, Text.assemble(("machine   ", "bold"), reading), Text("anomalies", "bold"), *anomalies]


def _told(anomaly: dict[str, object]) -> str:
    return f"{anomaly['series']} = {anomaly['value']}, expected about {anomaly['expected']} (score {anomaly['score']})"


def _plain(observer: Observer) -> str:
    seen = observer.seen
    figures = ", ".join(f"{row.name} {row.tally.came_out}/{row.tally.went_in}" for row in lines(observer))
    probability = f"{seen.probabilities[-1]:.2f}" if seen.probabilities else "-"
    text = f"{figures}; cpu {seen.reading.get('cpu_percent', '-')} %; {seen.recording or 'silence'}: speech {probability}"
    return f"{text}; {_told(seen.anomalies[-1])}" if seen.anomalies else text


def report(console: Console, observer: Observer, spikes_sent: int, memory: dict[str, int], start_s: float) -> None:
    """The summary."""
    seen = observer.seen
    heard = ", ".join(f"{name} {hearing.speech}/{hearing.frames}" for name, hearing in sorted(seen.hearings.items()))
    shares = ", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in memory.items())
    console.print(table(lines(observer), "what went in, and what came out"))
    for text in (
        f"frames that held speech: {heard or 'none'}",
        f"made-up bearing: {spikes_sent} spikes sent, {seen.spikes_found} found",
        f"memory (PSS): {shares}; the agent and its functions were ready after {start_s:.2f} s",
    ):
        console.print(text, highlight=False, soft_wrap=True)
