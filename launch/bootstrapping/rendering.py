"""Finding a way to render without a screen."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from .programs import Programs, SetupError, say

BACKENDS = ("egl", "osmesa")
PACKAGES = {"osmesa": ("libosmesa6",), "egl": ("libegl1", "libopengl0", "libgl1", "libgl1-mesa-dri")}
"""What Debian and Ubuntu call the libraries, in the order in which they are tried where nothing renders."""
_SECONDS = 120.0
_ONE_FRAME = """
import os
try:
    import mujoco
    model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><light pos='0 0 3'/><geom size='1' pos='0 0 -2'/></worldbody></mujoco>")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    with mujoco.Renderer(model, 48, 64) as renderer:
        renderer.update_scene(data)
        assert renderer.render().any(), "the frame is black"
except Exception as error:
    print(f"{type(error).__name__}: {error}", flush=True)
    os._exit(1)  # at once: half-made contexts complain when they are collected
"""


def find_backend(programs: Programs, python: Path) -> str:
    """Return the value of ``MUJOCO_GL`` with which this environment renders. Where the user has set it, only that one will do.

    As root, what is missing is installed with apt-get.

    Raises:
        SetupError: Nothing renders; says what to type.
    """
    wanted = os.environ.get("MUJOCO_GL")
    backends = (wanted,) if wanted else BACKENDS
    errors: dict[str, str] = {}
    if found := _first_that_renders(programs, python, backends, errors):
        return found
    installable = [backend for backend in PACKAGES if backend in backends]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        for backend in installable:
            if _apt_install(programs, PACKAGES[backend], errors) and (found := _first_that_renders(programs, python, (backend,), errors)):
                return found
    raise SetupError(_advice(errors, installable))


def _first_that_renders(programs: Programs, python: Path, backends: Sequence[str], errors: dict[str, str]) -> str | None:
    for backend in backends:
        error = _render_one_frame(programs, python, backend)
        if error is None:
            say(f"rendering off screen with MUJOCO_GL={backend}")
            return backend
        errors[f"MUJOCO_GL={backend}"] = error
    return None


def _render_one_frame(programs: Programs, python: Path, backend: str) -> str | None:
    """Return why it does not work, or None. In a process of its own, because a broken GL stack crashes or hangs."""
    try:
        finished = programs.try_call([python, "-c", _ONE_FRAME], env={"MUJOCO_GL": backend}, timeout=_SECONDS)
    except SetupError as error:
        return str(error)
    if finished.status == 0:
        return None
    return (finished.tail.splitlines() or [f"ended with status {finished.status}"])[-1]


def _apt_install(programs: Programs, packages: Sequence[str], errors: dict[str, str]) -> bool:
    say(f"nothing renders here yet; installing {' '.join(packages)} with apt-get")
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    finished = programs.try_call(command, env=env)
    if finished.status:
        programs.try_call(["apt-get", "update", "-qq"], env=env)  # on a fresh machine the lists of packages are missing
        finished = programs.try_call(command, env=env)
    if finished.status:
        errors[" ".join(command)] = finished.tail
    return finished.status == 0


def _advice(errors: dict[str, str], installable: Sequence[str]) -> str:
    found = "\n".join(f"    {what}: {error}" for what, error in errors.items())
    if installable:
        line = f"sudo apt-get install {' '.join(PACKAGES[installable[0]])}"
        remedy = f"On Debian and Ubuntu type this, then try again:\n    {line}\nElsewhere install what provides the same library."
    else:
        remedy = f"MUJOCO_GL is set; unset it to have {' and '.join(BACKENDS)} tried."
    return f"MuJoCo cannot render a frame here:\n{found}\n{remedy}"
