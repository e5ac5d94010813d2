import io

import numpy as np
import pytest
from PIL import Image

from harness.images.image_ref import ImageRef, difference, read_ref, rendered


def png(value, size=(2, 2)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


REFS = [
    ImageRef("ab"),
    ImageRef("ab", minus="cd"),
    ImageRef("ab", word=0),
    ImageRef("ab", word=3, stage=1),
    ImageRef("role|woman|dark & light", minus="a?b=c"),
]


@pytest.mark.parametrize("ref", REFS)
def test_a_reference_comes_back_from_its_text(ref):
    assert read_ref(str(ref)) == ref


@pytest.mark.parametrize(
    ("old", "ref"),
    [
        ("ab minus cd", ImageRef("ab", minus="cd")),
        ("ab attention to word 3", ImageRef("ab", word=3)),
        ("ab attention to word 3 stage 1", ImageRef("ab", word=3, stage=1)),
    ],
)
def test_references_of_0_1_0_are_read(old, ref):
    assert read_ref(old) == ref


@pytest.mark.parametrize("text", ["ab?word=x", "ab?stage=1", "ab?other=1", "ab?word="])
def test_what_is_no_reference_is_a_cell_that_is_not_there(text):
    assert read_ref(text) == ImageRef(text)


def test_a_difference_is_eight_times_amplified_on_grey():
    def pixel(data):
        return Image.open(io.BytesIO(data)).getpixel((0, 0))

    assert pixel(difference(png(12), png(10))) == (128 + 16,) * 3
    assert pixel(difference(png(255), png(0))) == (255,) * 3
    assert difference(png(1), png(1, (3, 2))) is None


def test_an_image_is_rendered_where_all_its_parts_are_there():
    held = {"a": png(10), "b": png(10)}
    maps = {0: np.eye(2)}

    def map_of(ref):
        return maps.get(ref.word)

    assert rendered(ImageRef("a"), held.get, map_of) == held["a"]
    assert rendered(ImageRef("a", minus="b"), held.get, map_of) is not None
    assert rendered(ImageRef("a", word=0), held.get, map_of) not in (None, held["a"])
    for missing in (ImageRef("c"), ImageRef("a", minus="c"), ImageRef("a", word=1)):
        assert rendered(missing, held.get, map_of) is None
