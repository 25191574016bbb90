"""What is true of every quantized form: its weights read as what they stand for, from any row to any other."""

from __future__ import annotations

import hashlib
from pathlib import Path

import ml_dtypes
import numpy as np
import packing
import pytest

from porter import source as reading
from porter.blocks.module import Parameter
from porter.errors import FamilyError
from porter.formats import FORMATS
from porter.source import Ledger, Source
from porter.weights import Piece, Rule, bind

BF16 = np.dtype(ml_dtypes.bfloat16)
FLOAT = np.dtype(np.float32)


@pytest.fixture(params=packing.FORMS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def weight(rows: int = 40, columns: int = 48) -> np.ndarray:
    return np.random.default_rng(rows).standard_normal((rows, columns)).astype(np.float32)


def stored(folder: Path, form: str) -> tuple[Source, np.ndarray]:
    """A checkpoint with one quantized weight and one that is none; what the first means."""
    tensors, means = packing.pack(form, weight())
    tensors["norm.weight"] = np.ones(3, np.float32)
    return Source(packing.write(folder, tensors, packing.FORMS[form][0])), means


def rows(source: Source, start: int, stop: int, dtype: np.dtype = FLOAT) -> np.ndarray:
    return np.concatenate(list(source.rows(source.checkpoint.read, "w.weight", start, stop, dtype)))


def test_it_has_the_name_and_shape_that_the_network_asks_for(tmp_path: Path, form: str) -> None:
    source, _ = stored(tmp_path, form)
    assert source.names() == {"w.weight", "norm.weight"}
    assert source.shape("w.weight") == (40, 48)
    assert source.readable("w.weight")


def test_it_reads_as_what_it_stands_for(tmp_path: Path, form: str) -> None:
    source, means = stored(tmp_path, form)
    np.testing.assert_array_equal(rows(source, 0, 40), means)
    assert np.abs(means - weight()).max() < 0.4, "the fixture is a quantized form of the weight"


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (3, 5), (5, 6), (8, 16), (7, 33), (39, 40), (4, 4)])
def test_rows_read_wherever_they_start(tmp_path: Path, form: str, start: int, stop: int) -> None:
    source, means = stored(tmp_path, form)
    read = [means[:0], *source.rows(source.checkpoint.read, "w.weight", start, stop, FLOAT)]
    np.testing.assert_array_equal(np.concatenate(read), means[start:stop])


@pytest.mark.parametrize("limit", [1, 200, 48 * 4 * 11])
def test_it_reads_alike_in_small_chunks(tmp_path: Path, form: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source, means = stored(tmp_path, form)
    monkeypatch.setattr(reading, "CHUNK_BYTES", limit)
    np.testing.assert_array_equal(rows(source, 3, 39), means[3:39])


@pytest.mark.parametrize("dtype", [BF16, np.dtype(np.float16)])
def test_it_is_rounded_once(tmp_path: Path, form: str, dtype: np.dtype) -> None:
    source, means = stored(tmp_path, form)
    np.testing.assert_array_equal(rows(source, 0, 40, dtype), means.astype(dtype))


def test_every_range_that_it_is_made_of_is_digested(tmp_path: Path, form: str) -> None:
    source, _ = stored(tmp_path, form)
    ledger = Ledger(source.checkpoint)
    for _ in source.rows(ledger.read, "w.weight", 0, 40, FLOAT):
        pass
    parts = source.quantized.weights["w.weight"].parts
    assert set(parts) == set(source.checkpoint.tensors) - {"norm.weight"}
    digests = {n: hashlib.sha256(source.checkpoint.read(n).tobytes()).hexdigest() for n in parts}
    assert ledger.ranges() == digests
    assert ledger.ranges() == {}


def test_codes_scales_and_zero_points_are_what_its_form_says(tmp_path: Path, form: str) -> None:
    source, means = stored(tmp_path, form)
    packed = source.quantized.weights["w.weight"]
    codes = packed.codes(source.checkpoint.read, 8, 24)
    order = np.arange(48) // codes.group if codes.order is None else codes.order
    zeros = 0 if codes.zeros is None else codes.zeros.astype(np.float32)[:, order]
    np.testing.assert_array_equal((codes.values.astype(np.float32) - zeros) * codes.scales[:, order], means[8:24])
    if packed.form is None:
        assert codes.order is not None or codes.values.dtype == ml_dtypes.float8_e4m3fn
    else:
        assert codes.group == (packed.form.block or 48)
        assert np.ptp(codes.values.astype(int)) < 2**packed.form.bits
        middle = {0, 2 ** (packed.form.bits - 1)}
        assert packed.form.symmetric == (codes.zeros is None or set(np.unique(codes.zeros)) <= middle)


def test_a_weight_of_another_shape_does_not_bind(tmp_path: Path, form: str) -> None:
    source, _ = stored(tmp_path, form)
    wanted = [Parameter((48, 40), name="w.weight"), Parameter((3,), name="norm.weight")]
    with pytest.raises(FamilyError, match=r"'w.weight' has shape \[40, 48\], but config.json asks for \[48, 40\]"):
        bind(wanted, (), (), source)


def test_a_rule_takes_rows_of_it(tmp_path: Path, form: str) -> None:
    source, means = stored(tmp_path, form)
    rule = Rule("keys", ((Piece("w.weight", (40, 48), 0, 12), Piece("w.weight", (40, 48), 20, 33)),))
    wanted = [Parameter((25, 48), name="keys"), Parameter((3,), name="norm.weight")]
    (found, _) = bind(wanted, (rule,), (), source).weights
    read = [rows(source, *piece.rows) for piece in found.pieces]
    np.testing.assert_array_equal(np.concatenate(read), np.concatenate([means[:12], means[20:33]]))


def test_each_part_is_needed(tmp_path: Path, form: str) -> None:
    tensors, _ = packing.pack(form, weight())
    for n, part in enumerate(tensors):
        if part == "w.g_idx" and form != "gptq-scattered":
            continue  # it may be left out where groups are neighbours
        left = {name: array for name, array in tensors.items() if name != part}
        checkpoint = packing.write(tmp_path / str(n), left, packing.FORMS[form][0])
        with pytest.raises(FamilyError) as refusal:
            Source(checkpoint)
        assert part in refusal.value.message
        assert refusal.value.hint


def test_each_part_has_its_shape_and_dtype(tmp_path: Path, form: str) -> None:
    tensors, _ = packing.pack(form, weight())
    for n, part in enumerate(tensors):
        for m, harmed in enumerate((tensors[part][..., :-1], tensors[part].astype(np.float64))):
            if harmed.dtype != np.float64 and part.rpartition(".")[2] in {"weight", "weight_packed", "qweight"}:
                continue  # this is what says how large the weight is
            checkpoint = packing.write(tmp_path / f"{n}-{m}", tensors | {part: harmed}, packing.FORMS[form][0])
            with pytest.raises(FamilyError) as refusal:
                Source(checkpoint)
            assert part in refusal.value.message or "w.weight" in refusal.value.message
            assert refusal.value.hint


def test_a_float_checkpoint_has_no_quantized_weight(tmp_path: Path) -> None:
    source = Source(packing.write(tmp_path, {"a": np.ones((2, 2), np.float32)}, None))
    assert source.quantized.weights == {}
    assert source.names() == {"a"}


@pytest.mark.parametrize("form", [name for name in packing.FORMS if not name.startswith("int8")])
def test_quantized_tensors_need_a_quantization_config(tmp_path: Path, form: str) -> None:
    tensors, _ = packing.pack(form, weight())
    with pytest.raises(FamilyError, match="no quantization_config"):
        Source(packing.write(tmp_path, tensors, None))


@pytest.mark.parametrize(
    ("quantization", "says"),
    [
        ([], "is not an object"),
        ({}, "method None"),
        ({"quant_method": "bitsandbytes"}, "'bitsandbytes' is not read"),
        ({"quant_method": ["gptq"]}, "is not read"),
    ],
)
def test_an_unknown_method_is_refused_by_name(tmp_path: Path, quantization: object, says: str) -> None:
    with pytest.raises(FamilyError) as refusal:
        Source(packing.write(tmp_path, {"a": np.ones(2, np.float32)}, quantization))
    assert says in refusal.value.message
    assert quantization == [] or all(known in refusal.value.hint for known in FORMATS)
