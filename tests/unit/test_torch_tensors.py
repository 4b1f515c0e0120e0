"""torch in and out of slots. What comes out owns its memory; what goes in may be any tensor."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sample_policies import Remembering, TakesAll  # noqa: E402  # only where torch is

import shmbridge  # noqa: E402
from shmbridge.arrays import arrays_of_kind  # noqa: E402
from shmbridge.connecting import connect  # noqa: E402
from shmbridge.errors import SpecError  # noqa: E402
from shmbridge.policy import PolicySpecs  # noqa: E402
from shmbridge.spec import TensorSpec  # noqa: E402
from shmbridge.testing import MarkingPolicy  # noqa: E402
from shmbridge.torch_tensors import TorchArrays, to_torch  # noqa: E402

DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "float16", "float32", "float64", "bfloat16", "complex64"]


def test_torch_is_found_by_kind() -> None:
    assert isinstance(arrays_of_kind("torch", "cpu"), TorchArrays)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tensor_comes_back_as_it_went_in(dtype: str) -> None:
    spec = TensorSpec("q", (3,), dtype)
    arrays = TorchArrays()
    value = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(getattr(torch, dtype))
    out = spec.generate(2)
    arrays.write(arrays.check(value, spec, 2), out)
    again = arrays.result({"q": out.copy()}, [spec])["q"]
    assert again.dtype is value.dtype
    assert torch.equal(again, value)


def test_a_strided_tensor_is_copied_in_order() -> None:
    value = torch.arange(12, dtype=torch.float32).reshape(3, 4).T[:, 1:]
    out = np.zeros((4, 2), np.float32)
    TorchArrays().write(value, out)
    assert out.tolist() == value.tolist()


def test_numpy_arrays_and_text_may_be_mixed_in() -> None:
    arrays = TorchArrays()
    task = TensorSpec("task", (), "utf8[8]")
    out = task.generate(2)
    arrays.write(arrays.check(["a", "ö"], task, 2), out)
    assert out.tolist() == [b"a", "ö".encode()]
    assert arrays.result({"task": out}, [task])["task"] is out


@pytest.mark.parametrize("value", [torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, 4), torch.zeros(3, 3), torch.zeros(2, 3, dtype=torch.bfloat16)])
def test_another_shape_or_dtype_is_refused(value: torch.Tensor) -> None:
    with pytest.raises(SpecError, match=r"observation 'q': expected \(2, 3\) float32, found"):
        TorchArrays().check(value, TensorSpec("q", (3,), "float32"), 2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_nan_is_refused_with_its_rows(dtype: str, shape: tuple[int, ...]) -> None:
    value = torch.zeros(4, *shape, dtype=getattr(torch, dtype))
    value[2] = float("nan")
    with pytest.raises(SpecError, match=r"NaN in rows \[2\]"):
        TorchArrays().check(value, TensorSpec("q", shape, dtype), 4)


def test_infinity_passes() -> None:
    value = torch.full((2, 3), float("inf"))
    assert TorchArrays().check(value, TensorSpec("q", (3,), "float32"), 2) is value


def test_a_tensor_that_needs_a_gradient_goes_in_too() -> None:
    value = torch.ones(2, 3, requires_grad=True)
    out = np.zeros((2, 3), np.float32)
    arrays = TorchArrays()
    arrays.write(arrays.check(value, TensorSpec("q", (3,), "float32"), 2), out)
    assert np.all(out == 1)


def test_a_policys_tensors_own_their_memory_and_may_be_written() -> None:
    array = np.ones((2, 3), np.float32)
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensors = to_torch({"q": array})
    tensors["q"] += 1
    assert tensors["q"].tolist() == [[2, 2, 2]] * 2
    assert np.all(array == 1)


def test_a_policys_text_stays_text() -> None:
    observation = {"q": np.ones((2, 3), np.float32), "task": np.array([b"a", b"b"], "S8")}
    assert to_torch(observation)["task"].tolist() == [b"a", b"b"]


def test_nested_dicts_of_tensors_go_in_and_come_out() -> None:
    class Nested(TakesAll):
        def specs(self, offered):  # type: ignore[no-untyped-def]  # as in TakesAll
            return shmbridge.PolicySpecs(list(offered.values()), [TensorSpec("arm/left", (2,), "float32"), TensorSpec("arm/right", (2,), "bfloat16")])

        def infer(self, session, observation, env_ids):  # type: ignore[no-untyped-def]  # likewise
            bits = torch.full((len(env_ids), 1, 2), 1.5, dtype=torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
            return {"arm/left": observation["state/q"][:, None, :2], "arm/right": bits}

    example = {"state": {"q": torch.ones(2, 3), "half": torch.ones(2, 4, dtype=torch.bfloat16)}}
    with shmbridge.connect(Nested(), example=example, num_envs=2, array="torch", device="cpu") as client:
        reply = client.act(example)
        assert torch.equal(reply["arm"]["left"], torch.ones(2, 2))
        assert reply["arm"]["right"].dtype is torch.bfloat16
        assert torch.equal(reply["arm"]["right"], torch.full((2, 2), 1.5, dtype=torch.bfloat16))
        reply["arm"]["left"] += 1


def test_actions_come_out_nested_by_name() -> None:
    specs = [TensorSpec("arm/left", (2,), "float32"), TensorSpec("arm/right", (2,), "float32"), TensorSpec("grip", (), "bool")]
    result = TorchArrays().result({spec.name: spec.generate(3) for spec in specs}, specs)
    assert result.keys() == {"arm", "grip"}
    assert {name: tuple(tensor.shape) for name, tensor in result["arm"].items()} == {"left": (3, 2), "right": (3, 2)}


@pytest.mark.parametrize("num_envs", [None, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8", "int64"])
def test_tensors_are_stacked_as_arrays_are(dtype: str, num_envs: int | None) -> None:
    policy = Remembering()
    batch = () if num_envs is None else (num_envs,)
    make = lambda number: {"q": torch.full((*batch, 3), number, dtype=getattr(torch, dtype))}  # noqa: E731  # shorter so
    with connect(policy, example=make(0), num_envs=num_envs, array="torch") as client:
        for number in range(9):
            client.act(make(number))
    seen = [to_torch(observation)["q"] for observation in policy.seen]
    seen = [tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor for tensor in seen]
    assert all(tuple(tensor.shape) == (num_envs or 1, 3, 3) for tensor in seen)
    assert [tensor[-1, :, 1].tolist() for tensor in seen[-3:]] == [[0, 0, 0], [2, 3, 4], [6, 7, 8]]


def test_a_tensor_that_is_not_sent_is_part_of_the_past_and_is_checked() -> None:
    policy = Remembering()
    example = {"q": torch.zeros(2, 3)}
    with connect(policy, example=example, num_envs=2, array="torch", latest_only=True) as client:
        client.act(example)
        for wrong in (torch.full((2, 3), float("nan")), torch.zeros(2, 3, dtype=torch.float64)):
            with pytest.raises(SpecError):
                client.act({"q": wrong})
        client.act({"q": torch.ones(2, 3)})
        reply = client.infer({"q": torch.full((2, 3), 2.0)})
        assert isinstance(reply["action"], torch.Tensor)
        assert reply.valid.tolist() == [True, True]
    assert policy.seen[-1]["q"][:, :, 0].tolist() == [[0, 1, 2]] * 2


def test_a_scalar_action_without_a_batch_axis_is_a_scalar_tensor() -> None:
    class Scalar(MarkingPolicy):
        def specs(self, offered: Any) -> PolicySpecs:
            return PolicySpecs([TensorSpec("mark", (), "float64")], [TensorSpec("action", (), "float32")])

        def infer(self, session: Any, observation: Any, env_ids: Any) -> dict[str, np.ndarray]:
            return {"action": np.full((len(env_ids), 1), 2.5, np.float32)}

    for array in ("numpy", "torch"):
        with connect(Scalar(), example={"mark": torch.tensor(1.0, dtype=torch.float64)}, num_envs=None, array=array) as client:
            action = client.act({"mark": np.array(1.0)})["action"]
        assert action.shape == ()
        assert float(action) == 2.5


def test_a_device_that_is_not_there_is_refused_when_connecting() -> None:
    with pytest.raises(SpecError, match="cannot be used"):
        connect(MarkingPolicy(), example={"mark": np.zeros(1)}, num_envs=1, array="torch", device="no-such-device")
