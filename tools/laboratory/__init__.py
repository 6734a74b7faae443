"""What `tools/lab` is made of: Debian roots, containers and virtual machines in which edgehost is tested on real kernels."""
