"""The table of measures, and what each place takes from it."""

import pytest

from ffds.evaluation.measures import Counts, Scores, measures_in

COUNTS = Counts(
    support=[4, 2, 0],
    correct=[2, 2, 0],
    predicted=[2, 3, 1],
    bin_correct=[1, 3],
    bin_confidence=[2.5, 3.5],
    finite=True,
    groups={"head": [0], "middle": [1], "tail": [2], "many": [0, 1], "medium": [2], "few": []},
)


def test_every_measure_by_hand():
    assert Scores.of(COUNTS).measures == {
        "accuracy": pytest.approx(100 * 4 / 6),
        "balanced_accuracy": 75.0,
        "macro_f1": pytest.approx(100 * (4 / 6 + 4 / 5) / 2),
        "ece": pytest.approx(100 * (1.5 + 0.5) / 6),
        **{"head": 50.0, "middle": 100.0, "tail": None, "many": 75.0, "medium": None, "few": None},
    }
    assert Scores.of(COUNTS).per_class == [50.0, 100.0, None]


def test_what_epochs_and_summaries_record():
    scores = Scores.of(COUNTS)
    assert list(scores.measures) == [
        *("accuracy", "balanced_accuracy", "macro_f1", "ece"),
        *("head", "middle", "tail", "many", "medium", "few"),
    ]
    assert list(scores.brief()) == ["accuracy", "head", "middle", "tail", "per_class"]
    assert scores.brief()["head"] == scores.measures["head"] == 50.0


def test_each_place_has_its_measures():
    groups = ["head", "middle", "tail"]
    for place, others in (
        ("epoch", []),
        ("comparison", ["balanced_accuracy", "macro_f1", "ece"]),
        ("runs", []),
    ):
        assert [measure.name for measure in measures_in(place)] == ["accuracy", *groups, *others]
