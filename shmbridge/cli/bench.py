"""``shmbridge bench``: what the library costs on this machine, against what Python can do without it."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence

import msgspec

from shmbridge.benchmarks.figures import Ratio, Row, ratios_of, rows_of
from shmbridge.benchmarks.machine import Machine, choose_cores, describe_machine, threads_beside
from shmbridge.benchmarks.parts import Part, building_blocks, stages
from shmbridge.benchmarks.runner import measure
from shmbridge.benchmarks.scenarios import SCENARIOS
from shmbridge.cli.console import print_table
from shmbridge.cli.flags import make_parser, positive, refuse_unknown

logger = logging.getLogger(__name__)

_BUSY = 0.5
"""A load above this before the start means that somebody else computes."""


class Report(msgspec.Struct, frozen=True):
    """What ``--json`` prints."""

    rows: list[Row]
    ratios: list[Ratio]
    machine: Machine
    stages: list[Part]
    building_blocks: list[Part]


def main(words: Sequence[str]) -> int:
    """Measure and print. A time is never an error: the status is 0 whatever comes out."""
    parser = _parser()
    args, rest = parser.parse_known_args(words)
    refuse_unknown(parser, rest)
    scenarios = [scenario for name, scenario in SCENARIOS.items() if not args.scenario or name in args.scenario]
    cores = choose_cores(os.sched_getaffinity(0), threads_beside)
    machine = describe_machine(cores)
    if machine.load > _BUSY:
        logger.warning("this machine is busy (load %.2f before the start): figures will be worse, and ratios less certain, than on a quiet one", machine.load)
    names = ", ".join(scenario.name for scenario in scenarios)
    logger.info("measuring %s for about %.0f s, the simulator's side on core %d and the policy's on core %d", names, args.seconds, *cores)
    samples = measure(scenarios, cores, args.seconds)
    found = (stages(cores), building_blocks()) if args.profile else ([], [])
    report = Report(rows_of(samples, {scenario.name: scenario.nbytes for scenario in scenarios}), ratios_of(samples), machine, *found)
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    else:
        _show(report)
    return 0


def _parser() -> argparse.ArgumentParser:
    text = "Measure round trips over the public API, over a matched ring and by plain copies, side by side. It never fails because of a time."
    parser = make_parser("bench", text)
    parser.add_argument("--seconds", type=positive, default=20.0, metavar="S", help="time to measure, all scenarios together")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="only this one; may be given several times")
    parser.add_argument("--profile", action="store_true", help="show also where the time of a state-only request goes")
    parser.add_argument("--json", action="store_true", help="print everything as one JSON document")
    return parser


def _show(report: Report) -> None:
    machine = report.machine
    print(f"{machine.cpu}, cores {machine.simulator_core} and {machine.policy_core}; Linux {machine.kernel}, {machine.libc}")
    print(f"Python {machine.python}, numpy {machine.numpy}, shmbridge {machine.shmbridge}; load before the start {machine.load:.2f}")
    print_table(("scenario", "path", "bytes", "p50 µs", "p95 µs", "p99 µs", "n"), [_row(row) for row in report.rows])
    print_table(("ratio, median of rounds (quartiles)", "asked", "is", "reached"), [_ratio(ratio) for ratio in report.ratios])
    if report.stages:
        print_table(("stage of a state-only request", "side", "ns"), [_part(part) for part in report.stages])
        print_table(("piece, alone and warm", "ns"), [(part.part, f"{part.ns:.0f}") for part in report.building_blocks])


def _row(row: Row) -> tuple[str, ...]:
    return (row.scenario, row.path, str(row.bytes), _us(row.p50_us), _us(row.p95_us), _us(row.p99_us), str(row.n))


def _ratio(ratio: Ratio) -> tuple[str, ...]:
    found = f"{ratio.ratio:.3f} ({ratio.low:.2f} to {ratio.high:.2f})"
    if ratio.asked is None or ratio.spare_us is None:
        return (ratio.target, "-", found, "-")
    verdict = f"yes, {_us(ratio.spare_us)} µs to spare" if ratio.reached else f"no, {_us(-ratio.spare_us)} µs too much"
    return (ratio.target, f"≤ {ratio.asked:.2f}", found, verdict)


def _part(part: Part) -> tuple[str, ...]:
    return (part.part, part.where, f"{part.ns:.0f}")


def _us(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"
