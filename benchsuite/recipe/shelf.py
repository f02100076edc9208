"""Where recipes are: those that ship with the project, and one's own beside each other."""

from pathlib import Path


def folder() -> Path:
    """The recipes that ship with the project: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def available() -> dict[str, Path]:
    """Recipe files by id (the file's name); names that begin with `_` are parents, not recipes."""
    return {file.stem: file for file in sorted(folder().glob("*.yaml")) if not file.name.startswith("_")}


def parent_of(file: Path, name: str) -> Path | None:
    """The file that a recipe extends: beside it or, so that one's own can extend a shipped one, in `folder()`."""
    places = (file.parent / name, folder() / name)
    return next((place for place in places if place.is_file()), None)
