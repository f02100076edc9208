"""benchsuite: re-run the published tables of object-detection papers, one command a table.

From Python:

    import benchsuite as bs
    wide = {"model": {"head": {"spatial": {"channels": 64}}}}
    recipe = bs.load("har-table1").with_row("wide", like="sa-1-1-1", change=wide)
    results = bs.run(bs.plan(recipe, rows=["baseline", "wide"], tier="smoke"))
    print(bs.frame(results))
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from benchsuite.api import frame, load, plan, run

__all__ = ["frame", "load", "plan", "run"]


def __getattr__(name: str) -> object:
    # looked up when asked for, so that `bench --help` pays for none of it
    if name in __all__:
        from benchsuite import api

        return getattr(api, name)
    raise AttributeError(f"module 'benchsuite' has no attribute '{name}'")
