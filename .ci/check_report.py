"""Check the report of a short quickstart: complete, finite, offline, small.

Usage: check_report.py FOLDER
"""

import json
import re
import sys
from pathlib import Path

folder = Path(sys.argv[1])
report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
page = (folder / "report.html").read_text(encoding="utf-8")
pictures = list((folder / "report_images").glob("*.png"))
use = {entry["t"]: entry["ratio"] for entry in report["overview"]["use"]}

checks = {
    "every prototype has its entry": len(report["prototypes"]) == report["overview"]["prototypes"],
    "every attribute has its entry": len(report["attributes"]) == 14,
    "s is used after a minute: another image's s costs clearly more at t=400": use[400] >= 1.5,
    "a minute is enough to read the hat": next(
        entry["probe_auroc"] for entry in report["attributes"] if entry["name"] == "Wearing_Hat"
    )
    >= 0.9,
    "some edits show: the median slope is positive": report["overview"]["faithfulness"]["slope"] > 0,
    "the untrained null stands beside it": report["overview"]["untrained"]["slope"] is not None,
    "when: it is timed how edits show": report["overview"]["emergence"]["timed"] >= 1,
    "when: a model with masks tells when prototypes are decided": report["overview"]["when"] is None
    or all(entry["when"] for entry in report["prototypes"]),
    "every prototype was turned up in the picture": all(entry["what"] for entry in report["prototypes"]),
    "pointing has its base rate": 0 < report["overview"]["pointing_base_rate"] < 1,
    "there are pictures": len(pictures) >= 3,
    "the page is at most 5 MB": len(page.encode()) <= 5_000_000,
    "the page asks nothing of the network": not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page),
}
for check, passed in checks.items():
    print(f"{'ok  ' if passed else 'FAIL'} {check}")
sys.exit(not all(checks.values()))
