"""Damages Parquet files at random and opens them: ``python -m tests.data.sources.damaged_parquet 10000``.

Run as a process of its own, with little memory: a reader that crashes, hangs or fills the memory ends it.
"""

import json
import random
import resource
import signal
import sys
import tempfile
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ffds.data import open_dataset
from ffds.errors import InputError
from ffds.recipes.schema import Data

MEMORY = 4 * 2**30
SECONDS = 60
LABELS = (pa.int64(), pa.uint8(), pa.int8(), pa.string(), pa.dictionary(pa.int8(), pa.string()))


def png(value: int) -> bytes:
    content = BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, dtype=np.uint8)).save(content, "PNG")
    return content.getvalue()


def sound(draw: random.Random) -> bytes:
    """A file of twelve images in the hub's layout: any type of labels, compression, pages and row groups."""
    kind = draw.choice(LABELS)
    text = pa.types.is_string(kind) or pa.types.is_dictionary(kind)
    labels = pa.array([("cat", "dog")[k % 2] if text else k % 2 for k in range(12)]).cast(kind)
    images = pa.array([{"bytes": png(k), "path": f"{k}.png"} for k in range(12)])
    table = pa.table({"image": images, "label": labels})
    if not text:
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file = BytesIO()
    pq.write_table(
        table,
        file,
        compression=draw.choice(["none", "snappy", "zstd", "gzip"]),
        row_group_size=draw.choice([3, 12]),
        data_page_version=draw.choice(["1.0", "2.0"]),
        use_dictionary=draw.random() < 0.5,
    )
    return file.getvalue()


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The file with flipped bits (half of them in its footer), a part overwritten, doubled or cut out."""
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    begin = draw.randrange(footer if draw.random() < 0.5 else 0, len(content))
    end = min(len(content), begin + draw.choice([1, 4, 100]))
    match draw.randrange(6):
        case 0:
            return content[:begin]
        case 1:
            return content[:begin] + draw.randbytes(end - begin) + content[end:]
        case 2:
            return content[:begin] + content[end:]
        case 3:
            return content[:end] + content[begin:]
    flipped = bytearray(content)
    flipped[begin] ^= 1 << draw.randrange(8)
    return bytes(flipped)


def main(first: int, count: int) -> None:
    """Open damaged file number `first` and those after it; print how many were read and how many refused."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(f"number {number} hangs"))
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for number in range(first, first + count):
            draw = random.Random(number)
            content = sound(draw)
            for split in ("train", "test"):
                (root / f"{split}-00000-of-00001.parquet").write_bytes(content)
            split = draw.choice(["train", "test"])
            (root / f"{split}-00000-of-00001.parquet").write_bytes(damaged(content, draw))
            bad = draw.choice(["stop", "skip"])
            signal.alarm(SECONDS)
            try:
                open_dataset(Data(name="parquet", root=directory, on_bad_image=bad, cache=False))
                ends["read"] += 1
            except InputError as error:
                if directory not in str(error):
                    sys.exit(f"number {number} names no file: {error}")
                ends["refused"] += 1
            except BaseException as error:
                print(f"number {number}: {type(error).__name__}", flush=True)
                raise
            signal.alarm(0)
    print(dict(ends))


if __name__ == "__main__":
    main(*([0, *map(int, sys.argv[1:])][-2:]))
