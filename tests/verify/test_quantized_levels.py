"""A quantized port is judged beside an original with the same weights; what the codes cost is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from measured import TARGET, checks, report, round_floats
from onnx import TensorProto

from porter.port import convert

CHECKPOINT = tiny.SAMPLES / "deepseek-v3-tiny"  # trained, so that codes cost something


def cost(found: dict[str, Any], side: str = "port") -> float:
    return float(found["cost: KL mean"][side])


def test_the_codes_are_no_error_of_the_port_but_cost_something(tmp_path: Path) -> None:
    dtype, costs = "bfloat16", []
    tables: list[list[tuple[str, float | None]]] = []
    for quantize in ("none", "int4:32"):
        port = tmp_path / quantize
        convert(CHECKPOINT, TARGET[dtype], port, dtype=dtype, quantize=quantize)
        document = report(port, CHECKPOINT, "distribution")
        found = checks(document)
        assert document["status"] == "pass"
        assert found["cost: KL mean"]["status"] == "measured"
        assert cost(found) == pytest.approx(
            cost(found, "original"), rel=1
        )  # an original with the same codes pays alike
        tables.append([(check["name"], check["limit"]) for check in document["levels"][0]["checks"]])
        costs.append(cost(found))
    assert costs[1] > max(5e-3, 10 * costs[0])
    assert found["cost: perplexity ratio"]["value"] > 1.001
    assert tables[0] == tables[1]  # the same measures, with the same limits
    assert {"KL 99.9 %", "cost: KL largest", "cost: top-1 agreement", "cost: expert load, largest difference"} <= set(
        found
    )


def test_a_quantized_port_that_rounds_too_much_is_found_under_what_its_codes_cost(tmp_path: Path) -> None:
    convert(CHECKPOINT, TARGET["float16"], tmp_path / "port", dtype="float16", quantize="int4:32")
    assert report(tmp_path / "port", CHECKPOINT, "dtype")["status"] == "pass"
    round_floats(tmp_path / "port", r"norm\.RMSNorm\.", TensorProto.BFLOAT16)
    found = report(tmp_path / "port", CHECKPOINT, "dtype")
    assert checks(found)["logits"]["status"] == "fail"
