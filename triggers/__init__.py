"""Event sources, one file each, found by entry point (`edgehost.triggers`)."""
