"""Loading what torch exported: TorchScript or a ``torch.export`` program. What ``torch.save`` wrote is never tried.

What each loader trusts the file with stands in the README beside this module.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

import shmbridge

SCRIPT, PROGRAM = "TorchScript", "torch.export program"
_SIGNS = {"constants.pkl": SCRIPT, "archive_format": PROGRAM, "serialized_exported_program.json": PROGRAM}
"""Files in an archive that tell what it is; the last one is of torch before 2.7."""
_HOW = "write one with torch.jit.script(module).save(…) or torch.export.save(program, …)"
_FIXED = """{path} was exported for batches of {rows}, but environments are inferred as they need it, any number at a time. Export it so:
    rows = torch.export.Dim("rows")
    program = torch.export.export(module, inputs, dynamic_shapes=[{{0: rows}} for _ in inputs])  # each input with at least 2 rows
    torch.export.save(program, "{name}")"""


class Program(NamedTuple):
    """What was loaded.

    Attributes:
        call: Maps one tensor per input, in order, to what the module returns.
        one_by_one: Whether it takes a single row at a time.
    """

    call: Callable[..., Any]
    one_by_one: bool = False


class Input(NamedTuple):
    """One positional input of an exported program: sizes with the batch axis, None where any size fits, and dtype."""

    sizes: tuple[int | None, ...]
    dtype: str

    def __str__(self) -> str:
        sizes = ", ".join("any" if size is None else str(size) for size in self.sizes)
        return f"({sizes}) {self.dtype}"


def load(path: str, device: str, wanted: Sequence[Input]) -> Program:
    """Load a module onto ``device``.

    Args:
        path: TorchScript, or what ``torch.export.save`` wrote; what is in it decides, not its name.
        device: For example ``cpu`` or ``cuda:0``.
        wanted: The inputs that it will be given; compared with what an exported program says of itself. TorchScript says nothing.

    Raises:
        PolicyError: It cannot be loaded.
        SpecError: An exported program takes other inputs.
    """
    kind = _kind(path)
    try:
        with open(path, "rb") as file:
            found = _load_program(file, device) if kind == PROGRAM else _load_script(file, device)
    except Exception as error:  # torch raises whatever its readers meet
        told = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise shmbridge.PolicyError(f"{path} ({kind}) cannot be loaded onto {device} by torch {torch.__version__}: {told}") from None
    if isinstance(found, torch.export.ExportedProgram):
        return Program(found.module(), check_inputs(path, _inputs_of(found), wanted))
    return Program(found)


def check_inputs(path: str, takes: Sequence[Input], wanted: Sequence[Input]) -> bool:
    """Return whether a program takes a single row at a time.

    Raises:
        SpecError: It takes other inputs than ``wanted``, or a fixed number of rows above one.
    """
    if len(takes) != len(wanted) or not all(map(_fits, takes, wanted)):
        both = f"it takes {_listed(takes)}, the configuration gives {_listed(wanted)}"
        raise shmbridge.SpecError(f"{path} and its configuration do not agree: {both} (rows first; in the order of its inputs)")
    rows = {one.sizes[0] for one in takes} - {None}
    if not rows <= {1}:
        raise shmbridge.SpecError(_FIXED.format(path=path, rows=", ".join(map(str, sorted(filter(None, rows)))), name=Path(path).name))
    return bool(rows)


def _load_script(file: BinaryIO, device: str) -> Any:
    with warnings.catch_warnings():
        # Not for who serves a module: whether to export it otherwise is for who exports it.
        warnings.filterwarnings("ignore", message="`torch.jit.load` is deprecated")
        return torch.jit.load(file, map_location=device).eval()


def _load_program(file: BinaryIO, device: str) -> torch.export.ExportedProgram:
    program = torch.export.load(file)
    if torch.device(device).type == "cpu":
        return program
    from torch.export.passes import move_to_device_pass  # newer than what the CPU needs

    return move_to_device_pass(program, device)


def _inputs_of(program: torch.export.ExportedProgram) -> list[Input]:
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    return [_input(values[name]) for name in program.graph_signature.user_inputs if isinstance(values.get(name), torch.Tensor)]


def _input(value: torch.Tensor) -> Input:
    return Input(tuple(size if isinstance(size, int) else None for size in value.shape), str(value.dtype).removeprefix("torch."))


def _fits(takes: Input, wanted: Input) -> bool:
    sizes = zip(takes.sizes[1:], wanted.sizes[1:], strict=False)
    return takes.dtype == wanted.dtype and len(takes.sizes) == len(wanted.sizes) and all(size in (None, given) for size, given in sizes)


def _listed(inputs: Sequence[Input]) -> str:
    return ", ".join(map(str, inputs)) or "nothing"


def _kind(path: str) -> str:
    """Return what the archive at ``path`` is, without loading anything of it."""
    if not Path(path).is_file():
        raise shmbridge.PolicyError(f"there is no module {path}; {_HOW}")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            kinds = {_SIGNS.get(name.rpartition("/")[2], "") for name in archive.namelist()} - {""}
        if len(kinds) == 1:
            return kinds.pop()
    neither = "It is neither TorchScript nor a torch.export program"
    raise shmbridge.PolicyError(f"{path} holds no module. {neither}, and what torch.save wrote, weights or a pickle, is not enough: {_HOW}")
