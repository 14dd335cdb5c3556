"""The report of a verification: text for people at a terminal, HTML, and JSON for programs."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from superbatch.conformance.cases import Case
from superbatch.conformance.checks import Check
from superbatch.conformance.records import Leg
from superbatch.conformance.run import CaseResult
from superbatch.formats.canonical import JsonValue


@dataclass(frozen=True, slots=True)
class Report:
    """All cases of one verification, and the command that was verified."""

    command: Sequence[str]
    launcher: str
    results: Sequence[CaseResult]

    @property
    def has_passed(self) -> bool:
        """Claim that every case passed; not so when there was none."""
        return bool(self.results) and all(result.has_passed for result in self.results)

    def summary(self) -> str:
        """Return the counts: cases, and joint batches intact."""
        passed = sum(result.has_passed for result in self.results)
        intact, wanted = (sum(getattr(each, name) for each in self.results) for name in ("intact", "wanted"))
        starts = sum(len(result.starts) for result in self.results)
        return (
            f"{passed} of {len(self.results)} cases passed ({starts} starts); "
            f"joint batches intact: {intact} of {wanted}"
        )


def header() -> str:
    """Return the head of the table whose lines `line` gives."""
    names = "  ".join(f"{check:<6}" for check in Check)
    return f"{'case':>4}  {'fault':<17} {'first start':<20} {'second start':<12} {names}  intact"


def line(number: int, result: CaseResult) -> str:
    """Return one case as a line: sizes as R ranks, W workers, A accumulation; then each check, and intact batches."""
    case = result.case
    marks = "  ".join(f"{mark(result, check):<6}" for check in Check)
    second = "" if len(result.starts) < 2 else _sizes(case.second)
    intact = f"{result.intact} of {result.wanted}" if result.wanted else "refused"
    first = f"{_sizes(case.first)} {ending(case)}"
    return f"{number:>4}  {case.fault:<17} {first:<20} {second:<12} {marks}  {intact}"


def mark(result: CaseResult, check: Check) -> str:
    """Return "ok" or "WRONG"."""
    return "WRONG" if check in result.failed_checks() else "ok"


def ending(case: Case) -> str:
    """Return how the first start ends."""
    if case.fault.is_refused or case.fault.is_stopping:
        return ""
    return f"{case.ending}@{case.at_step}"


def details(number: int, result: CaseResult) -> list[str]:
    """Return the lines that explain a case that failed: each difference, then what the loader wrote last."""
    lines = [f"case {number}, {result.case.fault} ({result.case.fault.meaning}):"]
    lines += [f"    {finding}" for finding in result.findings]
    lines += [f"    the service refused: {refusal}" for refusal in result.refusals]
    for position, start in enumerate(result.starts, start=1):
        if start.ended.output and not start.ended.is_success:
            lines.append(f"    output of start {position} (exit status {start.ended.statuses}):")
            lines += [f"        {text}" for text in start.ended.output.splitlines()]
    return lines


def text_report(report: Report) -> str:
    """Return the whole report as text: the table, an explanation of each failure, the counts."""
    lines = [header(), *(line(number, each) for number, each in enumerate(report.results, start=1))]
    for number, result in enumerate(report.results, start=1):
        if not result.has_passed:
            lines += ["", *details(number, result)]
    return "\n".join([*lines, "", report.summary()])


def json_report(report: Report) -> dict[str, JsonValue]:
    """Return the report as a JSON object; every finding with its check, place, sentence and cause."""
    return {
        "command": list(report.command),
        "launcher": report.launcher,
        "has_passed": report.has_passed,
        "num_cases": len(report.results),
        "num_cases_passed": sum(result.has_passed for result in report.results),
        "batches_intact": sum(result.intact for result in report.results),
        "batches_wanted": sum(result.wanted for result in report.results),
        "cases": [_case_json(number, result) for number, result in enumerate(report.results, start=1)],
    }


def _case_json(number: int, result: CaseResult) -> dict[str, JsonValue]:
    case = result.case
    return {
        "case": number,
        "fault": str(case.fault),
        "first": _leg_json(case.first),
        "second": _leg_json(case.second) if len(result.starts) > 1 else None,
        "ending": ending(case) or None,
        "has_passed": result.has_passed,
        "checks": {str(check): check not in result.failed_checks() for check in Check},
        "batches_intact": result.intact,
        "batches_wanted": result.wanted,
        "seconds": round(result.seconds, 3),
        "exit_statuses": [list(start.ended.statuses) for start in result.starts],
        "refusals": list(result.refusals),
        "findings": [
            {
                "check": str(finding.check),
                "start": finding.start + 1,
                "seq": finding.seq,
                "rank": finding.rank,
                "sentence": finding.sentence,
                "cause": str(finding.cause),
                "advice": finding.cause.advice,
            }
            for finding in result.findings
        ],
    }


def html_report(report: Report) -> str:
    """Return the report as one HTML page that needs nothing else."""
    heads = ["case", "fault", "first start", "end", "second start", *(str(check) for check in Check), "intact"]
    rows = "\n".join(_row_html(number, result) for number, result in enumerate(report.results, start=1))
    failures = "\n".join(
        f"<pre>{html.escape(chr(10).join(details(number, result)))}</pre>"
        for number, result in enumerate(report.results, start=1)
        if not result.has_passed
    )
    rules = "\n".join(f"<dt>{check}</dt><dd>{html.escape(check.meaning)}</dd>" for check in Check)
    return _PAGE.format(
        verdict="passed" if report.has_passed else "failed",
        command=html.escape(" ".join(report.command)),
        launcher=html.escape(report.launcher),
        summary=html.escape(report.summary()),
        heads="".join(f"<th>{head}</th>" for head in heads),
        rows=rows,
        failures=failures,
        rules=rules,
    )


def _row_html(number: int, result: CaseResult) -> str:
    case = result.case
    second = str(case.second) if len(result.starts) > 1 else ""
    intact = f"{result.intact} of {result.wanted}" if result.wanted else "refused"
    marks = "".join(f'<td class="{(found := mark(result, check)).lower()}">{found}</td>' for check in Check)
    fault = f'<td title="{html.escape(case.fault.meaning)}">{case.fault}</td>'
    return (
        f"<tr><td>{number}</td>{fault}<td>{case.first}</td><td>{ending(case)}</td><td>{second}</td>"
        f"{marks}<td>{intact}</td></tr>"
    )


def _sizes(leg: Leg) -> str:
    return f"R{leg.world_size} W{leg.num_workers} A{leg.accumulation}"


def _leg_json(leg: Leg) -> dict[str, JsonValue]:
    return {"world_size": leg.world_size, "num_workers": leg.num_workers, "accumulation": leg.accumulation}


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>superbatch verify-loader: {verdict}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #1a1a1a; background: #fff; }}
table {{ border-collapse: collapse; }}
th, td {{ border-bottom: 1px solid #ddd; padding: 0.2rem 0.7rem; text-align: left; }}
.ok {{ color: #17692c; }}
.wrong {{ color: #fff; background: #b3261e; font-weight: bold; }}
pre {{ background: #f4f4f4; padding: 0.8rem; overflow-x: auto; white-space: pre-wrap; }}
dt {{ font-weight: bold; float: left; width: 6rem; }}
dd {{ margin: 0 0 0.3rem 6rem; }}
</style>
</head>
<body>
<h1>verify-loader: {verdict}</h1>
<p><code>{command}</code> (launcher: {launcher})</p>
<p><strong>{summary}</strong></p>
<table>
<thead><tr>{heads}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
{failures}
<h2>Checks</h2>
<dl>
{rules}
</dl>
</body>
</html>
"""
