import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from data_cases import one_line
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from benchsuite.data.images import examined, read_image
from benchsuite.errors import InputError

RAMP = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (12, 1))
GREY = Image.fromarray(RAMP)


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("grey.png", GREY),
        ("grey.bmp", GREY),
        ("grey.tif", GREY),
        ("grey.pgm", GREY),
        ("rgb.ppm", GREY.convert("RGB")),
        ("rgba.png", GREY.convert("RGBA")),
        ("la.png", GREY.convert("LA")),
        ("cmyk.tif", GREY.convert("CMYK")),
        ("palette.png", GREY.convert("P")),
    ],
)
def test_every_mode_of_eight_bits_keeps_its_values(tmp_path: Path, name: str, image: Image.Image) -> None:
    image.save(tmp_path / name)
    read = read_image(tmp_path / name)
    assert (read.dtype, read.shape) == (np.uint8, (12, 24, 3))
    assert np.array_equal(read, np.repeat(RAMP[:, :, None], 3, axis=2))


def test_transparent_palettes_are_read_without_a_warning(tmp_path: Path) -> None:
    palette = GREY.convert("P")
    palette.save(tmp_path / "p.png", transparency=bytes(range(24)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read_image(tmp_path / "p.png")[..., 0], RAMP)


def test_what_pillow_warns_of_is_not_printed(tmp_path: Path) -> None:
    """Of an image with many pixels, here more than 200: `examined` tells of it, by name."""
    GREY.save(tmp_path / "many.png")
    code = (
        "import sys; from pathlib import Path; import PIL.Image; PIL.Image.MAX_IMAGE_PIXELS = 200\n"
        f"from benchsuite.data.images import read_image; print(read_image(Path({str(tmp_path / 'many.png')!r})).size)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert (ended.stdout, ended.stderr) == (f"{3 * GREY.width * GREY.height}\n", "")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("16.png", RAMP.astype(np.uint16) * 257),
        ("12in16.png", RAMP.astype(np.uint16) * 16),
        ("16.tif", RAMP.astype(np.uint16) * 257),
        ("32.tif", RAMP.astype(np.int32)),
        ("float.tif", RAMP.astype(np.float32) / 255),
    ],
)
def test_more_than_eight_bits_are_refused_not_clipped(
    tmp_path: Path, name: str, values: np.ndarray[tuple[int, int], np.dtype[np.generic]]
) -> None:
    Image.fromarray(values).save(tmp_path / name)
    with pytest.raises(InputError) as error:
        read_image(tmp_path / name)
    one_line(error, name, "more than 8 bits", "convert it to 8 bits")


def test_other_formats_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", started)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 12\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "a.jpg").write_bytes(eps)
    GREY.save(tmp_path / "b.gif")
    GREY.save(tmp_path / "c.jp2", "JPEG2000")
    for name in ("a.jpg", "b.gif", "c.jp2"):
        with pytest.raises(InputError) as error:
            read_image(tmp_path / name)
        one_line(error, name, "is not JPEG, PNG, BMP, WEBP, TIFF or PPM")


def test_only_regular_files_below_the_folder(tmp_path: Path) -> None:
    folder, outside = tmp_path / "data" / "images", tmp_path / "secret.png"
    folder.mkdir(parents=True)
    GREY.save(outside)
    GREY.save(folder / "own.png")
    (folder / "link.png").symlink_to(outside)
    (folder / "inner.png").symlink_to("own.png")
    os.mkfifo(folder / "pipe.png")
    (tmp_path / "linked").symlink_to(folder)
    for good in (folder / "own.png", folder / "inner.png", tmp_path / "linked" / "own.png"):
        for below in (folder, tmp_path / "linked"):
            assert read_image(good, (below,)).shape == (12, 24, 3)
    for bad in (folder / "../../secret.png", outside, folder / "link.png"):
        with pytest.raises(InputError) as error:
            read_image(bad, (folder,))
        one_line(error, bad.name, "lies outside")
    for name in ("pipe.png", ".", "nul\0.png", "x" * 300):
        with pytest.raises(InputError) as error:
            read_image(folder / name, (folder,))
        assert "\n" not in str(error.value)


def test_images_shown_turned_and_huge_ones_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    GREY.save(tmp_path / "turned.jpg", exif=exif)
    found = examined(tmp_path / "turned.jpg")
    assert found.size == (12, 24) == read_image(tmp_path / "turned.jpg").shape[:2]
    assert found.shown == (24, 12)
    assert "orientation 6" in found.notes[0]
    GREY.save(tmp_path / "plain.png")
    assert examined(tmp_path / "plain.png").notes == ()
    monkeypatch.setattr("benchsuite.data.images.MANY", 200)
    assert "288 pixels" in examined(tmp_path / "plain.png").notes[0]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    form=st.sampled_from(["JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF"]),
    cut=st.integers(0, 400),
    place=st.integers(0, 400),
    byte=st.integers(0, 255),
)
def test_a_damaged_image_is_read_or_one_line(tmp_path: Path, form: str, cut: int, place: int, byte: int) -> None:
    file = tmp_path / "damaged.jpg"
    GREY.convert("RGB").save(file, form)
    held = bytearray(file.read_bytes())
    if place < len(held):
        held[place] = byte
    file.write_bytes(held[: len(held) - cut])
    try:
        assert read_image(file).dtype == np.uint8
    except InputError as error:
        assert str(error).startswith(f"{file}: ") and ";" in str(error) and "\n" not in str(error)
