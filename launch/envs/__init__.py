"""Simulator adapters. Each module is a plug-in with its own dependencies and imports nothing of the others."""
