"""The page of a run: its numbers are those of the run, names are text, and nothing comes from elsewhere."""

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ffds.data.dataset import Split
from ffds.errors import InputError
from ffds.evaluation.measures import MEASURES
from ffds.files import write_json
from ffds.reports.bootstrap import resampled_measures
from ffds.reports.finished import FinishedRun
from ffds.reports.page import measured
from ffds.reports.report import report
from ffds.reports.side_by_side import side_by_side
from ffds.run_directory import Run
from tests.finished_runs import recipe, write_run

HOSTILE = [
    "<script>alert(1)</script>",
    "\"'&<b>",
    "a\x1b[31m\x00b",
    "{{ 7*7 }}",
    "</title><img src=x onerror=y>",
]
VOID = {"meta", "img", "br", "input", "link", "hr"}


def finished(out: Path, classes: int, *, untested: int = 0, method: str = "d-ffds", seed: int = 0) -> Run:
    """A run with 4 test images of each class but the last ones, and names that no page should trust."""
    noise = np.random.default_rng(seed)
    label = np.repeat(np.arange(classes - untested), 4)
    right = noise.random(len(label)) < 0.6
    prediction = np.where(right, label, noise.integers(0, classes, len(label)))
    confidence = noise.uniform(1 / classes, 1, len(label)).astype(np.float32)
    own = np.where(prediction == label, confidence, (1 - confidence) / 2).astype(np.float32)
    one = recipe("schedule.epochs=3", "data.cut=null", f"trainer.seed={seed}", method=method)
    counts = [max(1, 500 // (c + 1)) for c in range(classes)]
    last = 100 * float((prediction == label).mean())
    run = write_run(out, one, last=last, classes=classes, counts=counts)
    names = [f"{HOSTILE[c % len(HOSTILE)]} {c}" for c in range(classes)]
    tested = np.bincount(label, minlength=classes).tolist()
    run.name_classes(zip(names, counts, tested, strict=True))
    columns = dict(zip(("label", "prediction", "confidence"), (label, prediction, confidence), strict=True))
    columns = {"index": np.arange(len(label)), **columns, "label_probability": own}
    pq.write_table(pa.table(columns), run.predictions)
    summary = run.summary | dict(FinishedRun.read(run).scores.measures)
    write_json(run.path / "summary.json", summary | {"accuracy": run.summary["accuracy"]})
    return run


def images_of(run: Run) -> Split:
    """Pictures for the predictions of a run."""
    label = FinishedRun.read(run).label
    images = np.random.default_rng(0).integers(0, 255, (len(label), 8, 8, 3), dtype=np.uint8)
    names = tuple(Path(f"/photos/<i>{k}.png") for k in range(len(label)))
    return Split(images, label, names)


class Page(HTMLParser):
    """The elements of a page, checked for balance; the text of elements with an id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, str | None]] = []
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.urls: list[str] = []
        self.handlers: list[str] = []
        self.texts: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.tags[tag] += 1
        self.urls += [given[name] or "" for name in ("src", "href", "action", "data") if name in given]
        self.handlers += [name for name in given if name.startswith("on")]
        if (name := given.get("id")) is not None:
            self.ids[name] += 1
        if tag not in VOID:
            self.open.append((tag, given.get("id")))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without a start"
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, name in self.open:
            if name is not None:
                self.texts[name] = self.texts.get(name, "") + data


@pytest.mark.parametrize(("classes", "untested"), [(2, 0), (3, 1), (12, 4), (40, 0)])
def test_the_page_is_whole_escapes_names_and_shows_the_summary(tmp_path, classes, untested):
    run = finished(tmp_path, classes, untested=untested)
    text = report(run, test=images_of(run)).read_text(encoding="utf-8")
    page = Page(text)
    assert max(page.ids.values()) == 1
    assert all(url.startswith(("data:image/", "#")) for url in page.urls)
    assert page.handlers == []
    assert page.tags["script"] == (2 if classes > 30 else 1), "ours, and the data for a pointer"
    assert not re.search(r"https?:|url\(|@import|[\x00-\x08\x0b-\x1f]", text)
    assert "&lt;script&gt;alert(1)" in text
    assert classes < 4 or "{{ 7*7 }}" in text
    for measure in MEASURES:
        value = run.summary[measure.name]
        value = value["last"] if measure.name == "accuracy" else value
        shown = page.texts[f"measure-{measure.name}"].strip()
        assert shown == ("n/a" if value is None else f"{value:.2f}"), measure.name


@pytest.mark.parametrize("classes", [2, 10, 60])
def test_intervals_contain_their_value_and_are_those_of_the_images(tmp_path, classes):
    found = FinishedRun.read(finished(tmp_path, classes))
    (intervals,) = measured([found])
    known = {name: one for name, one in intervals.items() if one is not None}
    assert all(one.low <= one.value <= one.high for one in known.values())
    # The images of a class are drawn independently: Var = Σ_c n_c a_c (1 − a_c) / N².
    share = found.correct / found.support
    error = 196 * np.sqrt((found.support * share * (1 - share)).sum()) / len(found.label)
    accuracy = known["accuracy"]
    assert accuracy.high - accuracy.value == pytest.approx(error, rel=0.15)


def test_resamples_of_one_image_a_class_are_the_test_set_itself():
    label = np.arange(6)
    prediction = np.array([0, 1, 2, 0, 0, -1])
    (measures,) = resampled_measures(label, [prediction], {"head": [0, 1], "tail": [5], "few": []}, 7, 5)
    assert measures.keys() == {"accuracy", "balanced_accuracy", "macro_f1", "head", "tail"}
    assert measures["accuracy"].tolist() == [50.0] * 5
    assert measures["macro_f1"].tolist() == pytest.approx([100 * (0.5 + 1 + 1) / 6] * 5)
    assert (measures["head"].tolist(), measures["tail"].tolist()) == ([100.0] * 5, [0.0] * 5)


def test_pictures_are_shown_where_the_test_images_are_those_of_the_run(tmp_path):
    run = finished(tmp_path, 5)
    images = images_of(run)
    text = report(run, test=images).read_text(encoding="utf-8")
    assert "data:image/jpeg;base64," in text
    assert "&lt;i&gt;" in text, "the names of the files"
    others = Split(images.images, (images.labels + 1) % 5, images.files)
    for test, why in ((others, "other labels"), (None, "data.root")):
        text = report(run, test=test).read_text(encoding="utf-8")
        assert "image/jpeg" not in text
        assert re.search(f"no pictures[^<]*{why}", text)


def test_a_run_of_an_earlier_version_has_numbers_for_names(tmp_path):
    run = finished(tmp_path, 5)
    (run.path / "classes.json").unlink()
    assert FinishedRun.read(run).names == ("0", "1", "2", "3", "4")
    report(run)


def test_a_run_that_cannot_be_shown_is_refused_and_its_page_stays(tmp_path):
    run = finished(tmp_path, 5)
    page = report(run)
    before = page.read_bytes()
    run.predictions.write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="predictions of this run cannot be read"):
        report(run)
    run.predictions.unlink()
    with pytest.raises(InputError, match="ffds eval"):
        report(run)
    assert page.read_bytes() == before
    assert {path.name for path in run.path.glob("*report*")} == {"report.html"}
    (run.path / "summary.json").unlink()
    with pytest.raises(InputError, match="run is not done"):
        report(run)


# Several runs


def test_several_runs_stand_side_by_side_with_their_differences(tmp_path):
    runs = [finished(tmp_path, 6, method=method, seed=seed) for method, seed in (("ce", 0), ("ffds", 1))]
    file = report(*runs)
    assert file == tmp_path / "cifar100-lt-100" / "report.html"
    text = file.read_text(encoding="utf-8")
    page = Page(text)
    assert max(page.ids.values()) == 1
    assert page.handlers == []
    assert page.tags["script"] == 1
    assert all(url.startswith("#") for url in page.urls)
    content = side_by_side([FinishedRun.read(run) for run in runs])
    for row in content["measures"]:
        one, two = row["values"]
        (difference,) = row["differences"]
        if row["name"] == "accuracy":
            known = [run.summary["accuracy"]["last"] for run in runs]
            assert [one.value, two.value] == pytest.approx(known)
            assert f"{one.value:.2f}" in text
        if one is not None:
            assert difference.value == pytest.approx(two.value - one.value)
            assert difference.low <= difference.value <= difference.high
    assert sum(content["agreement"][0][part] for part in ("both", "first", "other", "neither")) == 24


def test_a_difference_is_paired(tmp_path):
    """Of classifiers that disagree on few images the difference is far surer than their values."""
    label = np.repeat(np.arange(10), 20)
    one = np.where(np.arange(200) % 2, label, (label + 1) % 10)
    two = np.where(np.arange(200) < 2, label, one)
    first, second = resampled_measures(label, [one, two], {}, 10)
    assert (second["accuracy"] - first["accuracy"]).std() < 0.2 * first["accuracy"].std()


def test_runs_with_different_test_images_are_refused(tmp_path):
    one, other, fewer = finished(tmp_path, 5), finished(tmp_path, 5, seed=1), finished(tmp_path, 4, seed=2)
    table = pq.read_table(other.predictions)
    pq.write_table(table.set_column(0, "index", pa.array(table["index"].to_numpy() + 1)), other.predictions)
    for second in (other, fewer):
        with pytest.raises(InputError, match="different images"):
            report(one, second)
    with pytest.raises(InputError, match="named twice"):
        report(one, one.path)
    assert not list(tmp_path.rglob("report.html"))
