"""Small pictures of test images for a page, where the images can still be found."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ffds.data.dataset import Split
from ffds.data.open import open_dataset
from ffds.data.sources.registry import SOURCES
from ffds.errors import InputError, one_line
from ffds.reports.finished import FinishedRun

__all__ = ["Pictures", "data_uri", "find_test_images"]

SIDE = 112
"""Longest side of a picture in pixels: several dozens of them stay far below a megabyte."""


def find_test_images(found: FinishedRun) -> Split:
    """The test images of a run, opened again from where they lie now; files are not decoded yet.

    Raises:
        InputError: they cannot be found or read, or they are others than the run was tested on.
    """
    data = found.run.located_recipe.data
    if SOURCES[data.name].file_per_image:
        data = data.model_copy(update={"in_memory": False})
    test = open_dataset(data).test
    expected = found.identity.get("test_images")
    if expected is not None and expected not in (test.digest, test.earlier_digest):
        raise InputError("the test images are others than the run was tested on", where=data.root)
    return test


@dataclass(frozen=True)
class Pictures:
    """Pictures and names of test images by their place in the test set; `note` says why there are none."""

    uris: Mapping[int, str] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    note: str = ""

    @classmethod
    def of(cls, found: FinishedRun, test: Split | None, rows: Sequence[int]) -> Pictures:
        """Those of some rows of the predictions; `test` None: opened from where the run says they lie."""
        places = sorted({int(found.index[row]) for row in rows})
        try:
            test = test or find_test_images(found)
            if len(test) <= int(found.index.max()) or (test.labels[found.index] != found.label).any():
                raise InputError("the test images have other labels than the run was tested on")
            images = test.images[np.array(places, dtype=np.int64)]
        except (InputError, OSError) as error:
            return cls(note=one_line(str(error).splitlines()[0]))
        uris = {place: data_uri(_jpeg(image), "jpeg") for place, image in zip(places, images, strict=True)}
        if test.files is None:
            return cls(uris)
        root = Path(found.run.located_recipe.data.root or ".").expanduser().absolute()
        names = {place: _name(test.files[place], root) for place in places}
        return cls(uris, names)

    def name(self, place: int) -> str:
        """The file of an image below the directory of the data; of one without a file, its place."""
        return self.names.get(place, f"test image {place}")


def data_uri(content: bytes, kind: str) -> str:
    """An image that stands in the page itself."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.thumbnail((SIDE, SIDE))
    content = BytesIO()
    picture.save(content, "JPEG", quality=80)
    return content.getvalue()


def _name(file: Path, root: Path) -> str:
    absolute = file.absolute()
    return one_line(str(absolute.relative_to(root) if absolute.is_relative_to(root) else file.name))
