"""Lines of GPIO chips: what a line is and who may use it, the kernel's chips and simulated ones, and the decisions about edges.

Knows events, functions and manifests as little as a chip does; triggers/gpio.py joins the two.
"""
