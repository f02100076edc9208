"""Looks at a network while it trains (`bench run --eval-every N`): it is scored as the trained one will be, and the
best and the last weights that were looked at are kept. The training's numbers are the same without."""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from benchsuite.engine.job import Context
from benchsuite.errors import Interrupted
from benchsuite.loops import checkpoint

LINES, BEST, LAST = "evaluations.jsonl", "best.safetensors", "last.safetensors"


class Looks:
    """Leaves in the artifact a line for each look, `evaluations.jsonl`, and the weights `best.safetensors` and
    `last.safetensors`.

    every  iterations between looks
    judge  what leaves the network's results in a context's folder and gives its scores
    by     the score that tells which weights are best
    """

    def __init__(
        self, every: int, judge: Callable[[Any, Context], Mapping[str, Any]], by: str, context: Context
    ) -> None:
        self.every, self.judge, self.by, self.context = every, judge, by, context
        self.note, self.seconds = "", 0.0
        self.best: float | None = None

    def begin(self, done: int) -> None:
        """Go on after iteration `done`: what came later is looked at again."""
        self.path, kept = self.context.partial / LINES, ""
        for text in self.path.read_text().splitlines(keepends=True) if self.path.is_file() else ():
            if not text.endswith("\n") or json.loads(text)["iteration"] > done:
                break
            kept += text
            self._note(json.loads(text))
        self.path.write_text(kept)
        if not (self.context.partial / BEST).exists():
            self.best = None

    def after(self, iteration: int, network: nn.Module) -> None:
        """Look, if it is time to. A look during which the user asks to stop is given up."""
        if iteration % self.every:
            return
        began = time.perf_counter()
        folder = self.context.partial / "look"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            scores = self.judge(network, replace(self.context, folder=folder, report=lambda progress: None))
        except Interrupted:
            return
        finally:
            network.train()
            shutil.rmtree(folder, ignore_errors=True)
            self.seconds = time.perf_counter() - began
        numbers = {name: value for name, value in scores.items() if isinstance(value, int | float)}
        line = {"iteration": iteration, **numbers}
        checkpoint.save(self.context.partial / LAST, network.state_dict())
        if self._note(line):
            shutil.copyfile(self.context.partial / LAST, self.context.partial / BEST)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"evaluation {self.note}", flush=True)

    def _note(self, line: Mapping[str, float]) -> bool:
        """Whether it is better than those before."""
        value = line.get(self.by)
        if value is None:
            return self.best is None
        better = self.best is None or value > self.best
        self.best = value if self.best is None else max(value, self.best)
        self.note = f"{self.by} {value:.2f} at {line['iteration']}, best {self.best:.2f}"
        return better

    def leave(self) -> None:
        """Put what is kept into the artifact."""
        for name in (LINES, BEST, LAST):
            if (self.context.partial / name).exists():
                shutil.copyfile(self.context.partial / name, self.context.folder / name)
