"""Specs: names, dtypes, validation, text, and what a refusal shows."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from shmbridge.errors import SpecError
from shmbridge.spec import (
    TensorSpec,
    as_tuple_of_specs,
    check_agreement,
    decode_text,
    dtype_name,
    flatten,
    nearest,
    specs_from_example,
    specs_from_mapping,
    specs_from_space,
    unflatten,
)

NUMERIC = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64", "complex64", "complex128"]

keys = st.text("abcxyz_09.-", min_size=1, max_size=6)
nested = st.recursive(st.integers(), lambda inner: st.dictionaries(keys, inner, min_size=1, max_size=3), max_leaves=12)
shapes = st.lists(st.integers(1, 5), max_size=3).map(tuple)
specs = st.builds(TensorSpec, st.lists(keys, min_size=1, max_size=3).map("/".join), shapes, st.sampled_from([*NUMERIC, "bfloat16", "utf8[7]"]))


@given(st.dictionaries(keys, nested, max_size=4))
def test_unflatten_undoes_flatten(value: dict[str, Any]) -> None:
    assert unflatten(flatten(value)) == value


@given(st.dictionaries(keys, nested, max_size=4))
def test_flatten_joins_the_levels_with_slashes(value: dict[str, Any]) -> None:
    for name, leaf in flatten(value).items():
        place: Any = value
        for level in name.split("/"):
            place = place[level]
        assert place == leaf


def test_flatten_refuses_a_name_that_is_there_nested_and_flat() -> None:
    with pytest.raises(SpecError, match=r"'a/b' is there twice"):
        flatten({"a/b": 1, "a": {"b": 2}})


@given(specs, st.integers(1, 4))
def test_what_a_spec_generates_conforms_to_it(spec: TensorSpec, num_envs: int) -> None:
    array = spec.generate(num_envs)
    assert spec.validate(array, num_envs) is array
    assert array.nbytes == spec.nbytes * num_envs
    array[...] = array  # it is the caller's, so it can be written


@given(specs, st.integers(1, 4))
def test_a_spec_refuses_another_number_of_environments(spec: TensorSpec, num_envs: int) -> None:
    with pytest.raises(SpecError):
        spec.validate(spec.generate(num_envs + 1), num_envs)


@given(st.sampled_from(NUMERIC), st.sampled_from(NUMERIC))
def test_a_spec_refuses_every_other_dtype(dtype: str, other: str) -> None:
    spec = TensorSpec("q", (2,), dtype)
    if dtype != other:
        with pytest.raises(SpecError, match=f"expected .*{dtype}, found .*{other}"):
            spec.validate(np.zeros((1, 2), other), 1)


def test_a_refused_value_is_named_with_what_was_expected_and_found() -> None:
    spec = TensorSpec("camera/rgb", (480, 640, 3), "uint8")
    with pytest.raises(SpecError, match=r"observation 'camera/rgb': expected \(2, 480, 640, 3\) uint8, found \(2, 640, 480, 3\) uint8"):
        spec.validate(np.zeros((2, 640, 480, 3), np.uint8), 2, what="observation")


def test_a_value_in_another_byte_order_is_refused() -> None:
    other = ">f4" if sys.byteorder == "little" else "<f4"
    with pytest.raises(SpecError):
        TensorSpec("q", (2,), "float32").validate(np.zeros((1, 2), other), 1)
    with pytest.raises(SpecError, match="byte order"):
        TensorSpec("q", (2,), other)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
def test_nan_is_refused_with_the_rows_that_hold_it(dtype: str) -> None:
    spec = TensorSpec("q", (2, 3), dtype)
    array = spec.generate(5)
    array[1, 0, 2] = array[3, 1, 1] = float("nan")
    with pytest.raises(SpecError, match=r"'q': NaN in rows \[1, 3\]"):
        spec.validate(array, 5)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), complex(float("inf"), 0), complex(float("inf"), float("inf"))])
def test_infinity_passes(value: complex) -> None:
    for dtype in ("complex64",) if isinstance(value, complex) else ("float16", "float32", "complex128"):
        spec = TensorSpec("depth", (4,), dtype)
        array = spec.generate(2)
        array[0, 1] = value
        array[1, :] = value
        assert spec.validate(array, 2) is array


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_checking_the_largest_numbers_for_nan_warns_of_nothing(dtype: str) -> None:
    spec = TensorSpec("q", (64,), dtype)
    array = np.full((2, 64), np.finfo(dtype).max, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spec.validate(array, 2)


@given(arrays.arrays(np.float32, arrays.array_shapes(min_dims=1, max_dims=3, max_side=4), elements=st.floats(width=32)))
def test_a_value_passes_exactly_if_it_holds_no_nan(array: np.ndarray) -> None:
    spec = TensorSpec("q", array.shape[1:], "float32")
    if np.isnan(array).any():
        with pytest.raises(SpecError, match="NaN"):
            spec.validate(array, len(array))
    else:
        assert spec.validate(array, len(array)) is array


def test_a_strided_value_is_checked_like_any_other() -> None:
    array = np.zeros((4, 6), np.float32)[:, ::2]
    assert TensorSpec("q", (3,), "float32").validate(array, 4) is array


def test_bfloat16_lies_in_memory_as_its_bits() -> None:
    spec = TensorSpec("q", (2,), "bfloat16")
    assert spec.storage == np.dtype(np.uint16)
    assert spec.nbytes == 4
    assert not spec.is_floating


@pytest.mark.parametrize(
    ("given_dtype", "name"),
    [
        (np.float32, "float32"),
        (np.dtype("u1"), "uint8"),
        (float, "float64"),
        (bool, "bool"),
        ("f4", "float32"),
        ("bfloat16", "bfloat16"),
        ("utf8[9]", "utf8[9]"),
        (str, "utf8[256]"),
        ("<U100", "utf8[400]"),
        ("S300", "utf8[300]"),
    ],
)
def test_a_dtype_has_one_name_however_it_is_given(given_dtype: Any, name: str) -> None:
    assert dtype_name(given_dtype) == name
    assert TensorSpec("q", (), given_dtype).dtype == name


def test_a_dtype_that_looks_like_torchs_has_its_name() -> None:
    class Dtype:
        def __str__(self) -> str:
            return "torch.bfloat16"

    assert dtype_name(Dtype()) == "bfloat16"


@pytest.mark.parametrize("dtype", [object, "float128", "datetime64[s]", "V8", "nonsense", "utf8[0]", "utf8[-1]", "utf8[99999999]", None, {}, [1]])
def test_a_dtype_that_cannot_be_transferred_is_refused(dtype: Any) -> None:
    with pytest.raises(SpecError, match="expected"):
        TensorSpec("q", (), dtype)


@pytest.mark.parametrize("name", ["q", "camera_obs/head_rgb", "A.b-c_9/x/y", "x" * 200])
def test_a_name_of_letters_digits_and_levels_is_taken(name: str) -> None:
    assert TensorSpec(name, (), "bool").name == name


@pytest.mark.parametrize("name", ["", "/", "/a", "a/", "a//b", "a b", "ä", "@rows", "a\n", "x" * 201, "a/../\0"])
def test_any_other_name_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="cannot name a tensor"):
        TensorSpec(name, (), "bool")


@pytest.mark.parametrize("shape", [(0,), (-1,), (2, 0), (1,) * 17, 7, None, ("a",), (1.5,), (None,)])
def test_a_shape_that_is_none_is_refused(shape: Any) -> None:
    with pytest.raises(SpecError, match="shape"):
        TensorSpec("q", shape, "bool")


def test_sizes_of_numpy_integers_become_plain_ones() -> None:
    spec = TensorSpec("q", tuple(np.array([2, 3])), "uint8")
    assert spec.shape == (2, 3)
    assert all(type(size) is int for size in spec.shape)


def test_bytes_are_counted_without_overflow() -> None:
    assert TensorSpec("q", (2**32, 2**32), "uint8").nbytes == 2**64


def test_specs_compare_and_hash_by_value() -> None:
    assert TensorSpec("q", (2,), np.float32) == TensorSpec("q", (2,), "float32")
    assert len({TensorSpec("q", (2,), "f4"), TensorSpec("q", (2,), "float32"), TensorSpec("q", (3,), "f4")}) == 2


@pytest.mark.parametrize("texts", [["open the door", ""], np.array(["öffne die Tür", "开门"]), [b"bytes", b"too"]])
def test_text_goes_in_as_str_or_bytes_and_comes_out_as_str(texts: Any) -> None:
    spec = TensorSpec("task", (), "utf8[32]")
    stored = spec.validate(texts, 2)
    assert stored.dtype == spec.storage
    expected = [text.decode() if isinstance(text, bytes) else str(text) for text in texts]
    assert decode_text(stored).tolist() == expected


def test_text_is_measured_in_bytes_not_in_characters() -> None:
    spec = TensorSpec("task", (), "utf8[4]")
    assert spec.validate(["abcd"], 1).tolist() == [b"abcd"]
    assert spec.validate(["éé"], 1).tolist() == ["éé".encode()]
    with pytest.raises(SpecError, match="a text of 6 bytes, at most 4 fit"):
        spec.validate(["ééé"], 1)


def test_text_that_holds_nul_is_refused() -> None:
    with pytest.raises(SpecError):
        TensorSpec("task", (), "utf8[8]").validate(["a\0b"], 1)


@pytest.mark.parametrize("value", [[1, 2], [None, "a"], [1.5, 2.5]])
def test_what_is_no_text_is_refused_as_text(value: Any) -> None:
    with pytest.raises(SpecError, match="expected text"):
        TensorSpec("task", (), "utf8[8]").validate(value, 2)


def test_text_cut_in_the_middle_of_a_character_can_still_be_read() -> None:
    assert decode_text(np.array(["é".encode()[:1]], "S4")).tolist() == ["\ufffd"]


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8), min_size=1, max_size=4))
def test_every_text_that_fits_comes_back_the_same(texts: list[str]) -> None:
    spec = TensorSpec("task", (), "utf8[32]")
    assert decode_text(spec.validate(texts, len(texts))).tolist() == texts


def test_specs_from_an_example_leave_the_batch_axis_out() -> None:
    example = {"camera": {"rgb": np.zeros((3, 4, 5, 3), np.uint8)}, "q": np.zeros((3, 7), np.float32), "t": [1, 2, 3]}
    assert specs_from_example(example, 3) == (TensorSpec("camera/rgb", (4, 5, 3), "uint8"), TensorSpec("q", (7,), "float32"), TensorSpec("t", (), "int64"))


def test_specs_from_an_example_without_a_batch_axis_keep_every_axis() -> None:
    assert specs_from_example({"q": np.zeros(7), "task": "open it", "gripper": 0.5}, None) == (
        TensorSpec("q", (7,), "float64"),
        TensorSpec("task", (), "utf8[256]"),
        TensorSpec("gripper", (), "float64"),
    )


@pytest.mark.parametrize("value", [np.zeros((2, 7)), np.float32(1), []])
def test_an_example_with_another_number_of_rows_is_refused(value: Any) -> None:
    with pytest.raises(SpecError, match=r"'q': expected 3 rows, one per environment"):
        specs_from_example({"q": value}, 3)


@pytest.mark.parametrize("value", [None, object(), {1, 2}, [np.zeros(2), None]])
def test_an_example_that_is_no_tensor_is_refused(value: Any) -> None:
    with pytest.raises(SpecError):
        specs_from_example({"q": value}, None)


def test_specs_come_from_gymnasium_spaces() -> None:
    spaces = pytest.importorskip("gymnasium.spaces")
    space = spaces.Dict(
        {
            "camera": spaces.Dict({"rgb": spaces.Box(0, 255, (4, 5, 3), np.uint8)}),
            "q": spaces.Box(-1, 1, (7,), np.float32),
            "mode": spaces.Discrete(4),
            "buttons": spaces.MultiBinary(3),
            "levels": spaces.MultiDiscrete([2, 3]),
            "task": spaces.Text(10),
        }
    )
    found = {spec.name: spec for spec in specs_from_space(space)}
    assert found == {
        "camera/rgb": TensorSpec("camera/rgb", (4, 5, 3), "uint8"),
        "q": TensorSpec("q", (7,), "float32"),
        "mode": TensorSpec("mode", (), "int64"),
        "buttons": TensorSpec("buttons", (3,), "int8"),
        "levels": TensorSpec("levels", (2,), "int64"),
        "task": TensorSpec("task", (), "utf8[40]"),
    }


def test_a_space_that_is_no_dict_gets_a_name() -> None:
    spaces = pytest.importorskip("gymnasium.spaces")
    assert specs_from_space(spaces.Box(-1, 1, (7,), np.float32)) == (TensorSpec("observation", (7,), "float32"),)
    assert specs_from_space(spaces.Box(-1, 1, (2,), np.float32), "action") == (TensorSpec("action", (2,), "float32"),)


def test_a_space_without_a_fixed_layout_is_refused() -> None:
    spaces = pytest.importorskip("gymnasium.spaces")
    with pytest.raises(SpecError, match="has no fixed shape"):
        specs_from_space(spaces.Dict({"seen": spaces.Sequence(spaces.Discrete(3))}))


def test_samples_of_a_space_conform_to_its_specs() -> None:
    spaces = pytest.importorskip("gymnasium.spaces")
    space = spaces.Dict({"q": spaces.Box(-1, 1, (7,), np.float32), "mode": spaces.Discrete(4), "task": spaces.Text(10)})
    sample = flatten(space.sample())
    for spec in specs_from_space(space):
        spec.validate(np.asarray(sample[spec.name])[None], 1)


def test_specs_come_from_what_a_yaml_file_holds() -> None:
    mapping = {"camera/rgb": {"shape": [480, 640, 3], "dtype": "uint8", "unit": "sRGB"}, "grip": {"shape": [], "dtype": "float32"}}
    assert specs_from_mapping(mapping) == (TensorSpec("camera/rgb", (480, 640, 3), "uint8", "sRGB"), TensorSpec("grip", (), "float32"))


@pytest.mark.parametrize("entry", [None, "float32", {"shape": [1]}, {"dtype": "float32"}, {"shape": [1], "dtype": "float32", "units": "m"}])
def test_a_yaml_entry_with_a_missing_or_unknown_key_is_refused(entry: Any) -> None:
    with pytest.raises(SpecError, match=r"'q': expected the keys shape, dtype"):
        specs_from_mapping({"q": entry})


@pytest.mark.parametrize("entry", [{"shape": 7, "dtype": "float32"}, {"shape": None, "dtype": "float32"}, {"shape": [7], "dtype": None}])
def test_a_yaml_entry_with_a_wrong_value_is_refused_as_ours(entry: Any) -> None:
    with pytest.raises(SpecError):
        specs_from_mapping({"q": entry})


def test_two_specs_of_one_name_are_refused() -> None:
    with pytest.raises(SpecError, match="two observation specs are called 'q'"):
        as_tuple_of_specs([TensorSpec("q", (), "bool"), TensorSpec("q", (1,), "bool")], "observation")


def test_a_spec_named_like_a_level_of_another_is_refused() -> None:
    with pytest.raises(SpecError, match="'camera' is also a level above another one"):
        as_tuple_of_specs([TensorSpec("camera", (), "bool"), TensorSpec("camera/rgb", (1,), "bool")], "observation")


def test_a_mapping_of_specs_is_taken_for_its_values() -> None:
    spec = TensorSpec("q", (), "bool")
    assert as_tuple_of_specs({"q": spec}, "observation") == (spec,)


OFFERED = [TensorSpec("camera/head_rgb", (480, 640, 3), "uint8"), TensorSpec("joint_pos", (7,), "float32", "rad"), TensorSpec("extra", (), "bool")]


def test_what_is_wanted_and_offered_just_so_agrees() -> None:
    check_agreement(OFFERED, OFFERED[:2])
    check_agreement(OFFERED, [])


def test_a_refusal_shows_both_sides_in_two_columns_and_the_nearest_name() -> None:
    wanted = [TensorSpec("camera/head_rbg", (480, 640, 3), "uint8"), TensorSpec("joint_pos", (6,), "float32", "rad")]
    with pytest.raises(SpecError) as refusal:
        check_agreement(OFFERED, wanted, left="offered by the simulator", right="wanted by the policy")
    lines = str(refusal.value).splitlines()
    assert lines[0] == "the tensors offered by the simulator and those wanted by the policy do not agree:"
    column = lines[1].index("wanted by the policy")
    rows = {line.split()[0]: line for line in lines[2:]}
    assert rows["camera/head_rbg"][column:].startswith("(480, 640, 3) uint8")
    assert "missing; did you mean 'camera/head_rgb'?" in rows["camera/head_rbg"]
    assert "(7,) float32 [rad]" in rows["joint_pos"][:column]
    assert rows["joint_pos"][column:].startswith("(6,) float32 [rad]")
    assert rows["joint_pos"].endswith("differs")
    assert "camera/head_rgb" in rows and "extra" in rows


def test_units_are_compared_only_where_both_sides_name_one() -> None:
    check_agreement([TensorSpec("q", (7,), "float32", "rad")], [TensorSpec("q", (7,), "float32")])
    check_agreement([TensorSpec("q", (7,), "float32")], [TensorSpec("q", (7,), "float32", "rad")])
    with pytest.raises(SpecError, match="unit differs"):
        check_agreement([TensorSpec("q", (7,), "float32", "deg")], [TensorSpec("q", (7,), "float32", "rad")])


def test_the_nearest_name_is_suggested_only_where_one_is_near() -> None:
    assert nearest("joint_poss", ["joint_pos", "camera"]) == "did you mean 'joint_pos'?"
    assert nearest("zzz", ["joint_pos", "camera"]) == ""
    assert nearest("zzz", []) == ""


def test_a_spec_reads_as_people_write_it() -> None:
    assert str(TensorSpec("q", (7,), "float32", "rad")) == "(7,) float32 [rad]"
    assert str(TensorSpec("rgb", (480, 640, 3), "uint8")) == "(480, 640, 3) uint8"
    assert str(TensorSpec("grip", (), "float32")) == "() float32"
