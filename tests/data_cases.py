"""The tiny datasets of tests/fixtures/data, copies of them to damage, and where the real small sets may lie."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchsuite.data.coco import File

FIXTURES = Path(__file__).parent / "fixtures" / "data"
TOY, KIT = FIXTURES / "toy", FIXTURES / "kit"
SHARED = Path(__file__).parents[2] / "shared" / "data"
shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real small sets (../shared/data) are not on this machine")


def toy(split: str = "train", folder: Path = TOY) -> File:
    return File(annotations=folder / "annotations" / f"instances_{split}.json", images=folder / "images")


def damaged(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> File:
    """A copy of the toy set whose training annotations are changed."""
    folder = copy(TOY, tmp_path)
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return toy(folder=folder)


def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / folder.name))


def one_line(error: pytest.ExceptionInfo[BaseException], *parts: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    assert ";" in text, "an error names the cure after a semicolon"
    for part in parts:
        assert part in text
