"""Simulator adapters: a plug-in each, with its own dependencies; none imports another. What they share has modules of its own."""
