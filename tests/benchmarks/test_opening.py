from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from benchmarks.__main__ import main
from benchmarks.opening import one_by_one

from ffds.data.open import open_dataset
from ffds.data.pack import write_pack
from ffds.recipes.schema import Data


def test_both_sides_give_the_same_images(tmp_path: Path) -> None:
    write_pack(Data(name="digits"), tmp_path)
    test, train = one_by_one(tmp_path)
    ours = open_dataset(Data(name="parquet", root=str(tmp_path)))
    np.testing.assert_array_equal(ours.train.images[..., 0], train)
    np.testing.assert_array_equal(ours.test.images[..., 0], test)


def test_every_start_stands_beside_what_it_may_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, before = tmp_path / "bench.json", os.environ["FFDS_CACHE"]
    main(["--quick", "--only", "opening", "--pairs", "1", "--out", str(file)])
    assert os.environ["FFDS_CACHE"] == before
    entries = json.loads(file.read_text(encoding="utf-8"))
    assert len(entries) == 6
    first, second, *starts = entries
    assert "1,797 lossless images (digits)" in first["name"]
    assert second["ours"] > 0
    assert [entry["yardstick"] for entry in starts] == [1.0, 0.1, 0.3, 0.5]
    assert "ffds --help" in capsys.readouterr().out
