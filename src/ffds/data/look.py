"""Looks at the user's own images before anything is trained: what is there, and what of it will hurt."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image

from ffds.data.decode import BATCH, FORMATS, Stored, attempt, image_threads, opened, refusing_bombs
from ffds.data.open import checked_source, completed, readable_part, splits_of
from ffds.data.source import Encoded, Images, Labelled, Source, root_path
from ffds.errors import one_line
from ffds.evaluation.groups import class_groups, shot_groups
from ffds.progress import Progress
from ffds.recipes.schema import Data

__all__ = ["Look", "Seen", "look_at", "some"]

SMALL = Stored(64)
"""Enough to know that an image can be decoded; a JPEG is decoded at 1/8 of its size, but read to its end."""
TURNED = range(2, 9)
"""EXIF orientations that are not upright."""
FEW_TESTED = 20
"""With fewer test images in a group of classes, each is over 5 points of its accuracy."""
MOST_NAMED = 3
TRANSPARENT = ("RGBA", "LA", "PA", "La", "RGBa")


class Seen(NamedTuple):
    """What was seen of one image: its name, sha256 as it is encoded, and the fault that keeps it from use.

    `size` is (width, height) upright, (0, 0) where nothing could be read; `mode` and `form` are Pillow's
    words, such as ``CMYK`` and ``JPEG``; `turned` says that its EXIF tag turns it.
    """

    name: str
    digest: bytes
    fault: str = ""
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    form: str = ""
    turned: bool = False


@dataclass(frozen=True)
class Look:
    """The images that a recipe would use, and what was seen of them.

    `source` is without what cannot be read, which is `unreadable`. `known` is what was seen of each image, by
    the identity of its `Images` and its row there.
    """

    data: Data
    source: Source
    known: Mapping[tuple[int, int], Seen]
    unreadable: tuple[Seen, ...]

    @cached_property
    def splits(self) -> dict[str, Labelled]:
        """Training, test and, where there is one, validation set."""
        return splits_of(self.source, self.data)

    @cached_property
    def seen(self) -> dict[str, list[Seen]]:
        """What was seen of each image of a split, in the order of the split."""
        return {
            role: [self.known[id(split.images), row] for row in split.rows.tolist()]
            for role, split in self.splits.items()
        }

    def with_data(self, data: Data) -> Look:
        """The same images as other settings would use them; where they lie and which are tested on stays."""
        return replace(self, data=data)

    @cached_property
    def counts(self) -> dict[str, list[int]]:
        """Images of each class, in label order, by split."""
        classes = len(self.source.class_names)
        return {
            role: np.bincount(split.labels, minlength=classes).tolist() for role, split in self.splits.items()
        }

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the first training image, as it is stored to be trained on."""
        train = self.splits["train"]
        height, width, channels = train.images.read(train.rows[:1], "stop").images.shape[1:]
        return height, width, channels

    @cached_property
    def groups(self) -> dict[str, list[int]]:
        """Labels of head, middle and tail, and of many, medium and few."""
        train = self.counts["train"]
        return class_groups(train, self.data.cut) | shot_groups(train)

    @property
    def imbalance_factor(self) -> float:
        """Largest over smallest class count of the training set."""
        return max(self.counts["train"]) / min(self.counts["train"])

    @cached_property
    def images(self) -> list[Seen]:
        """All images that can be read."""
        return [one for split in self.seen.values() for one in split]

    @cached_property
    def short_sides(self) -> list[int]:
        """Pixels of the short side of each image."""
        return [min(one.size) for one in self.images]

    @cached_property
    def sizes(self) -> dict[str, tuple[int, int, int]]:
        """Smallest, median and largest width, height and short side, in pixels."""
        widths, heights = zip(*(one.size for one in self.images), strict=True)
        sides = {"width": widths, "height": heights, "short side": self.short_sides}
        return {name: (min(all_), int(median(all_)), max(all_)) for name, all_ in sides.items()}

    @cached_property
    def duplicates(self) -> dict[str, list[list[str]]]:
        """Names of images that are the same file byte for byte, in groups by what is wrong with them.

        ``across splits``: in more than one split; ``with different labels``: of more than one class;
        ``within train``: twice or more in the training set, with one label. A group stands once, at the
        first of these.
        """
        alike: defaultdict[bytes, list[tuple[str, int, str]]] = defaultdict(list)
        for role, seen in self.seen.items():
            for one, label in zip(seen, self.splits[role].labels.tolist(), strict=True):
                alike[one.digest].append((role, label, self.shown(one.name)))
        found: dict[str, list[list[str]]] = {
            "across splits": [],
            "with different labels": [],
            "within train": [],
        }
        for copies in (copies for copies in alike.values() if len(copies) > 1):
            roles, labels, names = (set(column) for column in zip(*copies, strict=True))
            kind = "across splits" if len(roles) > 1 else "with different labels" if len(labels) > 1 else ""
            if kind or roles == {"train"}:
                found[kind or "within train"].append(sorted(map(str, names)))
        return found

    def shown(self, name: str) -> str:
        """The name of an image without the directory of the data."""
        if self.data.root is None:
            return one_line(name)
        root = root_path(self.data.root)
        return one_line(name.removeprefix(f"{root if root.is_dir() else root.parent}/"))

    def facts(self) -> dict[str, Any]:
        """All that was seen, for JSON."""
        names = self.source.class_names
        return {
            "counts": {
                role: dict(zip(names, counts, strict=True)) for role, counts in self.counts.items()
            },
            "groups": {group: [names[label] for label in labels] for group, labels in self.groups.items()},
            "pixels": {
                side: dict(zip(("min", "median", "max"), all_, strict=True))
                for side, all_ in self.sizes.items()
            },
            "formats": dict(Counter(one.form for one in self.images).most_common()),
            "modes": dict(Counter(one.mode for one in self.images).most_common()),
            "turned_by_exif": sum(one.turned for one in self.images),
            "duplicates": self.duplicates,
            "unreadable": {self.shown(one.name): one.fault for one in self.unreadable},
            "warnings": list(self.warnings()),
        }  # fmt: skip

    def warnings(self) -> Iterator[str]:
        """What will hurt, the worst first: a sentence each, with what can be done about it."""
        yield from self._of_unreadable()
        yield from self._of_duplicates()
        yield from self._of_classes()
        yield from self._of_groups()
        yield from self._of_sizes()

    def _of_unreadable(self) -> Iterator[str]:
        if self.unreadable:
            faults = [f"{self.shown(one.name)} ({one.fault.partition(' (')[0]})" for one in self.unreadable]
            skips = self.data.on_bad_image == "skip"
            fate = "left out" if skips else "they stop the training, data.on_bad_image=skip leaves them out"
            yield f"{_images(len(faults))} cannot be read ({fate}): {some(faults, '; ')}"

    def _of_duplicates(self) -> Iterator[str]:
        words = {
            "across splits": ("in more than one split", "the scores are too good, leave one copy of each"),
            "with different labels": ("in more than one class", "one label at most is right"),
            "within train": ("in the training set more than once", "leave one copy of each"),
        }
        for kind, groups in self.duplicates.items():
            if groups:
                (where, fate), copies = words[kind], [" = ".join(names) for names in groups]
                are = "are" if len(groups) > 1 else "is"
                yield f"{_images(len(groups))} {are} {where} ({fate}): {some(copies, '; ')}"

    def _of_classes(self) -> Iterator[str]:
        names = self.source.class_names
        whole = np.sum([*self.counts.values()], axis=0)
        if single := [names[label] for label in np.flatnonzero(whole == 1)]:
            fate = "to be trained on or tested on, not both"
            yield f"{_classes(len(single))} one image in all ({fate}): {some(single)}"
        for role in ("test", "validation"):
            missing = [names[c] for c, count in enumerate(self.counts.get(role, ())) if count == 0]
            if missing:
                whom = "it" if len(missing) == 1 else "them"
                fate = f"the {role} scores say nothing about {whom}"
                yield f"{_classes(len(missing))} no {role} image ({fate}): {some(missing)}"

    def _of_groups(self) -> Iterator[str]:
        for role in ("test", "validation"):
            tested = (
                sum(self.counts[role][label] for label in self.groups["tail"]) if role in self.counts else 0
            )
            if 0 < tested < FEW_TESTED:
                fate = f"each is {100 / tested:.0f} points of the tail's accuracy"
                yield f"the tail classes have {_images(tested)} in the {role} set: {fate}"

    def _of_sizes(self) -> Iterator[str]:
        side, short = self.data.image_size, self.short_sides
        if side is None:
            if len({one.size for one in self.images}) > 1:
                middle = self.sizes["short side"][1]
                yield f"images differ in size, the median short side is {middle}: set data.image_size=S"
        elif smaller := sum(one < side for one in short):
            wanted = f"smaller than the network's input of {side} pixels"
            yield f"{smaller:,} of {_images(len(short))} are {wanted}, and are enlarged"
        if clear := sum(one.mode in TRANSPARENT for one in self.images):
            yield f"{_images(clear)} may be transparent: what is seen there is the colour stored below"


def look_at(data: Data) -> Look:
    """Read and decode every image of the user's own once, with a bar on a terminal, and say what is there.

    Nothing is held but a few facts about each image; the cache of decoded images is neither read nor filled.

    Raises:
        InputError: there is nothing to train on: no image, one class, or a class without a training image
            that can be read.
    """
    source = checked_source(data)
    raw = [source.train, source.test, *([] if source.validation is None else [source.validation])]
    known: dict[tuple[int, int], Seen] = {}
    with Progress("looking at the images", sum(map(len, raw)), "images") as progress, refusing_bombs():
        for split in raw:
            for position, one in _seen(split):
                known[id(split.images), int(split.rows[position])] = one
                progress.advance()
    faults = [[known[id(split.images), row].fault for row in split.rows.tolist()] for split in raw]
    readable = [np.array([not fault for fault in of_split], dtype=np.bool_) for of_split in faults]
    unreadable = tuple(one for one in known.values() if one.fault)
    skipped = tuple(f"{one.name}: {one.fault}" for one in unreadable)
    kept = [split.take(good) for split, good in zip(raw, readable, strict=True)]
    look = Look(data, completed(readable_part(source, kept, readable[0], skipped), data), known, unreadable)
    look.splits  # noqa: B018  (raises what is wrong with them)
    return look


def some(names: Sequence[str], separator: str = ", ") -> str:
    """The first names of many, for a sentence; a name that holds the separator is in quotes.

    >>> some(["owl", "fox, red", "elk", "ant", "bee"])
    'owl, "fox, red", elk and 2 more'
    """
    first = [f'"{name}"' if separator in name else name for name in names[:MOST_NAMED]]
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return separator.join(map(one_line, first)) + more


def _images(count: int) -> str:
    return f"{count:,} image{'s' * (count != 1)}"


def _classes(count: int) -> str:
    return f"{count:,} classes have" if count != 1 else "1 class has"


def _seen(split: Labelled) -> Iterator[tuple[int, Seen]]:
    """Each image of a split by its position in it; those in memory have no file to be looked at."""
    batches = split.images.encoded(split.rows)
    any_encoded = False
    with image_threads() as threads:
        while group := list(islice(batches, 8)):
            any_encoded = True
            for found in threads.map(lambda batch: [(one.position, _look(one)) for one in batch], group):
                yield from found
    if not any_encoded and len(split):
        yield from _in_memory(split.images, split)


def _in_memory(images: Images, split: Labelled) -> Iterator[tuple[int, Seen]]:
    for start in range(0, len(split), BATCH):
        rows = split.rows[start : start + BATCH]
        pixels, digests = images.read(rows, "stop").images, images.contents(rows)
        for k, (image, digest) in enumerate(zip(pixels, digests, strict=True), start=start):
            height, width, channels = image.shape
            mode = "L" if channels == 1 else "RGB"
            yield k, Seen(split.place_of(k), digest, size=(width, height), mode=mode, form="in memory")


def _look(item: Encoded) -> Seen:
    try:
        content = item.content
        if isinstance(content, Path):
            with opened(content) as file:
                content = file.read()
    except (OSError, ValueError) as error:
        return Seen(item.name, b"", getattr(error, "strerror", None) or str(error))
    content = content or b""
    digest = hashlib.sha256(content).digest()
    if isinstance(pixels := attempt(content, SMALL), str):
        return Seen(item.name, digest, one_line(pixels))
    with Image.open(BytesIO(content), formats=FORMATS) as image:
        width, height = image.size
        mode, form, orientation = image.mode, str(image.format), _orientation(image)
    size = (height, width) if orientation in range(5, 9) else (width, height)
    return Seen(item.name, digest, "", size, mode, form, orientation in TURNED)


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 where there is none or it cannot be read; the pixels are not decoded for it."""
    try:
        if image.format == "PNG" and "exif" not in image.info:
            return 1  # Pillow would decode all of it, to find a tag behind the pixels
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises nearly anything on broken EXIF
        return 1
