"""What a job costs beyond its own work, empty or a few iterations of a small training; and what planning costs.

    python benchmarks/job_overhead.py [--repeats 9] [--json]

In each round the training is done once in this process, warm, and once as a job of a run of its own, in a worker just
forked; medians over rounds. The fork server is warm, as it is for every job of a run but the first. Then 1,000 empty
jobs in one run over two slots, and a plan of all tables of all recipes with three seeds, at each tier, with imports
done before.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchsuite.engine.job import Context, Job
from benchsuite.engine.progress import Reporter
from benchsuite.engine.schedule import run_jobs
from benchsuite.engine.slots import Slots
from benchsuite.engine.store import Store

ALLOWED_EMPTY, ALLOWED_TRAINING = 0.05, 0.3  # seconds
BATCH_OF_JOBS = 10
MANY, ALLOWED_PLAN = 1000, 2.0
TIERS = ("smoke", "mini", "paper")


class Empty(Job):
    number: int

    @property
    def label(self) -> str:
        return f"empty {self.number}"

    def do(self, context: Context) -> None:
        pass


class Training(Job):
    """Five steps of a ResNet-18 on four images of 64×64."""

    number: int

    @property
    def label(self) -> str:
        return f"training {self.number}"

    def do(self, context: Context) -> None:
        import torch
        from torchvision.models import resnet18

        model = resnet18(num_classes=10)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        for _ in range(5):
            loss = torch.nn.functional.cross_entropy(model(torch.rand(4, 3, 64, 64)), torch.arange(4))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        context.write_metrics({"loss": loss.item()})


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    started = clock()
    work()
    return clock() - started


def measure(repeats: int, folder: Path) -> dict[str, float]:
    import torch

    store, slots, numbers = Store(folder / "store"), Slots.on("cpu"), iter(range(1 << 20))
    here = Context(folder=folder, partial=folder, cache=folder)
    torch.set_num_threads(slots.places[0].threads)

    def jobs(kind: type[Job], count: int) -> float:
        work = [kind.model_validate({"number": next(numbers)}) for _ in range(count)]
        return seconds(lambda: run_jobs(work, store, slots=slots, progress=Reporter()))

    jobs(Empty, 1)  # starts the server
    Training(number=-1).do(here)
    rounds: dict[str, list[float]] = {"empty_first": [], "empty_next": [], "training_first": [], "training_next": []}
    alone = []
    for _ in range(repeats):
        one, many = jobs(Empty, 1), jobs(Empty, 1 + BATCH_OF_JOBS)
        rounds["empty_first"].append(one)
        rounds["empty_next"].append((many - one) / BATCH_OF_JOBS)
        own = seconds(lambda: Training(number=-1).do(here))
        first, two = jobs(Training, 1), jobs(Training, 2)
        alone.append(own)
        rounds["training_first"].append(first - own)
        rounds["training_next"].append(two - first - own)
    return {"training_alone": statistics.median(alone)} | {k: statistics.median(v) for k, v in rounds.items()}


def many(folder: Path) -> float:
    """Seconds a job, of many in one run."""
    work, store = [Empty(number=number) for number in range(MANY)], Store(folder / "many")
    return seconds(lambda: run_jobs(work, store, slots=Slots.on("cpu", 2), progress=Reporter())) / MANY


def planned(tier: str) -> None:
    """All tables that have the tier, from their files on."""
    from benchsuite.recipe.loading import select
    from benchsuite.verbs.plan import make_plan

    recipes = [recipe for recipe in select(["*"]) if tier in recipe.tiers]
    assert make_plan(recipes, tier, seeds=[0, 1, 2]).jobs


def plans(repeats: int) -> dict[str, float]:
    """Seconds of processor time by tier: planning is one thread and waits for nothing."""
    for tier in TIERS:
        planned(tier)
    rounds = [{tier: seconds(partial(planned, tier), time.process_time) for tier in TIERS} for _ in range(repeats)]
    return {tier: statistics.median(each[tier] for each in rounds) for tier in TIERS}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.repeats, Path(folder))
        each = many(Path(folder))
    planning = plans(options.repeats)
    if options.json:
        told = {**found, "many": each, **{f"plan_{tier}": value for tier, value in planning.items()}}
        print(json.dumps({name: round(value, 4) for name, value in told.items()}))
    else:
        print(f"five training steps in this process: {found['training_alone'] * 1000:.0f} ms; beyond that, as a job:")
        for name, allowed in (("empty", ALLOWED_EMPTY), ("training", ALLOWED_TRAINING)):
            for which, said in (("first", "in a new worker"), ("next", "in the same worker")):
                value = found[f"{name}_{which}"]
                print(f"{name:8} {said:18} {value * 1000:6.1f} ms (allowed {allowed * 1000:.0f})")
        print(f"{MANY} empty jobs over two slots: {each * 1000:.1f} ms each (allowed {ALLOWED_EMPTY * 1000:.0f})")
        told = ", ".join(f"{tier} {value:.2f} s" for tier, value in planning.items())
        print(f"planning all tables with three seeds, processor time: {told} (allowed {ALLOWED_PLAN:.0f} s)")
    worst = {"empty": ALLOWED_EMPTY, "training": ALLOWED_TRAINING}
    slow = any(found[f"{name}_{which}"] > allowed for name, allowed in worst.items() for which in ("first", "next"))
    return int(slow or each > ALLOWED_EMPTY or max(planning.values()) > ALLOWED_PLAN)


if __name__ == "__main__":
    # Workers import this file by its name: its jobs are classes of the module, not of the script that runs.
    from job_overhead import main as run_benchmark

    sys.exit(run_benchmark())
