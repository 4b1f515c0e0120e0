"""Modules exported by torch, both ways."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmbridge
from shmbridge.config import build_config, read_yaml
from shmbridge.testing import check_policy

torch = pytest.importorskip("torch", reason="the modules are torch's")

from shmbridge_policies.torch_module.policy import TorchModuleConfig, TorchModulePolicy  # noqa: E402  # needs torch
from shmbridge_policies.torch_module.programs import Input, check_inputs  # noqa: E402  # likewise

pytestmark = [  # torch would rather have no more TorchScript
    pytest.mark.filterwarnings("ignore:.torch.jit.:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit.:FutureWarning"),
]

JOINTS = {"name": "policy/joint_pos", "shape": [3], "dtype": "float32", "unit": "rad"}
IMAGE = {"name": "camera_obs/rgb", "shape": [4, 6, 3], "dtype": "uint8"}
ACTION = {"name": "action", "shape": [2], "dtype": "float32"}
OFFERED = [shmbridge.TensorSpec("policy/joint_pos", (3,), "float32"), shmbridge.TensorSpec("camera_obs/rgb", (4, 6, 3), "uint8", unit="sRGB")]
HORIZON = 5


class Chunks(torch.nn.Module):  # type: ignore[misc]  # torch is not installed where types are checked
    """Joints and an image to chunks; writes into its inputs on the way, as modules may."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 2 * HORIZON)
        self.dropout = torch.nn.Dropout(dropout)
        self.horizon = HORIZON

    def forward(self, joints: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        joints.mul_(2.0)
        brightness = image.to(torch.float32).mean(dim=(1, 2, 3)) / 255.0
        return self.dropout(self.linear(torch.cat([joints, brightness[:, None]], dim=1))).reshape(-1, self.horizon, 2)


class Sum(torch.nn.Module):  # type: ignore[misc]  # likewise
    """Sums over all but the rows, and says so in two dtypes."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        total = x.flatten(1).sum(dim=1)
        return total, total.to(torch.int64)


README = Path(__file__).resolve().parents[3] / "policies" / "torch_module" / "README.md"
Save = Callable[..., str]


@pytest.fixture(params=["script", "trace", "export"])
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Save:
    """Export a module in one of the ways there are, for any number of rows."""

    def save_one(module: Any, *inputs: torch.Tensor) -> str:
        if request.param == "export":
            return export(tmp_path, module, inputs, [{0: torch.export.Dim("rows")} for _ in inputs])
        path = str(tmp_path / "module.pt")
        with torch.no_grad():
            (torch.jit.script(module) if request.param == "script" else torch.jit.trace(module, inputs)).save(path)
        return path

    return save_one


def export(folder: Path, module: Any, inputs: Any, dynamic_shapes: Any = None) -> str:
    path = str(folder / "module.pt2")
    torch.export.save(torch.export.export(module, tuple(inputs), dynamic_shapes=dynamic_shapes), path)
    return path


def chunks(save: Save, **changes: Any) -> TorchModuleConfig:
    torch.manual_seed(0)
    path = save(Chunks().eval(), torch.zeros(2, 3), torch.zeros(2, 4, 6, 3, dtype=torch.uint8))
    return TorchModuleConfig(**{"module": path, "observation": [JOINTS, IMAGE], "action": [ACTION], "horizon": HORIZON, **changes})


def sums(path: str, **changes: Any) -> TorchModuleConfig:
    action = [{"name": "total", "shape": [], "dtype": "float32"}, {"name": "whole", "shape": [], "dtype": "int64"}]
    return TorchModuleConfig(**{"module": path, "observation": [JOINTS], "action": action, **changes})


def observation(rows: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(rows)
    found = {
        "policy/joint_pos": random.uniform(-1, 1, (rows, 3)).astype(np.float32),
        "camera_obs/rgb": random.integers(0, 256, (rows, 4, 6, 3), np.uint8),
    }
    for array in found.values():
        array.flags.writeable = False
    return found


def test_policy_fulfils_its_contract(save: Save) -> None:
    config = chunks(save)
    check_policy(lambda: TorchModulePolicy(config), OFFERED, num_envs=3)


def test_actions_are_those_of_the_module_for_any_number_of_rows(save: Save) -> None:
    policy = TorchModulePolicy(chunks(save))
    torch.manual_seed(0)
    module = Chunks().eval()
    for rows in (1, 2, 7):
        seen = observation(rows)
        before = {name: array.copy() for name, array in seen.items()}
        found = policy.infer(None, seen, list(range(rows)))["action"]
        with torch.no_grad():
            expected = module(*(torch.tensor(array) for array in seen.values()))
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)
        assert all(np.array_equal(seen[name], before[name]) for name in seen)  # although the module writes into its inputs


def test_it_asks_for_what_is_configured_and_says_units(save: Save) -> None:
    specs = TorchModulePolicy(chunks(save)).specs({})
    assert specs.observation == (shmbridge.TensorSpec("policy/joint_pos", (3,), "float32", "rad"), shmbridge.TensorSpec("camera_obs/rgb", (4, 6, 3), "uint8"))
    assert specs.horizon == HORIZON


def test_several_outputs_without_a_horizon_become_chunks_of_one(save: Save) -> None:
    policy = TorchModulePolicy(sums(save(Sum(), torch.zeros(2, 3))))
    found = policy.infer(None, {"policy/joint_pos": np.ones((4, 3), np.float32)}, [0, 1, 2, 3])
    assert {name: (array.shape, array.dtype.name) for name, array in found.items()} == {"total": ((4, 1), "float32"), "whole": ((4, 1), "int64")}
    assert found["whole"].tolist() == [[3]] * 4


def test_stacked_observations_reach_the_module(save: Save) -> None:
    policy = TorchModulePolicy(sums(save(Sum(), torch.zeros(2, 4, 3)), observation_steps=4))
    specs = policy.specs({})
    assert specs.observation_steps == 4
    assert specs.observation[0].shape == (3,)
    with shmbridge.connect(policy, observation_specs=OFFERED, num_envs=2) as client:
        for step in range(1, 6):
            seen = {"policy/joint_pos": np.full((2, 3), step, np.float32), "camera_obs/rgb": np.zeros((2, 4, 6, 3), np.uint8)}
            reply = client.act(seen)
    assert reply["whole"].tolist() == [3 * (2 + 3 + 4 + 5)] * 2


def test_bfloat16_goes_in_and_out_as_its_bits(save: Save) -> None:
    class Twice(torch.nn.Module):  # type: ignore[misc]  # as above
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x

    entry = {"shape": [3], "dtype": "bfloat16"}
    path = save(Twice(), torch.zeros(2, 3, dtype=torch.bfloat16))
    policy = TorchModulePolicy(TorchModuleConfig(path, [{"name": "x", **entry}], [{"name": "y", **entry}]))
    bits = torch.tensor([[1.0, 2.0, -3.0]]).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    found = policy.infer(None, {"x": bits}, [0])["y"]
    assert found.dtype == np.uint16
    assert torch.tensor(found.view(np.int16)).view(torch.bfloat16).tolist() == [[[2.0, 4.0, -6.0]]]


class TestWrongModules:
    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"horizon": 4}, r"returned 'action' as \(2, 5, 2\) float32; .* promises \(2, 4, 2\) float32"),
            ({"action": [{**ACTION, "shape": [3]}]}, r"\(2, 5, 2\) float32; .* promises \(2, 5, 3\) float32"),
            ({"action": [{**ACTION, "dtype": "float64"}]}, r"\(2, 5, 2\) float32; .* promises \(2, 5, 2\) float64"),
            ({"action": [ACTION, {**ACTION, "name": "second"}]}, "returned 1 .*; expected 2 .*, for action, second"),
        ],
    )
    def test_an_output_that_is_not_as_promised_shows_both(self, save: Save, change: dict[str, Any], told: str) -> None:
        policy = TorchModulePolicy(chunks(save, **change))
        with pytest.raises(shmbridge.PolicyError, match=told):
            policy.infer(None, observation(2), [0, 1])
        with pytest.raises(shmbridge.PolicyError, match=told):
            shmbridge.connect(policy, observation_specs=OFFERED, num_envs=2)  # before step one

    @pytest.mark.parametrize("exported", [False, True])
    def test_something_else_than_tensors_is_refused(self, tmp_path: Path, exported: bool) -> None:
        class Named(torch.nn.Module):  # type: ignore[misc]  # as above
            def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
                return {"action": x * 2}

        path = str(tmp_path / "module.pt")
        if exported:
            path = export(tmp_path, Named(), [torch.zeros(2, 3)], [{0: torch.export.Dim("rows")}])
        else:
            torch.jit.script(Named()).save(path)
        with pytest.raises(shmbridge.PolicyError, match=r"dict\); expected 1 tensor"):
            TorchModulePolicy(TorchModuleConfig(path, [JOINTS], [ACTION])).infer(None, observation(2), [0, 1])

    @pytest.mark.parametrize(
        "wanted",
        [[JOINTS], [IMAGE, JOINTS], [JOINTS, {**IMAGE, "dtype": "float32"}], [JOINTS, {**IMAGE, "shape": [6, 4, 3]}], [JOINTS, IMAGE, {**JOINTS, "name": "x"}]],
    )
    def test_an_exported_program_with_other_inputs_is_refused_when_loaded(self, tmp_path: Path, wanted: list[dict[str, Any]]) -> None:
        rows = torch.export.Dim("rows")
        path = export(tmp_path, Chunks().eval(), (torch.zeros(2, 3), torch.zeros(2, 4, 6, 3, dtype=torch.uint8)), [{0: rows}, {0: rows}])
        with pytest.raises(shmbridge.SpecError, match=r"takes \(any, 3\) float32, \(any, 4, 6, 3\) uint8, the configuration gives"):
            TorchModulePolicy(TorchModuleConfig(path, wanted, [ACTION], HORIZON))

    def test_a_program_exported_for_a_fixed_number_of_rows_is_refused_with_the_lines_that_mend_it(self, tmp_path: Path) -> None:
        inputs = (torch.zeros(2, 3),)
        path = export(tmp_path, Sum(), inputs)
        with pytest.raises(shmbridge.SpecError, match="exported for batches of 2") as caught:
            TorchModulePolicy(sums(path))
        lines = "\n".join(line.strip() for line in str(caught.value).splitlines()[1:]).replace('"module.pt2"', repr(path))
        exec(lines, {"torch": torch, "module": Sum(), "inputs": inputs})  # as a reader would
        assert TorchModulePolicy(sums(path)).infer(None, observation(5), [0, 1, 2, 3, 4])["total"].shape == (5, 1)

    def test_a_program_exported_for_one_row_is_called_row_by_row(self, tmp_path: Path) -> None:
        config = sums(export(tmp_path, Sum(), (torch.zeros(1, 3),)))
        seen = observation(4)
        found = TorchModulePolicy(config).infer(None, seen, [0, 1, 2, 3])["total"]
        np.testing.assert_allclose(found[:, 0], seen["policy/joint_pos"].sum(axis=1), rtol=1e-6)
        check_policy(lambda: TorchModulePolicy(config), OFFERED)

    def test_scalars_have_no_axis_but_the_rows(self) -> None:
        assert not check_inputs("m", [Input((None,), "int64")], [Input((None,), "int64")])
        assert check_inputs("m", [Input((1,), "int64")], [Input((None,), "int64")])


class TestWrongFiles:
    def test_dropout_saved_in_training_is_off(self, tmp_path: Path) -> None:
        torch.jit.script(Chunks(dropout=0.9).train()).save(str(tmp_path / "m.pt"))
        policy = TorchModulePolicy(TorchModuleConfig(str(tmp_path / "m.pt"), [JOINTS, IMAGE], [ACTION], HORIZON))
        first, second = (policy.infer(None, observation(2), [0, 1])["action"] for _ in range(2))
        np.testing.assert_array_equal(first, second)

    def test_frozen_torchscript_can_be_loaded(self, tmp_path: Path) -> None:
        torch.jit.freeze(torch.jit.script(Chunks().eval())).save(str(tmp_path / "m.pt"))
        TorchModulePolicy(TorchModuleConfig(str(tmp_path / "m.pt"), [JOINTS, IMAGE], [ACTION], HORIZON)).infer(None, observation(1), [0])

    @pytest.mark.parametrize("suffix", [".pt", ".pt2"])
    def test_what_torch_saved_as_a_pickle_is_refused_and_never_unpickled(self, tmp_path: Path, suffix: str) -> None:
        path = str(tmp_path / f"weights{suffix}")
        torch.save({"touched": Toucher(tmp_path / "touched")}, path)
        with pytest.raises(shmbridge.PolicyError, match=r"holds no module\. .* torch\.save"):
            TorchModulePolicy(sums(path))
        assert not (tmp_path / "touched").exists()

    def test_a_missing_file_and_one_that_is_no_archive_are_errors_that_say_so(self, tmp_path: Path) -> None:
        with pytest.raises(shmbridge.PolicyError, match="there is no module"):
            TorchModulePolicy(sums(str(tmp_path / "none.pt")))
        (tmp_path / "text.pt2").write_text("weights")
        with pytest.raises(shmbridge.PolicyError, match="holds no module"):
            TorchModulePolicy(sums(str(tmp_path / "text.pt2")))

    def test_a_torn_module_is_an_error_of_torch_in_one_line(self, tmp_path: Path) -> None:
        torch.jit.script(Chunks()).save(str(tmp_path / "whole.pt"))
        with zipfile.ZipFile(tmp_path / "whole.pt") as whole, zipfile.ZipFile(tmp_path / "torn.pt", "w") as torn:
            for name in whole.namelist():
                torn.writestr(name, whole.read(name)[:10])
        with pytest.raises(shmbridge.PolicyError, match=r"^[^\n]*torn\.pt \(TorchScript\) cannot be loaded onto cpu by torch[^\n]*$"):
            TorchModulePolicy(sums(str(tmp_path / "torn.pt")))

    def test_what_is_in_a_file_decides_what_it_is(self, tmp_path: Path) -> None:
        path = export(tmp_path, Sum(), (torch.zeros(1, 3),))
        TorchModulePolicy(sums(str(Path(path).rename(tmp_path / "program.pt"))))

    @pytest.mark.parametrize("exported", [False, True])
    def test_a_device_that_is_not_there_is_named(self, tmp_path: Path, exported: bool) -> None:
        path = export(tmp_path, Sum(), (torch.zeros(1, 3),)) if exported else str(tmp_path / "m.pt")
        if not exported:
            torch.jit.script(Sum()).save(path)
        with pytest.raises(shmbridge.PolicyError, match="onto nowhere"):
            TorchModulePolicy(sums(path, torch_device="nowhere"))

    def test_loading_warns_of_nothing(self, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
        torch.jit.script(Sum()).save(str(tmp_path / "m.pt"))
        recwarn.clear()
        warnings.simplefilter("always")
        TorchModulePolicy(sums(str(tmp_path / "m.pt")))
        assert not recwarn.list


class Toucher:
    """Unpickling it leaves a trace."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"observation": [{"shape": [3], "dtype": "float32"}]}, "needs a name"),
        ({"observation": [{**JOINTS, "units": "rad"}]}, "expected the keys"),
        ({"observation": []}, "at least one observation"),
        ({"action": []}, "at least one action"),
        ({"observation": [{**JOINTS, "dtype": "utf8[20]"}]}, "is text"),
        ({"action": [ACTION, ACTION]}, "unique"),
        ({"horizon": 0}, "horizon"),
    ],
)
def test_a_configuration_no_module_can_have_is_refused_before_anything_is_loaded(change: dict[str, Any], told: str) -> None:
    with pytest.raises(shmbridge.SpecError, match=told):
        TorchModulePolicy(TorchModuleConfig(**{"module": "none.pt", "observation": [JOINTS], "action": [ACTION], **change}))


@pytest.mark.skipif(not README.is_file(), reason="the plug-in's README is not beside the tests")
def test_the_readme_exports_a_module_that_its_configuration_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Network(torch.nn.Module):  # type: ignore[misc]  # as above
        def forward(self, image: torch.Tensor, joints: torch.Tensor) -> torch.Tensor:
            return joints[:, None].repeat(1, 16, 1) + image.mean(dim=(1, 2, 3))[:, None, None]

    monkeypatch.chdir(tmp_path)
    blocks = dict(re.findall(r"^```(\w+)\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
    exec(blocks["python"], {"network": Network()})
    (tmp_path / "policy.yaml").write_text(blocks["yaml"])
    config = build_config(TorchModuleConfig, read_yaml("policy.yaml"), "torch_module")
    offered = [shmbridge.TensorSpec(entry["name"], tuple(entry["shape"]), entry["dtype"]) for entry in config.observation]
    check_policy(lambda: TorchModulePolicy(config), offered)
