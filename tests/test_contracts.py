"""The house as it is drawn: every module under a contract, few of them on top."""

from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOUSE = ROOT / "benchsuite"


def contract(name: str, option: str) -> list[str]:
    parser = ConfigParser()
    parser.read(ROOT / ".importlinter")
    return parser[f"importlinter:contract:{name}"][option].split("\n")[1:]


def rooms() -> set[str]:
    """Modules and packages directly in the house."""
    found = {path.stem for path in HOUSE.glob("*.py")} - {"__init__"}
    return found | {path.parent.name for path in HOUSE.glob("*/*.py")}


def test_every_module_is_under_a_layer() -> None:
    layers = [name.strip() for layer in contract("flow", "layers") for name in layer.split(":")]
    assert sorted(layers) == sorted(rooms())


def test_every_folder_with_modules_is_a_package_that_the_contracts_see() -> None:
    folders = {path.parent for path in HOUSE.rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_few_modules_stand_on_top() -> None:
    assert len(list(HOUSE.glob("*.py"))) <= 5
    assert len(rooms()) <= 16
