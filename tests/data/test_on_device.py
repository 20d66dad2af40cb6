"""Images brought to a device batch by batch are those that lie there from the start."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ffds.data import loader as on_device
from ffds.data.loader import Brought, Resident, images_on

CPU = torch.device("cpu")
ARRAY = np.random.default_rng(0).integers(0, 256, (20, 3, 4, 2), dtype=np.uint8)
ORDER = torch.randperm(20, generator=torch.Generator().manual_seed(0))
PARTS = [slice(0, 7), slice(7, 8), slice(12, 20)]


@pytest.mark.parametrize("kind", [Resident, Brought])
def test_batches(kind):
    found = list(kind(ARRAY, CPU).batches(ORDER, PARTS))
    assert len(found) == len(PARTS)
    for part, (images, places) in zip(PARTS, found, strict=True):
        assert images.dtype == torch.uint8
        np.testing.assert_array_equal(places, ORDER[part])
        np.testing.assert_array_equal(images, ARRAY[ORDER.numpy()[part]])


def test_a_batch_stays_as_it_is_when_the_next_one_comes():
    batches = Brought(ARRAY, CPU).batches(ORDER, PARTS)
    first, _ = next(batches)
    before = first.clone()
    list(batches)
    assert torch.equal(first, before)


@pytest.mark.parametrize(("room", "kind"), [(ARRAY.nbytes, Resident), (ARRAY.nbytes - 1, Brought)])
def test_an_array_that_leaves_no_room_is_brought(room, kind, monkeypatch):
    monkeypatch.setattr(on_device, "_room", lambda device: room)
    assert type(images_on(CPU, ARRAY)) is kind


def test_half_of_what_is_free_on_an_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    assert on_device._room(torch.device("cuda", 1)) == 500
    assert on_device._room(CPU) == float("inf")
