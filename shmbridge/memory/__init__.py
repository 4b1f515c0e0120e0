"""Shared memory, semaphores and rings: everything that the operating system provides."""
