"""``shmbridge suite``: several tasks from one file, each a run of its own, and one table at the end."""

from __future__ import annotations

import csv
import enum
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shmbridge.cli.console import print_table
from shmbridge.cli.flags import make_parser
from shmbridge.cli.report import REPORT
from shmbridge.cli.report_file import SUITE_REPORT, Report, read_report
from shmbridge.cli.run import make_folder
from shmbridge.cli.suite_file import Task, read_suite
from shmbridge.cli.wording import duration
from shmbridge.errors import SpecError
from shmbridge.version import __version__

SUITE_TABLE = "suite.csv"
_INTERRUPTED = 130
_ENDING = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0))
"""How a run is ended: what is sent, and how long is waited then."""
_INTERRUPTING = ((None, 5.0), (signal.SIGINT, 20.0), *_ENDING)
"""The same after Ctrl-C, which a terminal has sent to the run as well."""


class Outcome(str, enum.Enum):
    """What became of a task."""

    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    NOT_RUN = "not run"


@dataclass
class Result:
    """What became of one task, so far."""

    task: Task
    outcome: Outcome = Outcome.NOT_RUN
    status: int | None = None
    seconds: float = 0.0
    report: Report | None = None


def main(words: Sequence[str]) -> int:
    """Run every task, and say what came of it."""
    parser = make_parser("suite", "Run several tasks, one after the other, from one YAML file. Flags of run hold for all of them: see run --help.")
    parser.usage = "shmbridge suite FILE.yaml --output_dir DIR [flags of run, for all tasks]"
    parser.add_argument("--output_dir", type=Path, metavar="DIR", help=f"required: a folder per task, {SUITE_REPORT} and {SUITE_TABLE}")
    parser.add_argument("--dry_run", action="store_true", help="check the file and print the commands, but run nothing")
    if words and not words[0].startswith("-"):
        file, words = Path(words[0]), words[1:]
    else:
        file = None
    args, given = parser.parse_known_args(list(words))
    if file is None:
        parser.error("say which FILE.yaml to run, before all flags")
    if args.output_dir is None:
        parser.error("say where to write: --output_dir DIR")
    tasks = read_suite(file, given, args.output_dir)
    if args.dry_run:
        print("\n".join(shlex.join(["shmbridge", "run", *task.words]) for task in tasks))
        return 0
    make_folder(args.output_dir)
    return _run(file, tasks, args.output_dir)


def _run(file: Path, tasks: Sequence[Task], folder: Path) -> int:
    results = [Result(task) for task in tasks]
    try:
        for number, result in enumerate(results, 1):
            print(f"task {result.task.name} ({number} of {len(results)})", file=sys.stderr, flush=True)
            _run_task(result, folder / result.task.name)
    finally:
        _print(results)
        _write(file, results, folder)
    return 0 if all(result.outcome is Outcome.DONE for result in results) else 1


def _run_task(result: Result, folder: Path) -> None:
    """Run one task in a process of its own: a simulator may crash, and few can be started twice in one."""
    (folder / REPORT).unlink(missing_ok=True)  # an earlier suite's, which would be taken for this one's
    started = time.monotonic()
    result.outcome = Outcome.INTERRUPTED
    try:
        result.status = _call(["run", *result.task.words])
    finally:
        result.seconds = round(time.monotonic() - started, 1)
    if result.status == _INTERRUPTED:  # it had the Ctrl-C before us
        raise KeyboardInterrupt
    result.report = _report(folder)
    result.outcome = Outcome.DONE if result.status == 0 and result.report is not None else Outcome.FAILED
    if result.outcome is Outcome.FAILED:
        print(f"shmbridge suite: task {result.task.name} failed with status {result.status}", file=sys.stderr, flush=True)


def _call(words: Sequence[str]) -> int:
    """Run one command to its end, and return its status. It does not outlive this process, unless that is killed."""
    process = subprocess.Popen([sys.executable, "-m", "shmbridge", *words])
    try:
        return process.wait()
    except KeyboardInterrupt:
        _end(process, _INTERRUPTING)
        raise
    except BaseException:
        _end(process, _ENDING)
        raise


def _end(process: subprocess.Popen[bytes], ways: Sequence[tuple[signal.Signals | None, float]]) -> None:
    """End a run, if it still runs. Whoever presses Ctrl-C again does not wait for the next step."""
    for number, seconds in ways:
        if number is not None:
            process.send_signal(number)  # does nothing to a process that has ended
        try:
            process.wait(seconds)
            return
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            continue


def _report(folder: Path) -> Report | None:
    try:
        return read_report(folder / REPORT)
    except SpecError:
        return None


def _metrics(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(name for result in results if result.report for name in result.report.metrics if name != "num_episodes"))


def _means(results: Sequence[Result]) -> dict[str, float]:
    """Return the mean over the tasks of each number that any reports: every task counts the same, however many episodes it has."""
    found: dict[str, list[float]] = {}
    for result in results:
        for name, mean in (result.report.metrics if result.report else {}).items():
            found.setdefault(name, []).append(mean)
    return {name: round(sum(means) / len(means), 6) for name, means in found.items() if name != "num_episodes"}


def _print(results: Sequence[Result]) -> None:
    names = _metrics(results)
    rows = [(result.task.name, result.outcome.value, *_cells(result, names), duration(result.seconds)) for result in results]
    means = _means(results)
    if len(results) > 1 and means:
        rows.append((f"mean of {sum(result.report is not None for result in results)} tasks", "", "", *(f"{means[name]:.4g}" for name in names), ""))
    print_table(("task", "outcome", "episodes", *names, "time"), rows)


def _cells(result: Result, names: Sequence[str]) -> list[str]:
    report = result.report
    if report is None:
        return ["-"] * (len(names) + 1)
    known = {name: f"{mean:.4g}" for name, mean in report.metrics.items()} | {name: str(rate) for name, rate in report.rates.items()}
    return [str(len(report.episodes)), *(known.get(name, "-") for name in names)]


def _write(file: Path, results: Sequence[Result], folder: Path) -> None:
    """Write what there is so far, as JSON and as a table."""
    report = {
        "shmbridge": __version__,
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "suite": str(file),
        "means": _means(results),
        "tasks": [_as_json(result) for result in results],
    }
    (folder / SUITE_REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    names = _metrics(results)
    with (folder / SUITE_TABLE).open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(("task", "outcome", "status", "seconds", "num_episodes", *(f"{name}{end}" for name in names for end in ("", "_low", "_high"))))
        writer.writerows(_line(result, names) for result in results)
    print(f"Suite: {folder / SUITE_REPORT}", flush=True)


def _as_json(result: Result) -> dict[str, object]:
    report = result.report
    return {
        "task": result.task.name,
        "outcome": result.outcome.value,
        "status": result.status,
        "seconds": result.seconds,
        "environment": result.task.environment,
        "words": result.task.words,
        "metrics": report.metrics if report else {},
        "rates": {name: rate._asdict() for name, rate in report.rates.items()} if report else {},
    }


def _line(result: Result, names: Sequence[str]) -> list[object]:
    report = result.report
    found: list[object] = [result.task.name, result.outcome.value, result.status, result.seconds, len(report.episodes) if report else ""]
    for name in names:
        rate = report.rates.get(name) if report else None
        found += [report.metrics.get(name, "") if report else "", rate.low if rate else "", rate.high if rate else ""]
    return found
