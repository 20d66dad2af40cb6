"""Which Parquet columns hold the images and the labels, and what the classes are called."""

from __future__ import annotations

import json
from typing import Any, Literal

import pyarrow as pa

from ffds.errors import InputError, nearest

__all__ = ["class_names", "image_column", "image_mode", "label_column"]

OURS = ("index", "lt_rank")


def image_column(schema: pa.Schema, asked: str | None, where: object) -> str:
    """The image column: `asked`, or else the only one of type struct<bytes, path>.

    Raises:
        InputError: there is no such column, or there are several.
    """
    images = [field.name for field in schema if _is_image(field.type)]
    if asked is not None:
        return _asked(
            schema, asked, images, "data.image_column", "struct<bytes: binary, path: string>", where
        )
    return _only(schema, images, "image", where)


def label_column(schema: pa.Schema, asked: str | None, where: object) -> str:
    """The label column: `asked`, or else the only one declared as class label, or else the only integer one.

    Raises:
        InputError: there is no such column, or there are several.
    """
    integers = [field.name for field in schema if pa.types.is_integer(field.type)]
    declared = [name for name in integers if _feature(schema, name).get("_type") == "ClassLabel"]
    if asked is not None:
        return _asked(schema, asked, schema.names, "data.label_column", "integers", where)
    return _only(schema, declared or [name for name in integers if name not in OURS], "label", where)


def class_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """The class names that the hub's metadata gives for a label column, in label order; None without."""
    names = _feature(schema, column).get("names")
    return tuple(str(name) for name in names) if isinstance(names, list) and names else None


def image_mode(schema: pa.Schema, column: str) -> Literal["RGB", "L"]:
    """The channels that the hub's metadata asks for: ``L``, one, or ``RGB``, three, where it does not say."""
    return "L" if _feature(schema, column).get("mode") == "L" else "RGB"


def _feature(schema: pa.Schema, column: str) -> dict[str, Any]:
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
    except (KeyError, TypeError, ValueError):
        return {}
    return feature if isinstance(feature, dict) else {}


def _is_image(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)


def _asked(schema: pa.Schema, asked: str, possible: list[str], key: str, allowed: str, where: object) -> str:
    if asked not in possible:
        raise InputError(
            f"{key}={asked} is not a column of {allowed}",
            where=where,
            got=f"columns {_described(schema)}",
            fix=nearest(asked, possible),
        )
    return asked


def _only(schema: pa.Schema, found: list[str], what: str, where: object) -> str:
    if len(found) != 1:
        raise InputError(
            f"{'several columns' if found else 'no column'} can be the {what}",
            where=where,
            got=", ".join(found) if found else f"columns {_described(schema)}",
            allowed="one struct<bytes, path>" if what == "image" else "one column of integers 0 .. C - 1",
            fix=f"name it: data.{what}_column={found[0] if found else 'NAME'}",
        )
    return found[0]


def _described(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)
