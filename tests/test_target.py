"""The schema of targets: what is read, what is refused and how, and what a front end answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from porter.errors import TargetError
from porter.target import Device, Frontend, devices, find_target, frontends
from porter.target.device import read_device
from porter.target.frontend import read_frontend

FRONTEND = """
name = "own"
title = "a front end"
vendor = "nobody"
opset = 17
opset_range = [13, 18]
opset_rule = "model"
ir_version = 8
dtypes = ["float32"]
minimum_past = 0
shapes = ["dynamic", "gears"]
gears_limit = [2, 9]
max_rank = 4
passes = ["lower"]

[sources]
opset = "a page"
ir_version = "a page"
dtypes = "a page"
minimum_past = "a page"
operators = "a page"
shapes = "a page"
gears_limit = "a page"
max_rank = "a page"

[compile]
tools = ["own", "python:ownlib"]
command = "own {model} {gears} > {output}"
gears = "--gears {dynamic_dims}"
products = ["{output}.bin"]
refusals = ["E[0-9]+"]
source = "a page"

[dtype_groups]
floats = ["float32", "float16"]

[[check]]
name = "known-operators"
reason = "it stops"
source = "a page"

[[custom_operator]]
name = "Norm"
domain = "own"
version = 1
inputs = ["x", "gamma"]
outputs = ["y"]
attributes = { mode = "int" }
required = ["mode"]
dtypes = { x = ["floats"] }
source = "a page"
meaning = "Norm (x, gamma) => (y) { y = Mul (x, gamma) }"

[[mapping]]
function = "RMSNorm"
when = { epsilon = 1e-6 }
dtypes = { x = ["floats"] }
body = "(x, weight) => (y) { y = own.Norm <mode = 1> (x, weight) }"
reason = "epsilon is fixed"
source = "a page"

[operators]
Add = [{ opsets = "8, 12-18", types = { T = ["floats", "int64"] } }]
Pad = [{ opsets = "13-16", ranks = "1-3" }, { opsets = "18", types = { input0 = ["bool"] } }]

[operator_notes]
Pad = "constant mode"
"""

DEVICE = """
name = "card"
title = "a card"
vendor = "nobody"
frontends = ["own"]
dtypes = ["float32", "int8"]
memory_bytes = 1024
rates = { float32 = 1e12 }

[link]
name = "wire"
directions = 2

[sources]
dtypes = "a page"
memory_bytes = "a page"
rates = "a page"
link = "a page"

[variants.big]
memory_bandwidth = 2e12
sources = { memory_bandwidth = "another page" }
"""


def frontend(folder: Path, text: str = FRONTEND) -> Frontend:
    path = folder / "own.toml"
    path.write_text(text, encoding="utf-8")
    return read_frontend(path)


def device(folder: Path, text: str = DEVICE) -> Device:
    path = folder / "card.toml"
    path.write_text(text, encoding="utf-8")
    return read_device(path, ["own", "other"])


# --------------------------------------------------------------------------------- what is read


def test_an_operator_is_taken_or_refused_with_one_clause(tmp_path: Path) -> None:
    own = frontend(tmp_path)
    assert own.takes("", "Add", 14, {"T": "int64", "input0": "bool"}) is None
    assert own.takes("ai.onnx", "Add", 14, {}) is None
    assert own.takes("", "Add", 14, {"T": "int8"}) == "dtype int8 for T not in float16, float32, int64"
    assert own.takes("", "Pad", 13, {}) == "known only at opsets 13-16, 18, not 17"
    assert own.takes("", "Loop", 16, {}) == "unknown operator"
    assert own.takes("com.microsoft", "Add", 1, {}) == "unknown operator"
    assert own.takes("", "Add", 14, {}, [4, 5]) == "5 dimensions, more than 4"
    assert own.has("Add", 14)
    assert not own.has("Pad", 13)


def test_the_opset_rule_decides_which_version_is_looked_up(tmp_path: Path) -> None:
    by_schema = frontend(tmp_path, FRONTEND.replace('"model"', '"since_version"'))
    assert by_schema.has("Pad", 13)
    assert by_schema.takes("", "Add", 7, {}) == "known only at opsets 8, 12-18, not 7"


def test_one_row_that_takes_it_is_enough(tmp_path: Path) -> None:
    own = frontend(tmp_path, FRONTEND.replace('"13-16"', '"13-17", types = { T = ["string"] }'))
    assert own.takes("", "Pad", 13, {"T": "string"}) is None
    ranked = frontend(tmp_path, FRONTEND.replace('"13-16"', '"17"'))
    assert ranked.takes("", "Pad", 13, {}, [4, 1]) == "an input of 1, 4 dimensions, not 1 to 3"
    assert ranked.takes("", "Pad", 13, {}, [3, 1]) is None
    again = frontend(
        tmp_path, FRONTEND.replace('"13-16", ranks = "1-3" }, { opsets = "18"', '"13-17" }, { opsets = "17"')
    )
    assert again.takes("", "Pad", 13, {"input0": "int8"}) is None


def test_a_custom_operator_is_known_by_domain_and_its_inputs_by_name_or_position(tmp_path: Path) -> None:
    own = frontend(tmp_path)
    assert own.takes("own", "Norm", 1, {"x": "float16", "gamma": "int8"}) is None
    refusal = "dtype int8 for x not in float16, float32"
    assert own.takes("own", "Norm", 1, {"x": "int8"}) == own.takes("own", "Norm", 1, {"input0": "int8"}) == refusal
    assert own.takes("own", "Other", 1, {}) == "unknown operator"


def test_a_mapping_applies_at_exactly_its_values_as_onnx_stores_them(tmp_path: Path) -> None:
    (mapping,) = frontend(tmp_path).mappings
    given = {"x": "float32", "weight": "float32"}
    assert mapping.applies({"epsilon": 1e-6, "other": 3}, given)
    assert mapping.applies({"epsilon": 9.999999974752427e-07}, given)
    assert not mapping.applies({"epsilon": 1e-5}, given)
    assert not mapping.applies({"epsilon": 1.000001e-6}, given)
    assert not mapping.applies({}, given)


def test_a_mapping_applies_at_exactly_the_inputs_of_its_signature_and_its_dtypes(tmp_path: Path) -> None:
    (mapping,) = frontend(tmp_path).mappings
    at = {"epsilon": 1e-6}
    assert mapping.applies(at, {"x": "float16", "weight": "int8"}), "nothing is said of the weight's dtype"
    assert not mapping.applies(at, {"x": "bfloat16", "weight": "float32"})
    assert not mapping.applies(at, {"x": "float32"})
    assert not mapping.applies(at, {"x": "float32", "weight": "float32", "bias": "float32"})


@pytest.mark.parametrize(
    ("condition", "holds", "fails"),
    [
        ("{ a = { at_most = 512, multiple_of = 16 } }", {"a": 512}, [{"a": 528}, {"a": 510}, {"a": None}, {}]),
        ("{ a = { at_least = 2 } }", {"a": 2}, [{"a": 1}, {"a": "two"}]),
        ('{ a = { equals = "b" } }', {"a": 3, "b": 3}, [{"a": 3, "b": 4}, {"a": 3}, {"b": 3}, {"a": None, "b": None}]),
        ('{ a = "softmax", b = 1 }', {"a": "softmax", "b": 1}, [{"a": "sigmoid", "b": 1}, {"a": "softmax", "b": 2}]),
    ],
)
def test_a_condition_is_a_value_bounds_or_another_attribute(
    tmp_path: Path, condition: str, holds: dict[str, object], fails: list[dict[str, object]]
) -> None:
    (mapping,) = frontend(tmp_path, FRONTEND.replace("{ epsilon = 1e-6 }", condition)).mappings
    given = {"x": "float32", "weight": "float32"}
    assert mapping.applies(holds, given)
    assert not any(mapping.applies(other, given) for other in fails)


def test_a_body_is_spelled_with_the_call_s_attributes(tmp_path: Path) -> None:
    text = FRONTEND.replace("<mode = 1> (x", "<mode = @a, part = @a/2, e = @e, layout = @s> (x")
    (mapping,) = frontend(tmp_path, text).mappings
    given = {"epsilon": 1e-6, "a": 6, "e": 1e-6, "s": "BNSD"}
    assert '<mode = 6, part = 3, e = 1e-06, layout = "BNSD"> (x' in mapping.spelled(given)
    assert mapping.applies(given, {"x": "float32", "weight": "float32"})
    assert not mapping.applies(given | {"a": None}, {"x": "float32", "weight": "float32"}), "there is nothing to write"
    with pytest.raises(TargetError, match="a is 7, which 2 does not divide"):
        mapping.spelled(given | {"a": 7})


def test_a_custom_operator_says_how_many_inputs_it_takes(tmp_path: Path) -> None:
    def counts(inputs: str) -> tuple[int, ...]:
        text = FRONTEND.replace('inputs = ["x", "gamma"]', f"inputs = {inputs}")
        return frontend(tmp_path, text).custom_operators["own::Norm"].input_counts

    assert counts('["x", "gamma"]') == (2,)
    assert counts('["x", "gamma", "?a", "?b"]') == (2, 3, 4)
    assert counts('["x", "gamma", "?a", "?b"]\ninput_counts = [2, 4]') == (2, 4)


def test_what_is_not_stated_is_unknown(tmp_path: Path) -> None:
    card = device(tmp_path)
    assert (card.memory_bandwidth, card.soc) == (None, None)
    assert card.link is not None
    assert card.link.bandwidth is None


def test_a_variant_adds_to_what_its_device_says(tmp_path: Path) -> None:
    big = device(tmp_path).variants["big"]
    assert (big.name, big.memory_bytes, big.memory_bandwidth) == ("big", 1024, 2e12)
    assert big.sources["memory_bandwidth"] == "another page"
    assert big.sources["rates"] == "a page"


# --------------------------------------------------------------------------------- what is refused

BAD_FRONTENDS = {
    "unknown key": ("title =", "titel =", "no key is called 'titel'", "did you mean 'title'"),
    "missing key": ('title = "a front end"', "", "title is missing", "it must be given"),
    "not TOML": ("opset = 17", "opset = ", "own.toml", "a TOML file"),
    "number for text": (
        'title = "a front end"', "title = 3",
        "title is a whole number, not text", "write text",
    ),
    "text for number": ("opset = 17", 'opset = "17"', "opset is text, not a whole number", "whole number"),
    "truth for number": ("minimum_past = 0", "minimum_past = true", "is a truth value", "whole number"),
    "date for text": ('vendor = "nobody"', "vendor = 2026-01-01", "is a date, not text", "write text"),
    "empty text": ('vendor = "nobody"', 'vendor = ""', "vendor is empty", "leave the key out"),
    "another file's name": ('name = "own"', 'name = "owl"', "name is 'owl'", "must be owl.toml"),
    "opset outside its range": (
        "opset = 17", "opset = 19",
        "19 lies outside opset_range [13, 18]", "porter writes",
    ),
    "range upside down": ("[13, 18]", "[18, 13]", "opset_range is [18, 13]", "[lowest, highest]"),
    "unknown rule": ('"model"', '"modell"', "opset_rule is 'modell'", "did you mean 'model'"),
    "dtype of no port": ('["float32"]', '["float64"]', "dtypes names 'float64'", "float32"),
    "no dtype at all": ('dtypes = ["float32"]', "dtypes = []", "dtypes is empty", "leave the key out"),
    "negative past": ("minimum_past = 0", "minimum_past = -1", "minimum_past is -1", "cache positions"),
    "pass named twice": ('["lower"]', '["lower", "lower"]', "passes names 'lower' twice", "once"),
    "pass that is no text": ('["lower"]', "[1]", "passes holds 1", "text"),
    "unknown placeholder": ("> {output}", "> {outptu}", "command asks for '{outptu}'", "did you mean 'output'"),
    "broken template": ("> {output}", "> {output", "command is no template", "doubled"),
    "unknown placeholder of gears": ("{dynamic_dims}", "{dims}", "gears asks for '{dims}'", "'dynamic_dims'"),
    "gears without a place": ("{gears} ", "", "gears has no place in the command", "write {gears}"),
    "unknown placeholder of a product": ("{output}.bin", "{out}.bin", "products asks for '{out}'", "'output'"),
    "no regular expression": ("E[0-9]+", "E[0-9", "refusals holds 'E[0-9'", "regular expression"),
    "unknown key of compile": ("tools =", "tool =", "compile: no key is called 'tool'", "did you mean 'tools'"),
    "no source of compile": ('refusals = ["E[0-9]+"]\nsource = "a page"', "", "compile: source is missing", "given"),
    "unknown shape": ('"dynamic", "gears"', '"dynamc", "gears"', "shapes names 'dynamc'", "did you mean 'dynamic'"),
    "gears limit without gears": ('"dynamic", "gears"', '"dynamic"', "shapes has no 'gears'", "leave the limit out"),
    "gears limit upside down": ("[2, 9]", "[9, 2]", "gears_limit is [9, 2]", "[lowest, highest]"),
    "rank of nothing": ("max_rank = 4", "max_rank = 0", "max_rank is 0", "leave it out"),
    "ranks that are none": ('"1-3"', '"3-1"', "ranks is '3-1'", "upwards"),
    "several ranks": ('"1-3"', '"1, 3"', "ranks is '1, 3'", "one range"),
    "assumed beside a table": ("max_rank = 4", 'max_rank = 4\nassumed = "portable"', "assumed stands", "known"),
    "fact without source": ('dtypes = "a page"\n', "", "sources: dtypes is missing", "must be given"),
    "source without fact": (
        "[sources]", '[sources]\nopsets = "a page"',
        "opsets is no fact", "did you mean 'opset'",
    ),
    "group called as a dtype": ("floats =", "int8 =", "int8 is a dtype already", "one thing"),
    "group of no dtype": (
        '"float16"]', '"float17"]',
        "names 'float17', which is no dtype", "did you mean 'float",
    ),
    "key of a check": ('reason = "it', 'raeson = "it', "check 1: no key is called 'raeson'", "mean 'reason'"),
    "check named twice": (
        "[[custom_op", '[[check]]\nname = "known-operators"\nreason = "r"\nsource = "s"\n[[custom_op',
        "twice", "once",
    ),
    "check without reason": ('reason = "it stops"\n', "", "check 1: reason is missing", "must be given"),
    "table by another name": ("[operators]", "[operator]", "no key is called 'operator'", "'operators'"),
    "opsets that are none": ('"8, 12-18"', '"8..18"', "Add 1: opsets is '8..18'", "write '8-18'"),
    "opsets downwards": ('"8, 12-18"', '"18-8"', "opsets is '18-8'", "upwards"),
    "row with another key": ('"13-16"', '"13-16", opset = 3', "Pad 1: no key is called 'opset'", "'opsets'"),
    "row that is no table": ('[{ opsets = "13-16", ranks = "1-3" }, ', "[3, ", "Pad holds 3", "table"),
    "note on no operator": (
        "Pad = \"c", "Pda = \"c",
        "Pda is not in the operator table", "did you mean 'Pad'",
    ),
    "dtypes of no input": ("dtypes = { x", "dtypes = { z", "dtypes names no input: 'z'", "known: gamma, x"),
    "custom operator of ONNX": ('domain = "own"', 'domain = "ai.onnx"', "domain is 'ai.onnx'", "[operators]"),
    "attribute of no kind": ('mode = "int"', 'mode = "integer"', "mode is 'integer'", "int, float, string, ints"),
    "required attribute that is not read": ('["mode"]', '["moed"]', "names no attribute: 'moed'", "mean 'mode'"),
    "count that cannot be": (
        'outputs = ["y"]', 'outputs = ["y"]\ninput_counts = [1]',
        "input_counts is [1]", "names 2 inputs, the first 2",
    ),
    "mapping to nothing": (
        "own.Norm", "own.Nrom",
        "names 'own::Nrom', which is not defined", "did you mean 'own::Norm'",
    ),
    "mapping to the standard": ("own.Norm <mode = 1>", "Mul", "names no operator of the vendor", "npu.NPURmsNorm"),
    "mapping without meaning": ("meaning =", "#", "which has no meaning", "nothing can be proved"),
    "mapping without signature": ("(x, weight) => (y) {", "{", "body has no signature", "without its name"),
    "dtypes of no input of a mapping": (
        '{ x = ["floats"] }\nbody', '{ z = ["floats"] }\nbody',
        "dtypes names no input: 'z'", "weight, x",
    ),
    "condition that is none": ("{ epsilon = 1e-6 }", "{ epsilon = { below = 1 } }", "called 'below'", "at_most"),
    "condition that is a list": ("{ epsilon = 1e-6 }", "{ epsilon = [1] }", "epsilon is [1]", "a table of"),
    "bound that is no number": ("= 1e-6 }", '= { at_most = "1" } }', "at_most is '1'", "write a number"),
}  # fmt: skip

BAD_DEVICES = {
    "unknown front end": ('["own"]', '["onw"]', "names 'onw', which is none", "did you mean 'own'"),
    "dtype that is none": ('"int8"]', '"int9"]', "dtypes names 'int9', which is no dtype", "did you mean 'int"),
    "beyond measure": ("memory_bytes = 1024", f"memory_bytes = 1{'0' * 400}", "beyond all measure", "leave it out"),
    "unknown key": ("memory_bytes = 1024", "memory = 1024", "no key is called 'memory'", "memory_bytes"),
    "no memory at all": ("memory_bytes = 1024", "memory_bytes = 0", "memory_bytes is 0", "leave it out"),
    "endless memory": ("bandwidth = 2e12", "bandwidth = inf", "memory_bandwidth is beyond all measure", "leave it out"),
    "rate of no dtype": ("float32 = 1e12", "fp32 = 1e12", "rates: fp32 is no dtype", "known:"),
    "three directions": ("directions = 2", "directions = 3", "directions is 3", "each way"),
    "link without name": ('name = "wire"', "", "link: name is missing", "must be given"),
    "source without fact": ("[sources]", '[sources]\nsoc = "a page"', "soc is no fact", "known:"),
    "fact without source": ('link = "a page"', "", "sources: link is missing", "must be given"),
    "variant that says it again": (
        "[variants.big]", "[variants.big]\nmemory_bytes = 9",
        "is stated for the device too", "each variant",
    ),
    "variant of a variant": (
        "[variants.big]", "[variants.big]\nvariants = {}",
        "variants is stated", "each variant",
    ),
    "variant without source": (
        "sources = { memory_bandwidth", "sources = { soc",
        "variants: big: sources: soc is no fact", "known:",
    ),
    "variant with another key": (
        "[variants.big]", "[variants.big]\nspeed = 9",
        "big: no key is called 'speed'", "known:",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message", "hint"), BAD_FRONTENDS.values(), ids=BAD_FRONTENDS.keys())
def test_a_bad_front_end_is_refused(tmp_path: Path, old: str, new: str, message: str, hint: str) -> None:
    assert old in FRONTEND
    with pytest.raises(TargetError) as caught:
        frontend(tmp_path, FRONTEND.replace(old, new, 1))
    assert str(tmp_path / "own.toml") in caught.value.message
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(("old", "new", "message", "hint"), BAD_DEVICES.values(), ids=BAD_DEVICES.keys())
def test_a_bad_device_is_refused(tmp_path: Path, old: str, new: str, message: str, hint: str) -> None:
    assert old in DEVICE
    with pytest.raises(TargetError) as caught:
        device(tmp_path, DEVICE.replace(old, new, 1))
    assert str(tmp_path / "card.toml") in caught.value.message
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize("kind", ["custom_operator", "mapping"])
def test_what_is_said_twice_is_refused(tmp_path: Path, kind: str) -> None:
    start = FRONTEND.index(f"[[{kind}]]")
    block = FRONTEND[start : FRONTEND.index("\n\n", start) + 2]
    with pytest.raises(TargetError, match="twice"):
        frontend(tmp_path, FRONTEND.replace(block, block * 2))


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_bytes(b'name = "\xff"')
    with pytest.raises(TargetError, match=r"own\.toml"):
        read_frontend(path)


# --------------------------------------------------------------------------------- finding one


def test_a_target_is_found_by_name_with_its_first_front_end() -> None:
    target = find_target("ascend-910b")
    assert (target.name, target.frontend.name) == ("ascend-910b", "cann-atc")
    assert find_target("ascend-910b", "cann-atc") == target


def test_what_is_not_known_is_named_with_what_is_near() -> None:
    with pytest.raises(TargetError, match="no target is called 'ascend-910'") as caught:
        find_target("ascend-910")
    assert caught.value.hint.startswith("did you mean 'ascend-910c'? known: ascend-910c, ascend-910b")
    assert caught.value.hint.endswith("or the path of a TOML file of your own")
    with pytest.raises(TargetError, match="no front end is called 'cann'") as caught:
        find_target("ascend-910b", "cann")
    assert "cann-atc" in caught.value.hint


def test_a_front_end_that_does_not_feed_the_device_is_refused_with_those_that_do() -> None:
    with pytest.raises(TargetError, match="'onnxruntime-musa' does not feed ascend-910b") as caught:
        find_target("ascend-910b", "onnxruntime-musa")
    assert caught.value.hint == "did you mean 'onnxruntime-cann'? known: onnxruntime-cann, cann-atc"


def test_the_data_are_read_once() -> None:
    assert devices() is devices()
    assert frontends() is frontends()


def test_a_variant_is_a_target_of_its_own() -> None:
    target = find_target("ascend-910b3")
    assert (target.name, target.device.soc, target.frontend.name) == ("ascend-910b3", "Ascend910B3", "cann-atc")
    assert target.device == devices()["ascend-910b"].variants["ascend-910b3"]


def test_a_device_without_a_front_end_is_refused() -> None:
    with pytest.raises(TargetError, match="nvidia-h100 has no front end") as caught:
        find_target("nvidia-h100")
    assert "porter targets nvidia-h100" in caught.value.hint


def test_where_no_list_is_published_the_portable_one_is_assumed(tmp_path: Path) -> None:
    table = FRONTEND[FRONTEND.index("[operators]") :]
    text = FRONTEND.replace(table, "").replace("max_rank = 4", 'max_rank = 4\nassumed = "portable"')
    own = frontend(tmp_path, text.replace('operators = "a page"\n', ""))
    assert own.assumed
    assert own.has("MatMul", 13)
    assert own.takes("", "NonZero", 13, {}) == "unknown operator"
    with pytest.raises(TargetError, match="operators is missing") as caught:
        frontend(tmp_path, text.replace('assumed = "portable"', "").replace('operators = "a page"\n', ""))
    assert 'assumed = "portable"' in caught.value.hint
    with pytest.raises(TargetError, match="assumed is 'portabel', which is no list"):
        frontend(tmp_path, text.replace('"portable"', '"portabel"').replace('operators = "a page"\n', ""))


def test_a_front_end_may_be_like_another(tmp_path: Path) -> None:
    base, text = frontends()["cann-atc"], 'name = "own"\nlike = "cann-atc"\ngears_limit = [2, 9]\n[sources]\n'
    found = frontend(tmp_path, text + 'gears_limit = "a page"\n')
    assert (found.name, found.gears_limit, base.gears_limit) == ("own", (2, 9), (2, 100))
    assert (found.operators, found.mappings, found.checks) == (base.operators, base.mappings, base.checks)
    with pytest.raises(TargetError, match="like names 'cann-act', which is none") as caught:
        frontend(tmp_path, text.replace('"cann-atc"', '"cann-act"'))
    assert caught.value.hint.startswith("did you mean 'cann-atc'?")
    with pytest.raises(TargetError, match="which is like another itself"):
        frontend(tmp_path, text.replace('"cann-atc"', '"cann-atc-950"'))


# --------------------------------------------------------------------------------- one's own, by path


def inline(text: str, header: str) -> str:
    """The front end's text as a table inside another file."""
    body = text.replace("\n[[", f"\n[[{header}.").replace("\n[", f"\n[{header}.").replace(f"[{header}.[", "[[")
    return f"\n[{header}]{body}"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("place", ["own.toml", "../frontends/own.toml"])
def test_own_device_with_its_front_end_beside_it(place: str, tmp_path: Path) -> None:
    path = write(tmp_path / "devices" / "any.toml", DEVICE)
    write(path.parent / place, FRONTEND)
    target = find_target(str(path))
    assert (target.name, target.frontend.name, target.dtypes()) == ("card", "own", ("float32",))


def test_own_device_with_a_front_end_of_porter_s(tmp_path: Path) -> None:
    path = write(tmp_path / "card.toml", DEVICE.replace('["own"]', '["onnxruntime"]'))
    assert find_target(str(path)).frontend is frontends()["onnxruntime"]


def test_own_device_with_its_front_end_inside(tmp_path: Path) -> None:
    path = write(tmp_path / "card.toml", DEVICE.replace('frontends = ["own"]\n', "") + inline(FRONTEND, "frontend"))
    target = find_target(str(path))
    assert (target.name, target.frontend.name) == ("card", "own")
    assert target.frontend == frontend(tmp_path)
    bad = path.read_text().replace("opset_rule", "opset_rul")
    with pytest.raises(TargetError, match=r"card\.toml: frontend: no key is called 'opset_rul'") as caught:
        find_target(str(write(path, bad)))
    assert caught.value.hint.startswith("did you mean 'opset_rule'?")


def test_own_front_end_alone_feeds_a_device_of_unknown_facts(tmp_path: Path) -> None:
    path = write(tmp_path / "whatever.toml", FRONTEND)
    target = find_target(str(path))
    assert (target.name, target.device.memory_bytes, target.device.dtypes) == ("own", None, ())
    assert find_target("onnxruntime-cpu", str(path)).frontend == target.frontend


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DEVICE, "names 'own', which is none"),
        (DEVICE.replace('["own"]', '["../own.toml"]'), "a path"),
        (DEVICE.replace("memory_bytes = 1024", "memry = 1"), "no key is called 'memry'"),
        (DEVICE.replace('["own"]', "3"), "frontends is a whole number"),
        (FRONTEND.replace("opset = 17", "opst = 17"), "no key is called 'opst'"),
        ("frontend = 3", "frontend is a whole number, not a list"),
        (f"name = {'[' * 9000}", "recursion"),
        (f"name = {'1' * 9000}", "4300 digits"),
        ("", "name is missing"),
    ],
)
def test_a_mistake_in_one_s_own_names_file_and_key(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "card.toml", text)
    with pytest.raises(TargetError) as caught:
        find_target(str(path))
    assert str(path) in caught.value.message
    assert message in caught.value.message
    assert caught.value.hint


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"card\.toml: No such file"):
        find_target(str(tmp_path / "card.toml"))
    with pytest.raises(TargetError, match=r"way\.toml: No such file"):
        find_target("onnxruntime-cpu", str(tmp_path / "way.toml"))
    with pytest.raises(TargetError, match="Is a directory"):
        find_target(f"{tmp_path}/")
