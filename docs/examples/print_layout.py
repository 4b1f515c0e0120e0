"""Print the layout of both rings for the worked example of docs/reference/wire-format.md."""

from shmbridge import PolicySpecs, TensorSpec
from shmbridge.layout import session_layouts

SPECS = PolicySpecs(
    observation=[
        TensorSpec("camera_obs/head_rgb", (480, 640, 3), "uint8", unit="sRGB"),
        TensorSpec("policy/joint_pos", (7,), "float32", unit="rad"),
        TensorSpec("policy/gripper", (), "bfloat16"),
        TensorSpec("instruction", (), "utf8[64]"),
    ],
    action=[TensorSpec("action", (7,), "float32", unit="rad/s")],
    horizon=16,
)

for ring, layout in zip(("observation", "action"), session_layouts(SPECS, num_envs=2), strict=True):
    print(f"{ring}: stride {layout.stride}, digest {layout.digest}")
    for number, word in enumerate(layout.header._fields):
        print(f"  {8 * number:>8}  {8:>8}  {word}")
    for field in layout.fields:
        print(f"  {field.offset:>8}  {field.nbytes:>8}  {field.name} {field.shape} {field.dtype}")
