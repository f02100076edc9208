"""benchsuite: re-run the published tables of object-detection papers, one command a table.

From Python:

    import benchsuite as bs
    wide = {"model": {"head": {"spatial": {"channels": 64}}}}
    recipe = bs.load_recipe("har-table1").with_row("wide", like="sa-1-1-1", change=wide)
    plan = bs.make_plan([recipe], "smoke", rows=["baseline", "wide"])
    frame = bs.to_frame(bs.run_plan(plan).results["har-table1"])
"""

__version__ = "0.1.0"

TYPE_CHECKING = False  # the name is known to type checkers; importing it would be the dearest line of `bench --help`
if TYPE_CHECKING:
    from benchsuite.engine.store import Store
    from benchsuite.recipe.loading import load_recipe
    from benchsuite.report.results import to_frame
    from benchsuite.verbs.plan import make_plan
    from benchsuite.verbs.run import RunOptions, run_plan

_HOMES = {
    "RunOptions": "verbs.run", "Store": "engine.store", "load_recipe": "recipe.loading", "make_plan": "verbs.plan",
    "run_plan": "verbs.run", "to_frame": "report.results",
}  # fmt: skip

__all__ = ["RunOptions", "Store", "load_recipe", "make_plan", "run_plan", "to_frame"]


def __getattr__(name: str) -> object:
    # looked up when asked for, so that `bench --help` pays for none of it
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"benchsuite.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'benchsuite' has no attribute '{name}'")
