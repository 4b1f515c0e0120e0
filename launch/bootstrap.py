#!/usr/bin/env python3
"""Sets everything up and does the project's main jobs: ``python3 launch/bootstrap.py {demo,test,check,wheel}``.

Needs Python's standard library and a network, nothing else. This file keeps to words that old Pythons understand too, so that they
end with a message and not with a SyntaxError; the work is done in ``bootstrapping/``.
"""

import os
import platform
import struct
import sys

OLDEST = (3, 10)
TOO_NEW = (3, 14)
MACHINES = ("x86_64", "aarch64")


def obstacles(version, implementation, system, machine, bits, libc):
    """Return what of this machine is not as needed, each with what was found and what is needed."""
    if not system.startswith("linux"):  # "linux2" in Python 2
        return ["this is {}; needed is Linux".format(system)]
    found = []
    if implementation != "CPython" or not OLDEST <= tuple(version[:2]) < TOO_NEW:
        text = "this is {} {}.{}; needed is CPython 3.10, 3.11, 3.12 or 3.13. Choose another one, e.g.: make {{}} PYTHON=python3.12"
        found.append(text.format(implementation, *version[:2]).format("demo"))
    if machine not in MACHINES or bits != 64:
        found.append("this is a {}-bit Python on {}; needed is a 64-bit one on {}".format(bits, machine, " or ".join(MACHINES)))
    if not libc.startswith("glibc"):
        found.append("the C library is {}; needed is glibc (musl, as in Alpine, has semaphores of another layout)".format(libc))
    return found


def libc_name():
    """Return the C library's name and version, as ``glibc 2.36``."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or "not glibc"
    except (AttributeError, ValueError, OSError):
        return "not glibc"


def main():
    """Check the machine, then hand over."""
    found = obstacles(sys.version_info, platform.python_implementation(), sys.platform, platform.machine(), 8 * struct.calcsize("P"), libc_name())
    for text in found:
        sys.stderr.write("shmbridge: {}\n".format(text))
    if found:
        return 1
    try:
        from bootstrapping.commands import main as command  # after the check: old Pythons cannot read it

        return command(sys.argv[1:])
    except KeyboardInterrupt:  # before the command looks after signals itself
        return 130


if __name__ == "__main__":
    sys.exit(main())
