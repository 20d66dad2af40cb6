"""Charts as SVG that stands in a page: built as a tree, so that no name can be more than text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree as Tree

from markupsafe import Markup

__all__ = ["Axis", "Chart", "Dot", "bar", "dots", "linear", "lines", "logarithmic", "percent_axis"]
__all__ += ["reliability"]

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 48, 20, 14, 44
CHARACTER = 6.4
"""Width of a letter in a label, on average."""


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` with a title; `ticks` are marked."""

    title: str
    low: float
    high: float
    ticks: Sequence[float]
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies between the ends, 0 to 1."""
        scale: Callable[[float], float] = math.log if self.log else float
        return (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))


def linear(title: str, values: Iterable[float], *, floor: float | None = None, whole: bool = False) -> Axis:
    """An axis from the smallest value, or a floor, to the largest, with three to six round ticks.

    Of `whole` numbers the axis ends at the largest one, and no tick lies between two of them.

    >>> linear("norm", [0.4, 2.1], floor=0).ticks
    [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    """
    known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(known) if floor is None else floor, max(known)
    high = high if high > low else low + 1
    raw = (high - low) / 4
    power = 10 ** math.floor(math.log10(raw))
    digits = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    step = power * min(digits, key=lambda one: (one * power < raw * 0.8, one))
    if whole:
        step = max(step, 1)
        return Axis(title, low, high, [k * step for k in range(math.ceil(low / step), int(high / step) + 1)])
    first, last = math.floor(low / step), math.ceil(high / step)
    return Axis(title, first * step, last * step, [k * step for k in range(first, last + 1)])


def percent_axis(title: str = "accuracy, %") -> Axis:
    """An axis from 0 to 100."""
    return Axis(title, 0, 100, (0, 20, 40, 60, 80, 100))


def logarithmic(title: str, values: Iterable[float]) -> Axis:
    """A logarithmic axis from 1, 2 or 5 times a power of ten to another one.

    >>> logarithmic("images", [5, 480]).ticks
    [5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0]
    """
    known = [value for value in values if value > 0] or [1.0, 10.0]
    powers = range(math.floor(math.log10(min(known))) - 1, math.ceil(math.log10(max(known))) + 2)
    steps = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    first = max(step for step in steps if step <= min(known) * (1 + 1e-9))
    last = min(step for step in steps if step >= max(known) * (1 - 1e-9) and step > first)
    ticks = [step for step in steps if first <= step <= last]
    if len(ticks) > 8:
        whole = [step for step in ticks if f"{step:e}".startswith("1.0")]
        ticks = whole[:: math.ceil(len(whole) / 8)]
    return Axis(title, first, last, ticks, log=True)


@dataclass(frozen=True)
class Dot:
    """A point with the text that a pointer on it shows, and a label that is written where there is room."""

    x: float
    y: float
    kind: str
    about: str
    label: str = ""


@dataclass
class Chart:
    """An SVG with two axes; `about` is read out in place of the picture."""

    x: Axis
    y: Axis
    about: str
    width: int = WIDTH
    height: int = HEIGHT
    root: Tree.Element = field(init=False)
    plot: Tree.Element = field(init=False)

    def __post_init__(self) -> None:
        self.root = svg(self.width, self.height, self.about)
        axes = Tree.SubElement(self.root, "g", {"class": "axis"})
        self.plot = Tree.SubElement(self.root, "g")
        bottom, right = self.height - BOTTOM, self.width - RIGHT
        for tick in self.y.ticks:
            y = self.at_y(tick)
            _line(axes, LEFT, y, right, y, "grid")
            _text(axes, LEFT - 6, y + 4, number(tick), "end")
        for tick in self.x.ticks:
            x = self.at_x(tick)
            _line(axes, x, bottom, x, bottom + 4, "tick")
            _text(axes, x, bottom + 17, number(tick), "middle")
        _line(axes, LEFT, bottom, right, bottom, "tick")
        _text(axes, (LEFT + right) / 2, self.height - 6, self.x.title, "middle", "title")
        turned = f"rotate(-90 12 {(TOP + bottom) / 2:g})"
        _text(axes, 12, (TOP + bottom) / 2, self.y.title, "middle", "title").set("transform", turned)

    def at_x(self, value: float) -> float:
        """The pixel of a value."""
        return LEFT + self.x.share(value) * (self.width - LEFT - RIGHT)

    def at_y(self, value: float) -> float:
        """The pixel of a value."""
        return self.height - BOTTOM - self.y.share(value) * (self.height - TOP - BOTTOM)

    def line(self, points: Sequence[tuple[float, float]], kind: str, about: str = "") -> None:
        """A line through points; of one point, a dot."""
        if len(points) == 1:
            self.dot(Dot(*points[0], kind, about))
            return
        place = " ".join(f"{self.at_x(x):.1f},{self.at_y(y):.1f}" for x, y in points)
        shape = Tree.SubElement(self.plot, "polyline", {"points": place, "class": f"line {kind}"})
        _about(shape, about)

    def dot(self, dot: Dot, size: float = 3.2) -> None:
        """A disc, for ``middle`` and ``medium`` a square, for ``tail`` and ``few`` a triangle."""
        x, y = self.at_x(dot.x), self.at_y(dot.y)
        kind = {"class": f"dot {dot.kind}"}
        if dot.kind == "middle":
            corner = {"x": f"{x - size:.1f}", "y": f"{y - size:.1f}"}
            shape = Tree.SubElement(
                self.plot, "rect", {**corner, "width": f"{2 * size:g}", "height": f"{2 * size:g}", **kind}
            )
        elif dot.kind == "tail":
            high = size * 1.3
            corners = f"{x:.1f},{y - high:.1f} {x + high:.1f},{y + size:.1f} {x - high:.1f},{y + size:.1f}"
            shape = Tree.SubElement(self.plot, "polygon", {"points": corners, **kind})
        else:
            place = {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": f"{size:g}"}
            shape = Tree.SubElement(self.plot, "circle", {**place, **kind})
        _about(shape, dot.about)

    def write_labels(self, dots: Sequence[Dot], most: int) -> None:
        """The labels of the first dots of which none covers another label or, where there is room, a dot."""
        places = [(self.at_x(dot.x), self.at_y(dot.y)) for dot in dots] if len(dots) <= 200 else []
        taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in places]
        written = 0
        for dot in dots:
            if not dot.label:
                continue
            x, y, label = self.at_x(dot.x), self.at_y(dot.y), shortened(dot.label, 22)
            length = len(label) * CHARACTER
            for left, anchor in ((x + 7, "start"), (x - 7 - length, "end")):
                box = (left, y - 7, left + length, y + 5)
                inside = left > LEFT and box[2] < self.width - 2
                if inside and not any(_overlap(box, other) for other in taken):
                    _text(self.plot, x + 7 if anchor == "start" else x - 7, y + 4, label, anchor, "label")
                    taken.append(box)
                    written += 1
                    break
            if written == most:
                return

    @property
    def markup(self) -> Markup:
        """The SVG as it stands in a page."""
        return markup(self.root)


def dots(
    x: Axis, y: Axis, points: Sequence[Dot], about: str, *, levels: Mapping[str, float] | None = None
) -> Chart:
    """A scatter of dots, the lowest ones labelled; a line at the level of each kind that has one."""
    chart = Chart(x, y, about)
    for kind, level in (levels or {}).items():
        own = [dot.x for dot in points if dot.kind == kind]
        chart.line([(min(own), level), (max(own), level)], f"mean {kind}", f"mean of {kind}: {level:.1f}")
    size = 3.4 if len(points) <= 200 else 2.2
    for dot in points:
        chart.dot(dot, size)
    chart.write_labels(sorted(points, key=lambda dot: dot.y), 12 if len(points) <= 200 else 4)
    return chart


def lines(
    x: Axis,
    y: Axis,
    series: Mapping[str, Sequence[tuple[float, float]]],
    about: str,
    marks: Mapping[float, str],
) -> Chart:
    """One line for each kind, with upright marks at some x, each with its name at the top."""
    chart = Chart(x, y, about)
    for at, name in marks.items():
        _line(chart.plot, chart.at_x(at), TOP, chart.at_x(at), chart.height - BOTTOM, "mark")
        _text(chart.plot, chart.at_x(at) + 4, TOP + 9, shortened(name, 24), "start", "note")
    for kind, points in series.items():
        if points:
            chart.line(points, kind, kind.rpartition(" ")[2])
    return chart


def reliability(
    images: Sequence[int], correct: Sequence[int], confidence: Sequence[float], kind: str, about: str
) -> Markup:
    """Accuracy of each bin of the confidence as a bar beside the diagonal, above the share of the images."""
    ticks = [0, 25, 50, 75, 100]
    axes = (Axis("confidence, %", 0, 100, ticks), Axis("accuracy, %", 0, 100, ticks))
    chart = Chart(*axes, about, width=300, height=280)
    chart.line([(0, 0), (100, 100)], "ideal")
    bins, total = len(images), sum(images) or 1
    for k, (count, right, sure) in enumerate(zip(images, correct, confidence, strict=True)):
        if not count:
            continue
        left, stop = chart.at_x(100 * k / bins), chart.at_x(100 * (k + 1) / bins)
        accuracy, mean = 100 * right / count, 100 * sure / count
        text = f"{count:,} images, mean confidence {mean:.1f} %, accuracy {accuracy:.1f} %"
        base = chart.height - BOTTOM
        _box(chart.plot, left + 0.5, chart.at_y(accuracy), stop - left - 1, base, f"bar {kind}", text)
        share = max(count / total * 40, 0.8)
        _box(chart.plot, left + 0.5, base - share, stop - left - 1, base, "amount", "")
        chart.dot(Dot(mean, accuracy, kind, text), 2.6)
    return chart.markup


def bar(value: float, low: float, high: float, about: str) -> Markup:
    """A value between 0 and 100 as a dot, with its interval as a line, without axes."""
    root = svg(200, 18, about)
    _line(root, 2, 9, 198, 9, "grid")
    at_value, at_low, at_high = (2 + one * 1.96 for one in (value, low, high))
    _line(root, at_low, 9, at_high, 9, "whisker")
    Tree.SubElement(root, "circle", {"cx": f"{at_value:.1f}", "cy": "9", "r": "4.5", "class": "value"})
    return markup(root)


def svg(width: float, height: float, about: str) -> Tree.Element:
    """An empty SVG; `about` is read out in place of the picture."""
    box = {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": about}
    return Tree.Element("svg", box)


def markup(root: Tree.Element) -> Markup:
    """A tree as text: names in it are escaped."""
    return Markup(Tree.tostring(root, encoding="unicode", short_empty_elements=False))


def number(value: float) -> str:
    """A tick in few digits.

    >>> [number(value) for value in (0.0, 0.25, 12000.0, 1e-05)]
    ['0', '0.25', '12k', '1e-5']
    """
    if value and abs(value) < 0.001:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"


def shortened(text: str, most: int) -> str:
    """The beginning of a long text."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def _line(parent: Tree.Element, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
    place = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    Tree.SubElement(parent, "line", {name: f"{one:.1f}" for name, one in place.items()} | {"class": kind})


def _box(
    parent: Tree.Element, left: float, top: float, width: float, base: float, kind: str, about: str
) -> None:
    place = {"x": left, "y": top, "width": width, "height": max(base - top, 0)}
    shape = Tree.SubElement(
        parent, "rect", {name: f"{one:.1f}" for name, one in place.items()} | {"class": kind}
    )
    _about(shape, about)


def _text(
    parent: Tree.Element, x: float, y: float, text: str, anchor: str, kind: str = "number"
) -> Tree.Element:
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "class": kind}
    element = Tree.SubElement(parent, "text", place)
    element.text = text
    return element


def _about(shape: Tree.Element, text: str) -> None:
    if text:
        Tree.SubElement(shape, "title").text = text


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
