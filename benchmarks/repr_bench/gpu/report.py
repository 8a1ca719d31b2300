"""What a run on a GPU has found so far: a JSON file of all steps, and a page that reads in a minute."""

import json
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from repr_bench.gpu.schedule import Outcome
from repr_bench.gpu.steps import KINDS
from repr_runtime.files import replace_file

STEPS, PAGE = "steps.json", "README.md"
NOTES = "notes.md"
"""What a person has to say of the run: it stands above the rest of the page, and no run writes it."""
_KEPT = ("| ", "#", "- Careful", "- interrupted", "- Peaks of the GPU")
"""Lines of a benchmark's own page that begin so are on this one, too."""
_LONGEST = 600
"""Characters of a message on the page; the whole one is in the step's own file."""


class Report:
    """The results in the folder ``out``; steps of other kinds that stand there from before stay."""

    def __init__(self, out: Path, about: Mapping[str, Any], kinds: Sequence[str]) -> None:
        self.out, self.about, self.kinds = out, about, kinds
        self.outcomes: list[dict[str, Any]] = []

    def add(self, outcome: Outcome) -> None:
        """Take up what became of a step, and write both files."""
        step = outcome.step
        self.outcomes.append(
            {
                "name": step.name,
                "kind": step.kind,
                "status": outcome.status,
                "reason": outcome.reason,
                "seconds": round(outcome.seconds, 1),
                "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "log": outcome.log,
                "command": list(step.command),
            }
        )
        self.write()

    def write(self) -> None:
        """Each file as a whole or not at all."""
        before = list[dict[str, Any]]()
        with suppress(OSError, ValueError, KeyError):
            before = json.loads((self.out / STEPS).read_text())["steps"]
        steps = [each for each in before if each["kind"] not in self.kinds] + self.outcomes
        steps.sort(key=lambda each: KINDS.index(each["kind"]))
        body = {"schema": 1, **self.about, "steps": steps}
        replace_file(self.out / STEPS, (json.dumps(body, indent=1) + "\n").encode())
        page = "\n".join(page_lines(self.out, body))
        replace_file(self.out / PAGE, (page + "\n").encode())


def page_lines(out: Path, body: Mapping[str, Any]) -> Iterator[str]:
    """The page for ``body``, the content of the JSON file; ``out`` has what the steps wrote."""
    steps: list[dict[str, Any]] = body["steps"]
    yield f"# {body['gpu']}"
    yield ""
    yield f"`make gpu`, {body['began']}, {body['minutes']:g} minutes at most. {body['driver']}."
    yield "All that was said is in `logs/`; every step, with its command, in `steps.json`."
    yield ""
    if (out / NOTES).exists():
        yield from ((out / NOTES).read_text(encoding="utf-8").strip(), "")
    yield "| step | | seconds | why |"
    yield "|---|---|---:|---|"
    for step in steps:
        seconds = "–" if step["seconds"] is None else step["seconds"]
        yield f"| {step['name']} | {step['status']} | {seconds} | {_cell(step['reason'])} |"
    log = out / "logs" / "machine.log"
    if log.exists():
        lines = log.read_text(errors="replace").splitlines()
        yield from ("", "## Machine", "", "```", *lines[1:], "```")
    if (out / "tests.xml").exists():
        yield from ("", "## Tests", "", *_tests(out / "tests.xml"))
    if trials := [*_trials(out)]:
        yield from ("", "## Engines", "", *_engines(trials))
    for table in sorted((out / "bench").glob("*.md")):
        lines = table.read_text(errors="replace").splitlines()
        kept = (line for line in lines if line.startswith(_KEPT) or not line)
        yield from ("", f"## Benchmark: {table.stem}", "", *kept)


def _cell(text: str) -> str:
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _tests(path: Path) -> Iterator[str]:
    """How many passed; of the others what they say, alike ones together."""
    try:
        found = ElementTree.parse(path).getroot().iter("testcase")
        cases = [case for case in found if case.get("name")]  # a stopped run leaves one without
    except ElementTree.ParseError as error:
        yield f"`{path.name}` is damaged: {error}"
        return
    others: dict[tuple[str, str], list[str]] = {}
    for case in cases:
        for kind in ("failure", "error", "skipped"):
            for each in case.iter(kind):
                said = (kind, _cell(each.get("message") or ""))
                others.setdefault(said, []).append(str(case.get("name")))
    bad = sum(map(len, others.values()))
    seconds = sum(float(case.get("time", 0)) for case in cases)
    yield f"{len(cases) - bad} of {len(cases)} passed, in {seconds:.0f} s."
    for (kind, message), names in sorted(others.items()):
        shown = names if kind != "skipped" else names[:3]
        more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
        yield f"- {kind}: {', '.join(f'`{name}`' for name in shown)}{more}: {message}"


def _trials(out: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((out / "engines").glob("*.json")):
        with suppress(OSError, ValueError):
            yield json.loads(path.read_text())


def _engines(trials: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A row for each engine, and below them each message once, whole."""
    yield (
        "| network | precision | built for | loads | golden samples | top-1 | agree | computes in "
        "| ms at 1 | at 32 | graphs |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    messages: dict[str, list[str]] = {}
    for trial in trials:
        stages = {each["stage"]: each for each in trial["stages"]}
        name = f"{trial['network']} {trial['precision']} {trial['edition']} {trial['target']}"
        for each in trial["stages"]:
            if not each["ok"]:
                said = each["message"] or "its process ended here"
                messages.setdefault(f"{each['stage']}: {said}", []).append(name)
        yield _row(trial, stages)
    for message, names in messages.items():
        yield from ("", f"{', '.join(names)}:", "", "```", message, "```")


def _row(trial: Mapping[str, Any], stages: Mapping[str, Mapping[str, Any]]) -> str:
    def of(stage: str) -> tuple[str, Mapping[str, Any]]:
        entry = stages.get(stage)
        if entry is None:
            return "–", {}
        return ("yes" if entry["ok"] else "**no**"), entry["found"]

    loads = of("load")[0] if of("build")[0] == "yes" else "**not built**"
    if "load without checks" in stages:
        loads += f", without checks {of('load without checks')[0]}"
    golden, found = of("self-test")
    if "max_abs" in found:
        golden = f"{found['max_abs']:.2g} off of {found['tolerance']:.2g}"
    top1, found = of("answers")
    same = top1
    if "same" in found:
        same = f"{found['same'] / found['of']:.2%}"
        top1 = f"{found['top1'] / found['images']:.2%}" if "top1" in found else "–"
    computes, found = of("receipt")
    if "shares" in found:
        computes = ", ".join(f"{part:.1%} {name}" for name, part in found["shares"].items()) or "–"
    _, times = of("time")
    graphs, found = of("graphs")
    if found:
        graphs += f" ({', '.join(found)})"
    cells = (trial["network"], trial["precision"], f"{trial['edition']} {trial['target']}")
    figures = (
        loads,
        golden,
        top1,
        same,
        computes,
        times.get("1", "–"),
        times.get("32", "–"),
        graphs,
    )
    return f"| {' | '.join(map(str, (*cells, *figures)))} |"
