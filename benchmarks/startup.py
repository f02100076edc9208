"""Starting `bench --help`, `bench list` and `bench show`, against a bare Typer program's `--help`, side by side.

python benchmarks/startup.py [--repeats N] [--json]

Whole processes are timed, in turn; each ratio is the median over pairs. Targets: list 1.7, the others 2.0.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

from pairs import compare

TARGETS = {"--help": 2.0, "list": 1.7, "show har-table1": 2.0}
BARE = """
import typer
app = typer.Typer()

@app.command()
def hello(name: str) -> None:
    print(name)

app()
"""
BENCH = "from benchsuite.cli.entry import main; main()"


def process(*arguments: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE)
        for words, target in TARGETS.items():
            pairs = compare(process("-c", BENCH, *words.split()), process(str(bare), "--help"), options.repeats)
            ratio = median(ours / theirs for ours, theirs in pairs)
            found[words] = ratio
            if not options.json:
                ours, theirs = (1e3 * median(side) for side in zip(*pairs, strict=True))
                print(
                    f"bench {words}: {ratio:.2f} × a bare Typer program (target ≤ {target}; {ours:.0f} ms "
                    f"against {theirs:.0f} ms)"
                )
    if options.json:
        print(json.dumps({"ratios": found, "targets": TARGETS}))
    return int(any(found[words] > target for words, target in TARGETS.items()))


if __name__ == "__main__":
    sys.exit(main())
