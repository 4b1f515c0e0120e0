"""``shmbridge compare``: two runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from shmbridge.cli.comparison import Comparison, Paired, compare, environment_text
from shmbridge.cli.console import print_table
from shmbridge.cli.flags import make_parser, refuse_unknown
from shmbridge.cli.report_file import Report, read_report
from shmbridge.cli.wording import print_json

_SHOWN_SEEDS = 12


def main(words: Sequence[str]) -> int:
    """Compare two runs and print what was found."""
    parser = make_parser("compare", "Compare two runs: their metrics with 95 % intervals, episode by episode where they began alike, settings and latencies.")
    parser.add_argument("a", metavar="A", type=Path, help="a report.json, or the folder that a run wrote to")
    parser.add_argument("b", metavar="B", type=Path, help="the other")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output, and nothing else")
    args, rest = parser.parse_known_args(list(words))
    refuse_unknown(parser, rest)
    a, b = read_report(args.a), read_report(args.b)
    found = compare(a, b)
    if args.json:
        print_json(as_json(found))
    else:
        _print(args.a, a, args.b, b, found)
    return 0


def as_json(found: Comparison) -> dict[str, object]:
    """Return a comparison ready for JSON: rates as ``mean``, ``low``, ``high``, ``successes`` and ``episodes``, other numbers as ``mean``."""
    plain: dict[str, object] = msgspec.to_builtins(found)
    plain["comparable"] = not found.doubts
    plain["metrics"] = {
        name: {
            "a": {"mean": a.mean} if a.rate is None else a.rate._asdict(),
            "b": {"mean": b.mean} if b.rate is None else b.rate._asdict(),
            "difference": b.mean - a.mean,
        }
        for name, (a, b) in found.metrics.items()
    }
    plain["settings"] = {name: {"a": a, "b": b} for name, (a, b) in found.settings.items()}
    plain["latency"] = {part: {"a_p50_ms": a, "b_p50_ms": b, "ratio": b / a if a else None} for part, (a, b) in found.latency.items()}
    return plain


def _print(path_a: Path, a: Report, path_b: Path, b: Report, found: Comparison) -> None:
    print_table(("", "A", "B"), list(zip(("run", "policy", "environment", "episodes", "finished"), _head(path_a, a), _head(path_b, b), strict=True)))
    for doubt in found.doubts:
        print(f"Not comparable: {doubt}")
    if found.metrics:
        rows = [(name, str(a), str(b), f"{b.mean - a.mean:+.4g}") for name, (a, b) in found.metrics.items()]
        print_table(("metric, mean [95 % interval]", "A", "B", "B - A"), rows)
    if found.paired:
        head = (f"{found.pairs} pairs of equal {found.paired_by}", "both", "only A", "only B", "neither", "p (McNemar, exact)")
        print_table(head, [_pair_row(name, paired) for name, paired in found.paired.items()])
        _print_disagreements(found)
    if found.settings:
        print_table(("setting that differs", "A", "B"), [(name, *map(setting_text, values)) for name, values in found.settings.items()])
    if found.latency:
        rows = [(part, f"{a:.3f}", f"{b:.3f}", f"{b / a:.2f}" if a else "-") for part, (a, b) in found.latency.items()]
        print_table(("ms per request, p50", "A", "B", "B / A"), rows)
    if found.same_actions:
        print("They acted the same, bit for bit (actions_sha256).")


def setting_text(value: object) -> str:
    """Return a setting for the table: ``-`` where there is none; of a truth value the word that a flag and YAML take."""
    if value is None:
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _head(path: Path, report: Report) -> tuple[str, ...]:
    when = report.finished_at[:16].replace("T", " ")
    return str(path), str(report.policy.get("name", "?")), environment_text(report), str(len(report.episodes)), when


def _pair_row(name: str, paired: Paired) -> tuple[str, ...]:
    counts = (paired.both, len(paired.only_a), len(paired.only_b), paired.neither)
    return name, *map(str, counts), f"{paired.p:.3g}"


def _print_disagreements(found: Comparison) -> None:
    for name, paired in found.paired.items():
        for letter, keys in (("A", paired.only_a), ("B", paired.only_b)):
            if keys:
                more = f" and {len(keys) - _SHOWN_SEEDS} more" if len(keys) > _SHOWN_SEEDS else ""
                print(f"{name} only in {letter}, by {found.paired_by}: {', '.join(map(str, keys[:_SHOWN_SEEDS]))}{more}")
