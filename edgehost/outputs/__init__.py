"""Outputs, one file each, found by entry point (`edgehost.outputs`): where the answers nobody waits for go."""
