"""How simulators, and pairs of a simulator and a policy, are started."""
