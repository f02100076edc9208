"""Ctrl-C in the first moments of `bench`: at how many of these it ends with a traceback, which is Python's own start
alone, before the first line of ours.

python benchmarks/interrupts.py [--starts N] [--within MS] [--seed N]

Another program is struck at the same moments, whose first line says what `bench` says in its: an interrupt ends the
process. Its tracebacks are Python's own start, and all that can be had.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# as the script that pip writes
SCRIPT = (
    "import re\nimport sys\nfrom benchsuite.cli.entry import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
)
LEAST = "import _signal, os\n_signal.signal(2, lambda *_: os._exit(130))\nimport time\ntime.sleep(1)\n"
WORDS = (["list"], ["show", "har-table1"], ["compare", "nothing.json"], ["--help"])


def struck(command: list[str], moment: float) -> str:
    """What is shown of an interrupt so many seconds after the start."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    while time.perf_counter() - began < moment:
        pass
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    if b"Traceback" in err or b"KeyboardInterrupt" in err:
        return "traceback"
    return "ended before" if process.returncode == 0 else "no traceback"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--starts", type=int, default=60)
    parser.add_argument("--within", type=float, default=120.0, help="Milliseconds.")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    draw = random.Random(asked.seed)
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    found: dict[str, list[str]] = {"bench": [], "least": []}
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("bench", SCRIPT), ("least", LEAST)):
            (Path(folder) / name).write_text(text)
        for _ in range(asked.starts):
            moment, words = draw.uniform(0, asked.within / 1000), draw.choice(WORDS)
            for name, seen in found.items():
                seen.append(struck([sys.executable, str(Path(folder) / name), *words], moment))
    for name, seen in found.items():
        counts = ", ".join(f"{seen.count(what)} {what}" for what in sorted(set(seen)))
        print(f"{name}: {asked.starts} interrupts within {asked.within:.0f} ms: {counts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
