"""The original's own reading of quantised weights: words written by hand, and what does not go together."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from porter.errors import ParityError
from porter.verify.dequantise import dequantise

Tensors = dict[str, torch.Tensor]
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 4}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 1, "version": "gemm"}
FP8 = {"quant_method": "fp8", "weight_block_size": [2, 3]}


def words(*rows: list[int]) -> torch.Tensor:
    """Words of 32 bits as they are written down."""
    return torch.tensor(rows, dtype=torch.int64).to(torch.int32)


def compressed(**weights: Any) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}}


def halves(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float16)


# One output of eight inputs with the codes 0 … 7, and groups of four inputs whose zero points are stored as 7 and 1.
PACKED_UP: Tensors = {
    "qweight": words([0x76543210]),
    "qzeros": words([0x7], [0x1]),
    "scales": halves([0.5], [2.0]),
}
# Eight outputs of one input with the codes 0 … 7, the even ones in the lower half of the word; zero points 1 and 7 for
# the first and the last.
ACROSS: Tensors = {
    "qweight": words([0x75316420]),
    "qzeros": words([0x70000001]),
    "scales": halves([0.5, 1, 1, 1, 1, 1, 1, 2.0]),
}
ONE_ROW: Tensors = {
    "weight_packed": words([0x76543210]),
    "weight_shape": torch.tensor([1, 8]),
    "weight_scale": torch.tensor([[0.5, 2.0]], dtype=torch.bfloat16),
}
INT8: Tensors = {
    "weight": torch.tensor([[-128, 0, 127], [1, 2, 3]], dtype=torch.int8),
    "weight_scale": torch.tensor([[0.5], [0.25]], dtype=torch.bfloat16),
}
# 1, 1.5, -2, 448 in float8_e4m3fn, in blocks of two rows and three columns, the last smaller.
EIGHTHS: Tensors = {
    "weight": torch.tensor([[0x38, 0x3C, 0xC0, 0x7E]] * 3, dtype=torch.uint8).view(torch.float8_e4m3fn),
    "weight_scale_inv": torch.tensor([[1.0, 0.5], [2.0, 3.0]]),
}


def case(parts: Tensors, quantisation: dict[str, Any], wanted: list[list[float]], name: str) -> Any:
    return pytest.param(parts, quantisation, wanted, id=name)


@pytest.mark.parametrize(
    ("parts", "quantisation", "wanted"),
    [
        case(EIGHTHS, FP8, [[1, 1.5, -2, 224], [1, 1.5, -2, 224], [2, 3, -4, 1344]], "fp8"),
        case(PACKED_UP, GPTQ, [[-4, -3.5, -3, -2.5, 4, 6, 8, 10]], "gptq"),
        case(
            PACKED_UP,
            GPTQ | {"checkpoint_format": "gptq_v2"},
            [[-3.5, -3, -2.5, -2, 6, 8, 10, 12]],
            "gptq-v2",
        ),
        case(
            PACKED_UP | {"g_idx": torch.tensor([1, 0, 0, 0, 0, 1, 1, 1], dtype=torch.int32)},
            GPTQ,
            [[-4, -3.5, -3, -2.5, -2, 6, 8, 10]],
            "gptq-scattered",
        ),
        case(
            {"qweight": words([0xFF800100]), "qzeros": words([0x7F]), "scales": halves([0.5])},
            GPTQ | {"bits": 8, "group_size": -1},
            [[-64, -63.5, 0, 63.5]],
            "gptq-8-bits",
        ),
        case(ACROSS, AWQ, [[-0.5], [1], [2], [3], [4], [5], [6], [0]], "awq"),
        case(ONE_ROW, compressed(), [[-4, -3.5, -3, -2.5, -8, -6, -4, -2]], "packed"),
        case(
            ONE_ROW | {"weight_zero_point": words([0x9, 0x6])},
            compressed(),
            [[-4.5, -4, -3.5, -3, -4, -2, 0, 2]],
            "packed-asymmetric",
        ),
        case(
            ONE_ROW | {"weight_g_idx": torch.tensor([1, 0, 1, 0, 1, 0, 1, 0], dtype=torch.int32)},
            compressed(),
            [[-16, -3.5, -12, -2.5, -8, -1.5, -4, -0.5]],
            "packed-scattered",
        ),
        case(INT8, compressed(), [[-64, 0, 63.5], [0.25, 0.5, 0.75]], "int8"),
        case(
            INT8 | {"weight_zero_point": torch.tensor([[-128], [1]], dtype=torch.int8)},
            compressed(),
            [[0, 64, 127.5], [0, 0.25, 0.5]],
            "int8-asymmetric",
        ),
        case(INT8 | {"weight_scale": torch.tensor([0.5])}, compressed(), [[-64, 0, 63.5], [0.5, 1, 1.5]], "one-scale"),
        case(
            {"weight": EIGHTHS["weight"], "weight_scale": EIGHTHS["weight_scale_inv"]},
            compressed(block_structure=[2, 3]),
            [[1, 1.5, -2, 224], [1, 1.5, -2, 224], [2, 3, -4, 1344]],
            "float8-blocks",
        ),
        case(
            {"weight": EIGHTHS["weight"][:2], "weight_scale": torch.tensor([[2.0], [0.5]])},
            compressed(),
            [[2, 3, -4, 896], [0.5, 0.75, -1, 224]],
            "float8-rows",
        ),
    ],
)
def test_words_written_by_hand(parts: Tensors, quantisation: dict[str, Any], wanted: list[list[float]]) -> None:
    plain = {"a.bias": torch.ones(2), "norm.weight": torch.ones(3)}
    found = dequantise({f"a.b.{end}": tensor for end, tensor in parts.items()} | plain, quantisation)
    assert set(found) == {"a.b.weight", "a.bias", "norm.weight"}
    assert found["a.b.weight"].dtype == torch.float32
    assert found["a.b.weight"].tolist() == wanted


def test_scales_of_activations_are_no_weights() -> None:
    given = {f"w.{end}": tensor for end, tensor in INT8.items()} | {"w.input_scale": torch.ones(1)}
    assert set(dequantise(given, compressed())) == {"w.weight"}


@pytest.mark.parametrize(
    ("parts", "quantisation", "says"),
    [
        (PACKED_UP | {"scales": halves([0.5])}, GPTQ, "w cannot be multiplied out"),
        (PACKED_UP | {"qweight": PACKED_UP["qweight"].long()}, GPTQ, "does not hold numbers of 4 bits"),
        (PACKED_UP, GPTQ | {"bits": 3}, "numbers of 3 bits"),
        (
            {"qweight": words(*[[0]] * 3), "qzeros": words([0], [0]), "scales": halves([1] * 8, [1] * 8)},
            AWQ,
            "3 columns are not 2 equal",
        ),
        (ONE_ROW | {"weight_shape": torch.tensor([1, 9])}, compressed(), "9 numbers of 4 or 8 bits do not fill 1"),
        (ONE_ROW | {"weight_scale": torch.ones(1, 3)}, compressed(), "8 columns are not 3 equal groups"),
        (INT8, compressed(block_structure=[2, 3]), "blocks of"),
        ({"weight_scale": torch.ones(1)}, compressed(), r"KeyError\('weight'\)"),
        (EIGHTHS | {"weight_scale_inv": torch.ones(1, 2)}, FP8, r"scales \(2, 2\)"),
        (EIGHTHS, {"quant_method": "nf4"}, "'nf4' cannot be read for the original"),
    ],
)
def test_what_does_not_go_together_is_refused(parts: Tensors, quantisation: dict[str, Any], says: str) -> None:
    with pytest.raises(ParityError, match=says) as refusal:
        dequantise({f"w.{end}": tensor for end, tensor in parts.items()}, quantisation)
    assert refusal.value.hint
