"""`porter plan` as its user meets it."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from command import run, spawn
from models import DEEPSEEK_V3, FIVE, LLAMA, demand, write

from porter.census import census
from porter.families import family_of
from porter.plan.demand import demand_of

CONTRACT = {
    *("device", "cards", "tp", "ep", "pp", "fits", "bytes_per_card", "prefill_tokens_per_second"),
    *("decode_tokens_per_second", "link_bytes_per_token", "bound"),
}
CARD = """
name = "mine"
memory_bytes = 16_000_000_000
memory_bandwidth = 1e12
"""


@pytest.fixture(scope="module")
def v3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sizes of DeepSeek-V3, and no weight."""
    return write(tmp_path_factory.mktemp("plan") / "deepseek-v3", DEEPSEEK_V3)


@pytest.fixture(scope="module")
def five(v3: Path) -> dict[str, Any]:
    """Its plan over five devices."""
    return run("plan", v3, "--target", ",".join(FIVE), "--json").json()


def plan(path: Path, *options: object, target: str = "nvidia-h100") -> dict[str, Any]:
    return run("plan", path, "--target", target, *options, "--json").json()


# ------------------------------------------------------------------------------ the answer


def test_five_devices_side_by_side(five: dict[str, Any]) -> None:
    found = five["candidates"]
    assert {*found[0]} >= CONTRACT
    cards = {name: [c["cards"] for c in found if c["device"] == name] for name in FIVE}
    assert cards == {
        "nvidia-h20": [8, 16, 32],
        "nvidia-h100": [16, 32, 64],
        "ascend-910b3": [16, 32, 64],
        "ascend-910c": [16, 32, 64],
        "moore-threads-s5000": [16, 32, 64],
    }
    for c in found:
        assert c["fits"]
        assert c["tp"] * c["ep"] * c["pp"] == c["cards"]
        assert c["bytes_per_card"] == sum(c["bytes"].values()) <= c["memory_bytes"]
        assert c["bound"] in {"compute", "memory", "links"}
        assert c["decode_tokens_per_second"] >= c["decode_tokens_per_second_in_turn"] > 0
        assert c["prefill_tokens_per_second"] >= c["prefill_tokens_per_second_in_turn"] > 0
        assert c["sequences"] / c["milliseconds_per_token"] * 1e3 == pytest.approx(
            c["decode_tokens_per_second"], rel=1e-3
        )


def test_the_model_is_told_as_inspect_tells_it(five: dict[str, Any]) -> None:
    family = family_of(DEEPSEEK_V3)
    counted = census(family.build(family.read(DEEPSEEK_V3), "auto"))
    assert (five["parameters"], five["active_parameters"]) == (counted.parameters, counted.active_parameters)
    assert five["cache_numbers_per_token"] == 61 * counted.cache_width
    assert five["stored"] == "float8e4m3fn"


def test_fewer_cards_do_not_hold_it(v3: Path) -> None:
    (found,) = plan(v3, "--cards", 8)["candidates"]
    assert {*found} >= CONTRACT
    assert (found["fits"], found["decode_tokens_per_second"], found["bound"]) == (False, None, None)
    assert found["bytes_per_card"] > found["memory_bytes"]
    assert "a card would hold" in found["reason"]


def test_what_is_not_known_is_named_and_not_made_up(five: dict[str, Any]) -> None:
    unknown = {(c["device"], c["cards"]): c["unknown"] for c in five["candidates"]}
    assert {"rates.bfloat16", "link.between_nodes"} <= set(unknown["moore-threads-s5000", 16])
    assert unknown["nvidia-h20", 8] == ["link.latency"]
    assert "link.between_nodes" in unknown["nvidia-h20", 16]
    assert unknown["ascend-910b3", 32] == []


def test_what_latent_attention_and_routing_save(five: dict[str, Any]) -> None:
    for saved in five["savings"]:
        full, dense = saved["full_heads"], saved["dense_experts"]
        assert full["times_slower"] > 3
        assert dense["times_slower"] > 1
        assert full["cache_bytes_per_token"] == 61 * 128 * 320 * 2
        assert full["sequences"] < dense["sequences"]
        assert dense["multiplied_parameters"] > 17 * full["multiplied_parameters"]


def test_a_dense_model_with_few_heads_saves_nothing(tmp_path: Path) -> None:
    (saved,) = plan(write(tmp_path / "llama", LLAMA))["savings"]
    assert (saved["full_heads"], saved["dense_experts"]) == (None, None)


def test_how_it_moves_with_batch_and_context(five: dict[str, Any]) -> None:
    for moves in five["moves"]:
        for row in moves["decode_tokens_per_second"]:
            rates = [rate for rate in row if rate is not None]
            assert rates == sorted(rates)
            assert row == rates + [None] * (len(row) - len(rates)), "what does not fit comes last"
        for column in zip(*moves["decode_tokens_per_second"], strict=True):
            rates = [rate for rate in column if rate is not None]
            assert rates == sorted(rates, reverse=True)
        for most, row in zip(moves["most_tokens_per_second"], moves["decode_tokens_per_second"], strict=True):
            assert all(rate <= most for rate in row if rate is not None)


def test_a_limit_on_time_is_kept(v3: Path) -> None:
    found = plan(v3, "--cards", 64, "--slo", 15)["candidates"][0]
    assert found["milliseconds_per_token"] <= 15
    assert found["limit"] == "time"
    (found,) = plan(v3, "--cards", 16, "--slo", 0.5)["candidates"]
    assert "within 0.5 ms" in found["reason"]


def test_what_is_pinned_is_planned_for(v3: Path) -> None:
    (found,) = plan(v3, "--ep", 144, "--batch", 12672, "--context", 4989)["candidates"]
    assert (found["tp"], found["ep"], found["pp"], found["cards"]) == (1, 144, 1, 144)
    assert found["experts_per_card"] == 2
    assert (found["sequences"], found["limit"]) == (12672, "asked")


def test_bytes_over_links_are_whole_without_routes(tmp_path: Path) -> None:
    (found,) = plan(write(tmp_path / "llama", LLAMA), "--tp", 2, "--pp", 2)["candidates"]
    sums = 9 * 2 * 1 * 64 * 2
    assert found["link_bytes_per_token"] == sums + 2 * 64 * 2 + 1000 * 2


@pytest.mark.parametrize("name", ["deepseek", "llama"])
def test_a_port_has_the_bytes_that_were_planned(name: str, request: pytest.FixtureRequest) -> None:
    """Beyond them a file has its header."""
    checkpoint, port = (request.getfixturevalue(fixture) for fixture in (name, f"{name}_port"))
    (found,) = plan(checkpoint, "--cards", 1, "--dtype", "float32")["candidates"]
    weights, told = json.loads((port / "porter.json").read_text()), run("inspect", port, "--json").json()
    written = sum(file["bytes"] for file in weights["weights"])
    assert found["bytes"]["weights"] <= written < 1.02 * found["bytes"]["weights"] + 20_000
    assert found["port"]["weight_bytes"] == found["bytes"]["weights"]
    assert found["port"]["cache_bytes_per_token"] == told["layers"] * told["cache_bytes_per_token_per_layer"]
    assert found["port"]["link_bytes_per_token"] == 0


# ------------------------------------------------------------------------------ what it is given


def test_a_config_alone_is_enough(v3: Path, tmp_path: Path) -> None:
    shutil.copy(v3 / "config.json", tmp_path / "v3.json")
    folder, file = plan(v3), plan(tmp_path / "v3.json")
    assert {**folder, "path": ""} == {**file, "path": ""}


def test_a_target_of_ones_own(tmp_path: Path) -> None:
    """Without a rate prefill is unknown, not free."""
    card, model = tmp_path / "mine.toml", write(tmp_path / "llama", LLAMA)
    card.write_text(CARD)
    (found,) = plan(model, "--cards", 1, target=str(card))["candidates"]
    assert (found["prefill_tokens_per_second"], found["decode_tokens_per_second"]) == (None, None)
    assert found["unknown"] == ["rates.bfloat16"]
    card.write_text(CARD + "rates = { bfloat16 = 1e14 }\n")
    (found,) = plan(model, "--cards", 1, target=str(card))["candidates"]
    assert found["prefill_tokens_per_second"] > 0


def test_a_device_of_which_too_little_is_known_is_left_out_with_a_reason(v3: Path) -> None:
    found = plan(v3, target="sophgo-bm1690,nvidia-h100")
    assert found["refused"] == [{"device": "sophgo-bm1690", "reason": "unknown: memory_bytes, memory_bandwidth"}]
    assert {c["device"] for c in found["candidates"]} == {"nvidia-h100"}
    refusal = run("plan", v3, "--target", "sophgo-bm1690").refusal()
    assert "no target can be planned for: sophgo-bm1690: unknown: memory_bytes, memory_bandwidth" in refusal
    refusal = run("plan", v3, "--target", "ascend-910b").refusal()
    assert "ascend-910b3" in refusal


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--cards", "8,none"], "no number of cards"),
        (["--cards", "0"], "no number of cards"),
        (["--tp", "3"], "the next that does is 4"),
        (["--tp", "4", "--cards", "8"], "is not tp x ep x pp = 4"),
        (["--context", "200000"], "163840 positions"),
        (["--prompt", "200000"], "163840 positions"),
        (["--report", "plan.pdf"], "no .html"),
        (["--report", "/nowhere/plan.html"], "cannot be written"),
        (["--dtype", "float7"], "not one of"),
    ],
)
def test_bad_input_is_refused_with_a_way_out(options: list[str], says: str, v3: Path) -> None:
    assert says in run("plan", v3, "--target", "nvidia-h100", *options).refusal()


def test_nothing_to_read_is_refused(tmp_path: Path) -> None:
    assert "config.json is missing" in run("plan", tmp_path, "--target", "nvidia-h100").refusal()


def test_cards_that_nothing_divides_over_say_which_do(tmp_path: Path) -> None:
    (found,) = plan(write(tmp_path / "llama", LLAMA), "--cards", 5)["candidates"]
    assert found["reason"] == "heads, columns, experts and layers do not divide over 5 cards; 6 do"


# ------------------------------------------------------------------------------ how it is told


def test_the_table_has_every_device_and_its_reasons(v3: Path) -> None:
    told = " ".join(run("plan", v3, "--target", ",".join((*FIVE, "sophgo-bm1690"))).out.split())
    assert all(name in told for name in FIVE)
    assert "sophgo-bm1690: not planned for, unknown: memory_bytes" in told
    assert "* moore-threads-s5000: unknown: rates.bfloat16" in told
    assert all(word in told for word in ("latent attention and routing save", "decode, at most", "16.3 MB"))


def test_every_number_is_explained(v3: Path) -> None:
    (first, *_) = plan(v3, "--explain", target="ascend-910b3")["candidates"]
    lines = {line["what"]: line for line in first["explain"]}
    assert lines["memory bandwidth"]["value"] == "1600 GB/s"
    assert "msmodeling" in lines["memory bandwidth"]["source"]
    assert lines["bytes of a card"]["value"] == f"{first['bytes_per_card']:,} bytes"
    assert f"{first['decode_tokens_per_second']:,.0f} tokens/s" == lines["decode"]["value"]
    assert f"{first['prefill_tokens_per_second']:,.0f} tokens/s" == lines["prefill"]["value"]
    sent = [float(line["value"].split()[0].replace(",", "")) for what, line in lines.items() if "over links" in what]
    assert sum(sent) == pytest.approx(first["link_bytes_per_token"], abs=len(sent))
    assert all(line["formula"] for line in lines.values())
    assert "bytes of a card" in run("plan", v3, "--target", "ascend-910b3", "--explain").out


class Page(HTMLParser):
    """What a page has: its tags with their attributes, its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_stands_alone(v3: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.html"
    told = run("plan", v3, "--target", ",".join(FIVE), "--explain", "--report", file, "--json").json()
    page = Page(file.read_text())
    names = [name for name, _ in page.tags]
    assert {"svg", "polyline", "table", "figure", "details"} <= set(names)
    assert not {"script", "link", "img", "iframe"} & set(names)
    assert not any({"src", "href", "onload"} & set(attributes) for _, attributes in page.tags)
    assert "url(" not in file.read_text()
    assert "prefers-color-scheme: dark" in file.read_text()
    for c in told["candidates"]:
        assert f"{c['decode_tokens_per_second']:,.0f}" in page.text
    assert len([name for name in names if name == "polyline"]) == 2 * len(FIVE)


def test_what_strangers_wrote_is_text_on_the_page(v3: Path, tmp_path: Path) -> None:
    folder = tmp_path / "<b onload=x>&amp;"
    shutil.copytree(v3, folder)
    card = tmp_path / "mine.toml"
    card.write_text(CARD.replace('"mine"', "'<script>\"&'") + "rates = { bfloat16 = 1e14 }\n")
    file = tmp_path / "plan.html"
    run("plan", folder, "--target", f"{card},nvidia-h100", "--report", file, "--explain", "--json").json()
    page = Page(file.read_text())
    assert not any(name in {"script", "b onload"} or "onload" in attributes for name, attributes in page.tags)
    assert "<b onload=x>&amp;" in page.text
    assert '<script>"&' in page.text


def test_the_document_has_no_number_that_json_lacks(five: dict[str, Any]) -> None:
    assert re.search(r"NaN|Infinity", json.dumps(five)) is None


def test_planning_builds_no_graph_and_keeps_the_network(tmp_path: Path) -> None:
    """The same network can be counted after it was looked at."""
    family = family_of(LLAMA)
    network = family.build(family.read(LLAMA), "auto")
    before = [parameter.name for parameter in network.named_parameters()]
    assert demand_of(network) == demand(LLAMA)
    assert [parameter.name for parameter in network.named_parameters()] == before


PROGRAM = """
import sys
from porter.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    loaded = {"torch", "transformers", "onnxruntime", "ray"} & set(sys.modules)
    print("code", end.code or 0, *sorted(loaded))
"""


def test_planning_loads_no_runtime(v3: Path) -> None:
    done = spawn("plan", v3, "--target", "nvidia-h100", program=PROGRAM)
    assert done.out.splitlines()[-1] == "code 0"
