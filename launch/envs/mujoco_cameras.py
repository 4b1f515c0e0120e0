"""MuJoCo's cameras, rendered off screen and straight into the arrays of the caller.

Shadows, reflections, multisampling and the sky are off: with a software renderer they take nine tenths of the time of a frame.
"""

from __future__ import annotations

import ctypes.util
import os
from collections.abc import Iterable

import numpy as np

import shmbridge

_GL_HELP = (
    "MUJOCO_GL names how MuJoCo renders: 'egl' (needs libegl1 libgl1 libopengl0, and libgl1-mesa-dri where there is no GPU driver) "
    "or 'osmesa' (needs libosmesa6; no GPU). It is read once, when mujoco is imported"
)


def _installed_gl() -> str:
    """Return the off-screen renderer whose library is installed. Without one, everything but the cameras works."""
    libraries = {"egl": "EGL", "osmesa": "OSMesa"}
    return next((gl for gl, library in libraries.items() if ctypes.util.find_library(library)), "disabled")


# Before the import below, which reads it. MuJoCo's own default needs a display.
if "MUJOCO_GL" not in os.environ:
    os.environ["MUJOCO_GL"] = _installed_gl()

try:
    import mujoco
except ModuleNotFoundError:
    raise
except Exception as error:  # PyOpenGL raises AttributeError, OSError or others where a library is missing
    raise ImportError(f"MuJoCo cannot be loaded with MUJOCO_GL={os.environ['MUJOCO_GL']}: {error}. {_GL_HELP}") from error


_COSTLY = (
    mujoco.mjtRndFlag.mjRND_SHADOW,
    mujoco.mjtRndFlag.mjRND_REFLECTION,
    mujoco.mjtRndFlag.mjRND_SKYBOX,
    mujoco.mjtRndFlag.mjRND_HAZE,
)


def prepare_for_fast_rendering(model: mujoco.MjModel, *, height: int, width: int, brightness: float = 1.0) -> None:
    """Change how ``model`` looks: no shadows, no multisampling, images upright, lights scaled by ``brightness``.

    Call it before the :class:`Cameras` of the model are made; the physics stays as it is.
    """
    model.vis.quality.offsamples = 0
    model.vis.quality.shadowsize = 0
    model.vis.global_.offheight = max(height, model.vis.global_.offheight)
    model.vis.global_.offwidth = max(width, model.vis.global_.offwidth)
    for light in (model.vis.headlight.ambient, model.vis.headlight.diffuse, model.light_ambient, model.light_diffuse):
        np.multiply(light, brightness, out=light)
    _turn_upright(model)


class Cameras:
    """One renderer and its GL context, for any number of copies of one model.

    Args:
        model: The first copy; the others may differ in where things are, not in meshes, textures or materials.
        names: Cameras that will be asked for.
        height: Of an image [px].
        width: Of an image [px].

    Raises:
        SpecError: The model has no camera of that name.
        RuntimeError: There is no working GL; the message says what to install and set.
    """

    def __init__(self, model: mujoco.MjModel, names: Iterable[str], *, height: int, width: int) -> None:
        self._options = mujoco.MjvOption()
        self._cameras = {name: _camera(model, name) for name in names}
        try:
            mujoco.gl_context.GLContext(width, height).free()  # by itself first: a Renderer that gets none complains again when collected
            self._renderer = mujoco.Renderer(model, height, width)
        except Exception as error:  # each GL stack has errors of its own
            found = os.environ["MUJOCO_GL"]
            raise RuntimeError(f"the cameras cannot be rendered with MUJOCO_GL={found}: {error}. {_GL_HELP}") from error
        for flag in _COSTLY:
            self._renderer.scene.flags[flag] = False

    def render(self, model: mujoco.MjModel, data: mujoco.MjData, name: str, out: np.ndarray) -> None:
        """Write what camera ``name`` of one copy sees.

        Args:
            model: The copy's model.
            data: The copy's state, after ``mj_forward``.
            name: One of the cameras named at the start.
            out: (height, width, 3) uint8, sRGB, upright, C-contiguous.
        """
        if not out.flags.c_contiguous:
            raise shmbridge.SpecError(f"camera {name!r} renders into C-contiguous arrays only; strides are {out.strides}")
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(model, data, self._options, None, self._cameras[name], everything, self._renderer.scene)
        self._renderer.render(out=out)

    def close(self) -> None:
        """Give the GL context back. May be called twice."""
        self._renderer.close()


def _camera(model: mujoco.MjModel, name: str) -> mujoco.MjvCamera:
    known = [model.camera(index).name for index in range(model.ncam)]
    if name not in known:
        raise shmbridge.SpecError(f"no camera {name!r} in this model; there are {', '.join(known)}")
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
    camera.fixedcamid = known.index(name)
    return camera


def _turn_upright(model: mujoco.MjModel) -> None:
    """Roll the world's cameras that hang upside down (Meta-World's corner cameras do) by half a turn about their line of sight."""
    half_turn = np.array([0.0, 0.0, 0.0, 1.0])
    for camera in range(model.ncam):
        up_z = model.cam_mat0[camera].reshape(3, 3)[2, 1]
        if model.cam_bodyid[camera] == 0 and up_z < -1e-6:
            mujoco.mju_mulQuat(model.cam_quat[camera], model.cam_quat[camera].copy(), half_turn)
