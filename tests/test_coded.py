"""Weights that are codes in the checkpoint and in the port: taken over where the form is the same, else made anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import packing
import pytest

from porter import source as reading
from porter.quantize import FORMS
from porter.source import Source

GROUP = {"strategy": "group", "group_size": 32}
ROW = {"num_bits": 8, "strategy": "channel"}
WEIGHT = np.random.default_rng(1).standard_normal((40, 96)).astype(np.float32)
# What lies in the checkpoint: its quantization_config, its tensors and the weight they mean; and the port's same form.
STORED: dict[str, tuple[dict[str, Any], packing.Made, str]] = {
    "gptq": (packing.GPTQ | {"group_size": 32}, packing.gptq(WEIGHT, group=32), "int4:32"),
    "gptq-asymmetric": (
        packing.GPTQ | {"group_size": 32, "sym": False},
        packing.gptq(WEIGHT, group=32, symmetric=False),
        "int4:32:asymmetric",
    ),
    "awq": (packing.AWQ | {"group_size": 32}, packing.awq(WEIGHT, 32), "int4:32:asymmetric"),
    "packed": (
        packing.compressed("pack-quantized", num_bits=4, **GROUP),
        packing.packed(WEIGHT, group=32),
        "int4:32",
    ),
    "packed-asymmetric": (
        packing.compressed("pack-quantized", num_bits=4, symmetric=False, **GROUP),
        packing.packed(WEIGHT, group=32, symmetric=False),
        "int4:32:asymmetric",
    ),
    "packed-8-bits": (packing.compressed("pack-quantized", **ROW), packing.packed(WEIGHT, 8, 96), "int8"),
    "int8": (packing.compressed("int-quantized", **ROW), packing.int8(WEIGHT), "int8"),
}


def coded(folder: Path, quantization: dict[str, Any], made: packing.Made, form: str) -> list[np.ndarray]:
    """What a port of this form stores."""
    tensors = {f"w.{end}": np.ascontiguousarray(array) for end, array in made[0].items()}
    source = Source(packing.write(folder, tensors, quantization))
    chunks = list(source.coded(source.checkpoint.read, "w.weight", 0, 40, FORMS[form]))
    return [np.concatenate(parts) for parts in zip(*chunks, strict=True)]


def meaning(codes: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None) -> np.ndarray:
    """One product in float32 for each code."""
    if codes.dtype == np.int8:
        return codes.astype(np.float32) * scale[:, None]
    whole = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*scale.shape, -1).astype(np.float32)
    offset = np.float32(8) if zero is None else zero[..., None].astype(np.float32)
    return np.asarray((whole - offset) * scale[..., None]).reshape(len(codes), -1)


@pytest.mark.parametrize("limit", [1, 5000, 8 * 2**20])
@pytest.mark.parametrize("name", STORED)
def test_codes_of_the_same_form_mean_the_same_to_the_last_bit(
    name: str, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "CHUNK_BYTES", limit)
    quantization, made, form = STORED[name]
    stored = coded(tmp_path / "x", quantization, made, form)
    promised = FORMS[form].tensors("w", WEIGHT.shape)
    assert [(a.dtype, a.shape) for a in stored] == [(d.numpy(), s) for _, d, s in promised]
    np.testing.assert_array_equal(meaning(*stored), made[1])


@pytest.mark.parametrize("name", STORED)
def test_codes_of_another_form_are_made_anew(name: str, tmp_path: Path) -> None:
    quantization, made, form = STORED[name]
    for other in {"int8", "int4:32", "int4:32:asymmetric"} - {form}:
        got = coded(tmp_path / "x", quantization, made, other)
        expected = FORMS[other].encode(made[1], "w")
        assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))


def test_a_zero_point_beside_the_middle_is_not_symmetric_whatever_is_said(tmp_path: Path) -> None:
    """The numbers decide: rows are decoded and encoded anew, within half a step."""
    made = packing.gptq(WEIGHT, group=32, symmetric=False)
    got = coded(tmp_path / "x", packing.GPTQ | {"group_size": 32}, made, "int4:32")
    assert all(np.array_equal(a, b) for a, b in zip(got, FORMS["int4:32"].encode(made[1], "w"), strict=True))


@pytest.mark.parametrize("scale", [0.0, -0.25, 1e-39])
def test_a_scale_that_encode_would_not_write_is_not_taken_over(scale: float, tmp_path: Path) -> None:
    tensors, _ = packing.int8(WEIGHT)
    scales = tensors["weight_scale"].astype(np.float32)
    scales[3] = scale
    means = tensors["weight"].astype(np.float32) * scales
    made = (tensors | {"weight_scale": scales}, means)
    got = coded(tmp_path / "x", packing.compressed("int-quantized", **ROW), made, "int8")
    assert (got[1] >= 2.0**-126).all()
    assert np.abs(meaning(*got) - means).max() <= np.abs(got[1]).max() / 2
