"""The agent as a service of systemd: what it tells the service manager while it runs, and how it is put there and taken away."""
