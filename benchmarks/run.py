"""Every benchmark of this folder, one after the other, and all their lines as one table.

    python benchmarks/run.py [--out FOLDER] [script ...]

`make bench` runs it. Each script is a process of its own and leaves its lines in FOLDER (build/benchmarks unless given)
as JSON; one that fails is named, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from sides import DERIVED, Line, print_lines

HERE = Path(__file__).parent
SCRIPTS = (
    "augmentation",
    "pages",
    "training",
    "compiling",
    "steps",
    "prediction",
    "evaluation",
    "growth",
    "memory",
)


def main() -> int:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("scripts", nargs="*", help=f"of {', '.join(SCRIPTS)}; none: all")
    made.add_argument("--out", type=Path, default=Path("build/benchmarks"))
    options = made.parse_args()
    unknown = sorted(set(options.scripts) - set(SCRIPTS))
    if unknown:
        made.error(f"there is no benchmark {unknown[0]}; there are {', '.join(SCRIPTS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    failed, found = [], []
    for script in options.scripts or SCRIPTS:
        file = options.out / f"{script}.json"
        file.unlink(missing_ok=True)
        done = subprocess.run([sys.executable, str(HERE / f"{script}.py"), "--json", str(file)], check=False)
        if done.returncode or not file.exists():
            failed.append(script)
            continue
        found.append(json.loads(file.read_text(encoding="utf-8")))
    for record in found:
        print(f"\n{record['title']}\n{record['machine']}")
        given = [{k: v for k, v in line.items() if k not in DERIVED} for line in record["lines"]]
        print_lines([Line(**line) for line in given])
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
