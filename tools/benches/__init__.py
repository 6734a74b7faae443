"""The benches behind `tools/bench`: each module has `run(seconds) -> list[Row]` and measures one part on this machine."""
