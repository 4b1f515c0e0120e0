"""Policies, one plug-in folder each. None imports another, or anything of the library but its public names."""
