"""A small image policy, cloned from scripted demonstrations. Empty, so that collecting demonstrations needs no torch."""
