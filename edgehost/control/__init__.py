"""How an agent is asked and told: the local socket."""
