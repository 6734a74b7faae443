"""The demonstration behind `tools/demo`: it plays the sensors, watches what the functions answer, and counts both."""
