"""Scores of images in any batches, on any number of ranks, against sklearn and a naive twin."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from ffds.errors import InputError
from ffds.evaluation.counts import ClassAccuracy, Evaluation
from ffds.evaluation.groups import class_groups
from ffds.evaluation.measures import mean

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


def sample(count, classes, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    logits = scale * torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), labels] += scale
    return logits, labels


def scores(logits, labels, class_counts=None, cut=None, batch_size=None):
    classes = logits.shape[1]
    evaluation = Evaluation(classes, class_counts or range(classes, 0, -1), cut, CPU)
    step = batch_size or max(len(labels), 1)
    for start in range(0, len(labels), step):
        evaluation.update(logits[start : start + step], labels[start : start + step])
    return evaluation.compute()


def naive_ece(logits, labels):
    """In percent, image by image, bins (lower, upper]."""
    bins = [[] for _ in range(15)]
    for row, label in zip(logits.double().softmax(1).numpy(), labels.tolist(), strict=True):
        confidence = row.max()
        bins[min(14, math.ceil(confidence * 15) - 1)].append((confidence, float(row.argmax() == label)))
    gaps = (abs(sum(right - confidence for confidence, right in members)) for members in bins)
    return 100 * sum(gaps) / len(labels)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 7), st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**32), st.floats(0.1, 5))
def test_scores_equal_sklearn_and_the_naive_twin(classes, count, batch_size, seed, scale):
    logits, labels = sample(count, classes, seed, scale)
    found = scores(logits, labels, batch_size=batch_size)
    truth, guess = labels.numpy(), logits.argmax(1).numpy()
    present = np.unique(truth)
    recalls = dict.fromkeys(range(classes))
    recalls |= {label: pytest.approx(100 * (guess[truth == label] == label).mean()) for label in present}
    f1 = f1_score(truth, guess, labels=present, average="macro", zero_division=0)
    assert found.per_class == list(recalls.values())
    assert found.accuracy == found.measures["accuracy"] == pytest.approx(100 * (truth == guess).mean())
    assert found.measures["balanced_accuracy"] == pytest.approx(mean(found.per_class))
    assert found.measures["macro_f1"] == pytest.approx(100 * f1)
    assert found.measures["ece"] == pytest.approx(naive_ece(logits, labels), abs=1e-3)


@pytest.mark.parametrize("batch_size", [1, 64])
def test_batches_do_not_matter_to_the_last_bit(batch_size):
    logits, labels = sample(500, 6)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    assert scores(logits[order], labels[order], batch_size=batch_size) == scores(logits, labels)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_image_with_a_non_finite_logit_is_wrong_and_there_is_no_ece(bad):
    logits, labels = sample(50, 4)
    logits[:10] = 0
    logits[torch.arange(10), labels[:10]] = 9.0
    clean = scores(logits, labels)
    logits[:10, 1] = bad
    found = scores(logits, labels)
    guess = logits.argmax(1).index_fill(0, torch.arange(10), -1)
    expected = f1_score(labels, guess, labels=labels.unique(), average="macro", zero_division=0)
    assert found.measures["ece"] is None
    assert found.measures["macro_f1"] == pytest.approx(100 * expected)
    assert found.accuracy == pytest.approx(clean.accuracy - 100 * 10 / 50)
    counter = ClassAccuracy(4, CPU)
    counter.update(logits, labels)
    assert (sum(counter.correct), sum(counter.total)) == ((guess == labels).sum(), 50)


def test_a_single_class_and_a_single_image():
    measures = scores(torch.randn(1, 1), torch.tensor([0]), class_counts=[3]).measures
    expected = {"accuracy": 100.0, "macro_f1": 100.0, "ece": 0.0, "head": None, "middle": 100.0, "tail": None}
    assert expected.items() <= measures.items()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type_also_in_inference_mode(dtype):
    logits, labels = sample(64, 5)
    logits = logits.bfloat16()
    expected = scores(logits.float(), labels)
    with torch.inference_mode():
        assert scores(logits.to(dtype), labels).accuracy == expected.accuracy
        assert scores(logits.float(), labels) == expected


def test_memory_grows_with_the_classes_not_with_their_square():
    classes = 8142
    logits, labels = sample(8, classes)
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.append(out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    with Watch():
        scores(logits, labels)
    assert classes <= max(sizes) <= 8 * classes


def test_what_cannot_be_scored():
    with pytest.raises(InputError, match="no image to evaluate"):
        Evaluation(3, [1, 1, 1], None, CPU).compute()
    with pytest.raises(InputError, match="2 class counts for 3 classes"):
        Evaluation(3, [1, 1], None, CPU)


RANK = """
import sys, torch
from ffds.evaluation.counts import Evaluation
from tests.evaluation.test_counts import sample
rank, meeting = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
logits, labels = sample(31, 4)
for shares in ([slice(0, 7), slice(7, 31)], [slice(0, 31), slice(0, 0)]):  # at last rank 1 has no image
    evaluation = Evaluation(4, [9, 5, 3, 1], None, torch.device("cpu"))
    evaluation.update(logits[shares[rank]], labels[shares[rank]])
    print(evaluation.compute())
torch.distributed.destroy_process_group()
"""


def test_ranks_together_count_each_image_once(tmp_path):
    command = [sys.executable, "-c", RANK]
    meeting = str(tmp_path / "meeting")
    ranks = [
        subprocess.Popen([*command, rank, meeting], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for rank in ("0", "1")
    ]
    alone = str(scores(*sample(31, 4), [9, 5, 3, 1]))
    for rank in ranks:
        assert rank.communicate(timeout=120)[0].splitlines() == [alone, alone]


def test_accuracy_is_over_images_and_groups_over_classes():
    counter = ClassAccuracy(4, CPU)
    counter.update(torch.tensor([0, 0, 0, 0, 2]), torch.tensor([0, 0, 0, 1, 1]))
    groups = class_groups([3, 2, 1, 1], (2, 1, 1))
    assert counter.compute(groups) == {"accuracy": 60.0, "head": 50.0, "middle": None, "tail": None}
    nothing = ClassAccuracy(4, CPU).compute(groups)
    assert nothing == dict.fromkeys(["accuracy", "head", "middle", "tail"]), "not 0 percent"
