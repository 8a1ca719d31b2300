"""The table of bundled checkpoints says what their records say."""

import re
from pathlib import Path

from repr_models import bundled_record, is_bundled, networks

README = Path(__file__).parents[2] / "models/README.md"


def rows_by_the_records() -> list[str]:
    rows = []
    for spec in networks():
        if not is_bundled(spec):
            continue
        record = bundled_record(spec)
        top1 = record["accuracy"]["test_top1"]
        bar = "-" if spec.bar is None else f"{spec.bar:.1%}".replace("%", " %")
        note = " (below)" if spec.is_below_bar(top1) else ""
        rows.append(
            f"| `{spec.architecture}` | {spec.parameters:,} | {top1:.2%}".replace("%", " %")
            + f" | {bar}{note} | {record['recipe']['epochs']} | {spec.reported or '-'} |"
        )
    return rows


def test_the_table_is_that_of_the_records() -> None:
    section = re.search(r"<!-- bundled -->\n(.*?)<!-- end of bundled -->", README.read_text(), re.S)
    assert section is not None
    head, rule, *rows = section[1].strip().splitlines()
    titles = ("network", "parameters", "top-1 on the 10,000 test images", "bar", "epochs")
    assert head == f"| {' | '.join((*titles, 'published, of it or the nearest'))} |"
    assert rule == "|---|---|---|---|---|---|"
    assert rows == rows_by_the_records()
