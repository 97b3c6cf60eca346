"""How long help takes, beside importing Lightning alone.

python benchmarks/startup.py [--quick]
"""

import subprocess
import sys

from report import RUNS, median_seconds, options, report

COMMANDS = {
    "import lightning.pytorch": ["-c", "import lightning.pytorch"],
    "patronus --help": ["-m", "patronus_pl", "--help"],
    "patronus --version": ["-m", "patronus_pl", "--version"],
    "patronus sample --help": ["-m", "patronus_pl", "sample", "--help"],
    "patronus explain --help": ["-m", "patronus_pl", "explain", "--help"],
    "patronus fit --help": ["-m", "patronus_pl", "fit", "--help"],
}


def main() -> None:
    chosen = options(__doc__, "startup")
    rows = []
    for name, arguments in COMMANDS.items():
        call = [sys.executable, *arguments]
        seconds = median_seconds(
            lambda call=call: subprocess.run(call, stdout=subprocess.DEVNULL, check=True), 1 if chosen.quick else RUNS
        )
        rows.append({"what": name, "seconds": seconds, "ratio": seconds / rows[0]["seconds"] if rows else 1.0})
    report(rows, chosen, goal="patronus --help at most 0.5")


if __name__ == "__main__":
    main()
