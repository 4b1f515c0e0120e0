"""The image policy: what it does with images, not how well it was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import shmbridge
from shmbridge.testing import check_policy
from shmbridge_policies.pixel_bc.downscale import downscale, fits

NAMES = ["camera_obs/corner2_rgb", "camera_obs/behindGripper_rgb"]
OFFERED = [shmbridge.TensorSpec(name, (480, 640, 3), "uint8", unit="sRGB") for name in NAMES]


def images(seed: int, rows: int = 1) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    found = {name: random.integers(0, 256, (rows, 480, 640, 3), np.uint8) for name in NAMES}
    for array in found.values():
        array.flags.writeable = False
    return found


def test_downscaling_gives_the_mean_of_each_block() -> None:
    image = images(0)[NAMES[0]]
    expected = image.reshape(1, 60, 8, 80, 8, 3).mean(axis=(2, 4)).astype(np.uint8)
    np.testing.assert_array_equal(downscale(image), expected)


def test_downscaling_the_largest_block_of_white_does_not_overflow() -> None:
    white = np.full((1, 960, 1280, 3), 255, np.uint8)
    assert fits(white.shape[1:])
    assert (downscale(white) == 255).all()


@pytest.mark.parametrize("shape", [(480, 600, 3), (470, 640, 3), (480, 640, 4), (480, 640), (1920, 2560, 3)])
def test_images_that_do_not_divide_into_blocks_do_not_fit(shape: tuple[int, ...]) -> None:
    assert not fits(shape)


def test_downscaling_an_image_of_the_final_size_copies_it() -> None:
    image = np.zeros((1, 60, 80, 3), np.uint8)
    assert not np.shares_memory(downscale(image), image)


class TestWithTorch:
    @pytest.fixture(autouse=True)
    def _torch(self) -> None:
        pytest.importorskip("torch", reason="the network is torch's")
        pytest.importorskip("safetensors", reason="its weights are a safetensors file")

    @pytest.fixture
    def policy(self) -> shmbridge.Policy:
        from shmbridge_policies.pixel_bc.policy import PixelBcPolicy  # needs torch

        return PixelBcPolicy()

    def test_policy_fulfils_its_contract(self, policy: shmbridge.Policy) -> None:
        check_policy(type(policy), OFFERED)

    def test_only_its_cameras_are_asked_for(self, policy: shmbridge.Policy) -> None:
        offered = [*OFFERED, shmbridge.TensorSpec("policy/state", (39,), "float64")]
        assert [spec.name for spec in policy.specs({spec.name: spec for spec in offered}).observation] == NAMES

    def test_what_it_does_depends_on_what_it_sees_and_stays_within_limits(self, policy: shmbridge.Policy) -> None:
        first, second = policy.infer(None, images(1), [0])["action"], policy.infer(None, images(2), [0])["action"]
        assert first.shape == (1, 1, 4)
        assert first.dtype == np.float32
        assert not np.array_equal(first, second)
        assert max(np.abs(first).max(), np.abs(second).max()) <= 1.0

    def test_the_same_images_give_the_same_bits(self, policy: shmbridge.Policy) -> None:
        np.testing.assert_array_equal(policy.infer(None, images(1), [0])["action"], type(policy)().infer(None, images(1), [0])["action"])

    def test_an_image_size_it_cannot_use_is_refused(self, policy: shmbridge.Policy) -> None:
        offered = {name: shmbridge.TensorSpec(name, (224, 224, 3), "uint8") for name in NAMES}
        with pytest.raises(shmbridge.SpecError, match="224"):
            policy.specs(offered)

    def test_missing_weights_are_an_error_that_names_the_file(self, policy: shmbridge.Policy) -> None:
        config = type(policy).config_type
        assert config is not None
        with pytest.raises(FileNotFoundError, match="nowhere"):
            type(policy)(config(weights="nowhere.safetensors"))

    def test_weights_of_another_origin_are_refused(self, policy: shmbridge.Policy, tmp_path: Path) -> None:
        from safetensors.numpy import save_file  # optional, as torch is

        save_file({"head.0.weight": np.zeros((2, 2), np.float32)}, tmp_path / "other.safetensors")
        config = type(policy).config_type
        assert config is not None
        with pytest.raises(ValueError, match=r"train\.py"):
            type(policy)(config(weights=str(tmp_path / "other.safetensors")))
