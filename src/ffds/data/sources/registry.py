"""The registry of sources: for each value of `data.name` its reader and what others need to know about it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal

from ffds.data.sources.ictext.layout import PAPER, RENDERED

if TYPE_CHECKING:
    from ffds.data.source import Source
    from ffds.recipes.schema import Data

__all__ = ["SOURCES", "SourceFacts", "titled"]


@dataclass(frozen=True)
class SourceFacts:
    """What is known about a source before any of its files is read.

    Attributes:
        opener: ``module:function`` in `ffds.data.sources`; the module is imported when the source is opened.
        balanced: its classes have equal numbers of training images, so a long tail is cut in label order,
            starting from the smallest class.
        labelled: as `opener`, for images of the same layout that a trained network is to be scored on, which
            are all of the source's test set, labelled by the source's class names; None: they are published
            with a test set.
        largest_class: training images of the largest class of its published long tail; None: there is none.
        side: of its published square images in pixels; None: that depends on the recipe and on the files.
        fit: how an image of the user's own becomes a square as `decode.Stored` says.
        file_per_image: each image has its own file, so images can stay on disk (`data.in_memory=false`).
        disclaimer: what everything made from it must say.
    """

    opener: str
    labelled: str | None = None
    balanced: bool = False
    largest_class: int | None = None
    side: int | None = None
    fit: Literal["crop", "pad"] = "crop"
    file_per_image: bool = False
    disclaimer: str | None = None

    @property
    def cut_in_label_order(self) -> bool:
        """Whether class sizes fall in label order after the tail is cut."""
        return self.balanced or self.largest_class is not None

    def open(self, data: Data) -> Source:
        """Read the source; files that are missing or are not what they should be are an InputError."""
        return self._call(self.opener, data)

    def open_labelled(self, data: Data) -> Source:
        """Read images to score a trained network on, of a source of the user's own images."""
        return self._call(self.labelled or self.opener, data)

    @property
    def own_images(self) -> bool:
        """Whether the images are the user's own, so that nothing but their content says which they are."""
        return self.labelled is not None

    def _call(self, opener: str, data: Data) -> Source:
        module, function = opener.split(":")
        source: Source = getattr(import_module(f"ffds.data.sources.{module}"), function)(data)
        if self.own_images and data.root is not None:
            from ffds.data.source import check_links, root_path

            # A table that the user names may name any file; a directory keeps to itself.
            if (root := root_path(data.root)).is_dir():
                check_links(root, source)
        return source


SOURCES: dict[str, SourceFacts] = {
    "digits": SourceFacts("digits:open_digits", balanced=True, side=8),
    "cifar10": SourceFacts("cifar:open_cifar", balanced=True, largest_class=5000, side=32),
    "cifar100": SourceFacts("cifar:open_cifar", balanced=True, largest_class=500, side=32),
    "tiny-imagenet": SourceFacts(
        "tiny_imagenet:open_tiny_imagenet", balanced=True, largest_class=500, side=64, file_per_image=True
    ),
    "ictext": SourceFacts(
        "ictext.reader:open_ictext", largest_class=PAPER.head, fit="pad", file_per_image=True
    ),
    "ictext-sample": SourceFacts(
        "ictext.reader:open_sample",
        largest_class=PAPER.head,
        fit="pad",
        file_per_image=True,
        disclaimer=RENDERED,
    ),
    "folder": SourceFacts("folder:open_folder", "folder:open_labelled", file_per_image=True),
    "parquet": SourceFacts("parquet:open_parquet", "parquet:open_labelled"),
    "manifest": SourceFacts("manifest:open_manifest", "manifest:open_labelled", file_per_image=True),
    "python": SourceFacts("python:open_python", "python:open_python"),
}
"""Every value of `data.name`."""


def titled(source: str, title: str) -> str:
    """A heading for results on a source, with the source's disclaimer if it has one.

    >>> titled("ictext-sample", "ICText-LT")
    'ICText-LT (rendered sample, not ICText)'
    """
    disclaimer = SOURCES[source].disclaimer
    return title if disclaimer is None else f"{title} ({disclaimer})"
