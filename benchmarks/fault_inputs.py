"""Faults of what the program is given: the environment, recipes, options, results, datasets, detections, text that a
terminal would obey. The outcome is a result, or one line and exit code 2."""

import json
import os
import random
import shutil
import signal
import subprocess
import time

from fault_damage import damaged, limited
from fault_desk import FIXTURES, Desk
from fault_kinds import Prepared, kind
from fault_start import COLD, Wrong

# clears the screen, sets the title, C1's way to begin both, turns the writing round, ends the line
NASTY = "\x1b[2J\x1b]0;owned\x07 \x9b31m \u202egnp.\u202c \u2028 \r\n \x7f"
ODD = (
    "null", "true", "[]", "{}", "''", "-1", "0", "1e9", "1e999", ".nan", "1e-400", "99999999999999999999", "9" * 5000,
    "'0.01'", "x", "../../x", "/abs/x", "[" * 2000, "{kind: os.path}", "{kind: 'this:s'}", "!!python/object:os.system",
    "&a [*a]", "\x1b[2J", "\ud800", "{kind: [1]}", "[1, [2]]", "{a: {b: {c: 1}}}", "0x10", "1_000", "2001-01-01",
)  # fmt: skip
PATHS = (
    "solver.lr", "solver.iterations", "solver.batch", "solver.drops", "input.short", "input.long", "model",
    "model.head", "model.backbone.name", "model.backbone", "post.per_level", "post.nms", "metric", "data", "data.train",
    "kind", "", "a.b", "seeds", "post.score_threshold", "augment", "eval_batch", "timing",
)  # fmt: skip


# --- the environment


@kind(24)
def odd_environment(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """Encodings, locales, threads and terminals that are none, as Python itself starts."""
    environ = draw.choice([
        {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin1"}, {"PYTHONIOENCODING": "utf-16"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"LC_ALL": "xx_YY.nothing"},
        {"LANG": "tr_TR.UTF-8"}, {"OMP_NUM_THREADS": "abc"}, {"OMP_NUM_THREADS": "0"}, {"OMP_NUM_THREADS": "-4"},
        {"OMP_NUM_THREADS": "9" * 40}, {"COLUMNS": "1"}, {"COLUMNS": "x"}, {"TERM": "dumb"}, {"TERM": None},
        {"HOME": None}, {"HOME": "/nonexistent"}, {"TMPDIR": "/nonexistent"}, {"PATH": ""}, {"BENCH_STORE": "\x1b[2J"},
        {"BENCH_DATA": "/dev/null"}, {"BENCH_DEVICE": "nothing"}, {"PYTHONWARNINGS": "error"}, {"PYTHONOPTIMIZE": "2"},
    ])  # fmt: skip
    words = draw.choice([("list",), ("list", "--json"), ("show", "pod-table5"), ("show", "har-tabel1"), ("plan", "x")])
    desk.bench(*words, codes={0, 2}, cold=COLD, environ=environ)


@kind(12)
def odd_rights(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """umask, HOME, GIT_DIR, TMPDIR while a table runs."""
    other = desk.root / "other"
    git = {"GIT_DIR": str(other / ".git")}
    if draw.random() < 0.3:
        subprocess.run(["git", "init", "-q", other], check=True)
        desk.note()
    environ = draw.choice([git, {"HOME": "/proc"}, {"HOME": None}, {"TMPDIR": None}, {"OMP_NUM_THREADS": "1,2"}, {}])
    mask = draw.choice([0o022, 0o077, 0o002, 0o777, 0o700, 0o000])
    ended = desk.run(codes={0, 2}, environ=environ, before=lambda: os.umask(mask))
    if (ended.code == 2) != bool(mask & 0o700):
        raise Wrong(f"umask {mask:03o}: {ended.told()}")
    desk.finish()


@kind(16)
def early_interrupt(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """Ctrl-C at any moment after Python has reached our first line: 130 and no traceback."""
    mark = desk.root / "printed" / "reached"
    code = f"open({str(mark)!r}, 'w').close(); {COLD}"
    words = draw.choice([("list",), ("show", "har-table1"), ("--help",), ("compare", "gone.json"), ("plan", "nothing")])
    start = desk.start(*words, cold=code)
    while start.running() and not mark.exists():
        time.sleep(0.0005)
    time.sleep(draw.uniform(0.004, 0.3))
    start.send(signal.SIGINT)
    desk.sound(start.wait(), {0, 2, 130})


# --- recipes, options


@kind(20)
def bad_recipe(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """A recipe with bytes removed, changed, put in."""
    file = desk.root / "tiny.yaml"
    file.write_bytes(damaged(file.read_bytes(), draw))
    desk.note()
    desk.bench(draw.choice(["plan", "show"]), "tiny.yaml", codes={0, 2})


@kind(20)
def bad_option(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """--set, --seeds, --rows, --tier and others as nobody should write them."""
    odd = [value.replace("\ud800", "\udcff") for value in ODD]  # what a shell can hand over
    words = [f"--set={draw.choice(PATHS)}={draw.choice(odd)}"]
    more = ("--seeds", "--rows", "--tier", "--data", "--store", "--device", "--data-root")
    words += [f"{draw.choice(more)}={draw.choice(odd)}"] * (draw.random() < 0.5)
    desk.bench("plan", "tiny.yaml", *words, codes={0, 2})


# --- results


@kind(24, "done")
def bad_results(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """A results file with bytes changed, or values: tables and figures, or one line."""
    (file,) = desk.out.glob("tiny.smoke*.json")
    if draw.random() < 0.5:
        file.write_bytes(damaged(file.read_bytes(), draw))
    else:
        file.write_text(json.dumps(exchanged(json.loads(file.read_text()), draw)))
    verb = draw.choice([
        ("compare", f"out/{file.name}"), ("compare", f"out/{file.name}", "--json"),
        ("compare", f"out/{file.name}", "--format", "latex"), ("plot", "tiny.yaml", "--out", "out"),
        ("report", "--out", "out", "--store", "store"), ("store", "list", "--store", "store", "--out", "out"),
    ])  # fmt: skip
    desk.bench(*verb, codes={0, 2})
    if draw.random() < 0.3:
        desk.run(codes={0, 2})  # merged with it, or it is told


def exchanged(value: object, draw: random.Random) -> object:
    """A JSON value of which one place is another value, half of the time text that a terminal would obey."""
    if isinstance(value, dict | list) and value and draw.random() < 0.9:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = draw.choice(keys)
        value[key] = exchanged(value[key], draw)
        return value
    odd = [None, True, -1, 1e308, float("nan"), 2**63, "", "x" * 5000, [], {}, [[]], "../../x", "$\\frac{", "\ud800"]
    return NASTY if draw.random() < 0.5 else draw.choice(odd)


@kind(8, "done")
def full_disk_of_results(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """Where pictures, tables and pages go is full: one line, and what was there is there."""
    before = {file.name: file.read_bytes() for file in desk.out.iterdir()}
    verb = draw.choice([
        ("plot", "tiny.yaml", "--out", "out"), ("report", "--out", "out", "--store", "store"),
        ("plot", "detections", "tiny.yaml/baseline", "--out", "out", "--data", "toy", "--store", "store"),
    ])  # fmt: skip
    desk.bench(*verb, codes={2}, before=limited(draw.randrange(600, 3000)))
    if before != {file.name: file.read_bytes() for file in desk.out.iterdir()}:
        raise Wrong("results were changed")


# --- data


def look_at(desk: Desk, draw: random.Random, folder: str) -> None:
    """Verify a dataset, or run the table on it."""
    desk.note()
    if draw.random() < 0.6:
        desk.bench("data", "verify", "--data", folder, codes={0, 1, 2})
    else:
        desk.bench(
            "run", "tiny.yaml", "--data", folder, "--store", "store", "--out", "out", "--device", "cpu",
            "--rows", "baseline", "--set", "solver.iterations=2", "--set", "solver.drops=[1]", codes={0, 1, 2},
        )  # fmt: skip


@kind(20)
def bad_coco(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """COCO's annotations with bytes or values changed."""
    file = desk.root / "toy" / "annotations" / f"instances_{draw.choice(['train', 'val'])}.json"
    if draw.random() < 0.4:
        file.write_bytes(damaged(file.read_bytes(), draw))
    else:
        file.write_text(json.dumps(exchanged(json.loads(file.read_text()), draw)))
    look_at(desk, draw, "toy")


@kind(12)
def bad_image(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """An image with bytes changed, gone, a pipe, a folder, a link out of the dataset, a program's text."""
    file = draw.choice(sorted((desk.root / "toy" / "images").iterdir()))
    text, way = file.read_bytes(), draw.randrange(6)
    file.unlink()
    if way == 0:
        os.mkfifo(file)
    elif way == 1:
        file.mkdir()
    elif way == 2:
        file.symlink_to("/etc/passwd")
    elif way == 3:
        file.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 48 32\n(owned) print\n%%EOF\n")
    elif way == 4:
        file.write_bytes(damaged(text, draw))
    look_at(desk, draw, "toy")


@kind(10)
def bad_voc(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """VOC's lists and annotations with bytes changed."""
    shutil.copytree(FIXTURES / "data" / "kit", desk.root / "kit")
    folder = desk.root / "kit" / "VOCdevkit" / "VOC2007"
    file = draw.choice(sorted([*folder.glob("Annotations/*"), *folder.glob("ImageSets/Main/*")]))
    file.write_bytes(damaged(file.read_bytes(), draw))
    look_at(desk, draw, "kit")


@kind(10)
def bad_yolo(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """YOLO's layout with bytes changed in its description or its labels."""
    folder = desk.root / "yolo"
    for split in ("train", "val"):
        (folder / "labels" / split).mkdir(parents=True)
        shutil.copytree(desk.root / "toy" / "images", folder / "images" / split)
        for image in (folder / "images" / split).iterdir():
            (folder / "labels" / split / f"{image.stem}.txt").write_text("0 0.5 0.5 0.5 0.5\n1 0.25 0.25 0.2 0.3\n")
    (folder / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n")
    file = draw.choice([folder / "data.yaml", *sorted(folder.glob("labels/*/*"))])
    file.write_bytes(damaged(file.read_bytes(), draw))
    look_at(desk, draw, "yolo")


@kind(8)
def bad_classes(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """A folder a class, with a damaged image, an empty class or a strange name; CIFAR's files of random bytes."""
    folder = desk.root / "classes"
    if draw.random() < 0.5:
        (folder / "cifar-100-python").mkdir(parents=True)
        for name in ("train", "test", "meta"):
            (folder / "cifar-100-python" / name).write_bytes(damaged(b"\x80\x04}\x94(\x8c\x04data\x94]u.", draw))
    else:
        for split in ("train", "val"):
            for name in ("cat", draw.choice(["dog", "a b", "猫", "x" * 200])):
                (folder / split / name).mkdir(parents=True)
                shutil.copy(desk.root / "toy" / "images" / "a.png", folder / split / name / "1.png")
        file = draw.choice(sorted(folder.glob("*/*/*")))
        file.write_bytes(damaged(file.read_bytes(), draw)) if draw.random() < 0.6 else file.unlink()
    desk.note()
    desk.bench("data", "verify", "--data", "classes", codes={0, 1, 2})


@kind(12)
def bad_detections(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """Detections, or the truth they are scored by, with bytes or values changed."""
    for name in ("truth", "detections"):
        shutil.copy(FIXTURES / "metrics" / f"{name}.json", desk.root / f"{name}.json")
    file = desk.root / f"{draw.choice(['truth', 'detections', 'detections'])}.json"
    if draw.random() < 0.5:
        file.write_bytes(damaged(file.read_bytes(), draw))
    else:
        file.write_text(json.dumps(exchanged(json.loads(file.read_text()), draw)))
    desk.note()
    protocol = draw.choice(["coco", "voc07", "voc12"])
    desk.bench("score", "truth.json", "detections.json", "--protocol", protocol, codes={0, 2})


# --- text that a terminal would obey


@kind(16, "done")
def control_characters(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """In names of files, categories, rows, logs, results: what is printed only shows itself."""
    way = draw.randrange(5)
    if way == 0:  # categories and file names
        file = desk.root / "toy" / "annotations" / "instances_val.json"
        content = json.loads(file.read_text())
        image, name = content["images"][0], f"{NASTY.replace(chr(10), '')}.png"
        (desk.root / "toy" / "images" / image["file_name"]).rename(desk.root / "toy" / "images" / name)
        image["file_name"], content["categories"][0]["name"] = name, NASTY
        file.write_text(json.dumps(content))
        look_at(desk, draw, "toy")
    elif way == 1:  # what a job prints
        for log in desk.store.glob("artifacts/*/log.jsonl"):
            (log.parent / "job.log").write_text(NASTY + "\n")
            desk.bench("logs", log.parent.name, "--store", "store")
    elif way == 2:  # a training that is under way
        partial = desk.store / "partial" / "0123"
        partial.mkdir(parents=True, exist_ok=True)
        (partial / "progress.json").write_text(json.dumps(exchanged({"name": "x", "done": 1, "total": 2}, draw)))
        (partial / "job.log").write_text(NASTY)
        for words in (("status",), ("status", "--json"), ("logs", "0123")):
            desk.bench(*words, "--store", "store", codes={0, 2})
    elif way == 3:  # a folder of pictures
        (desk.root / "pictures").mkdir()
        shutil.copy(
            desk.root / "toy" / "images" / "a.png", desk.root / "pictures" / f"{NASTY.replace(chr(10), '')}.png"
        )
        desk.note()
        desk.bench(
            "predict", "tiny.yaml/baseline", "--images", "pictures", "--data", "toy", "--store", "store", "-o", "out/p"
        )
    else:  # a recipe
        text = (desk.root / "tiny.yaml").read_text().replace("title: Tiny", f"title: {json.dumps(NASTY)}")
        (desk.root / "tiny.yaml").write_text(text)
        desk.note()
        for verb in ("show", "plan"):
            desk.bench(verb, "tiny.yaml", codes={0, 2})
