"""A plan as text: candidates side by side, what the architecture saves, how the answer moves, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape

from porter.render import out, print_pairs, print_rows, size

PLACES = ["device", "cards", "tp/ep/pp", "GB of a card", "sequences", "over links"]
DECODE = ["device", "cards", "tokens/s", "of a card", "ms a token", "bound by"]
PREFILL = ["device", "cards", "tokens/s", "of a card", "bound by"]
PLACED = ["device", "cards", "placed", "fullest over mean", "above the bound", "other cards", "other nodes"]
SAVED = ["device", "cards", "tokens/s", "every head cached", "every expert met"]


def print_plan(result: Mapping[str, Any]) -> None:
    """Devices and numbers of cards one below the other, then the rest of the answer."""
    _print_asked(result)
    fit = [c for c in result["candidates"] if c["fits"]]
    if fit:
        print_rows("the best split, and bytes over links of a token", PLACES, [_place(c) for c in fit])
        print_rows("decode, at most", DECODE, [_decode(c) for c in fit])
        print_rows("prefill, at most", PREFILL, [_prefill(c) for c in fit])
    for c in result["candidates"]:
        if not c["fits"]:
            out().print(escape(f"{c['device']}, {c['cards']} cards: {c['reason']}"), soft_wrap=True)
    for refused in result["refused"]:
        out().print(escape(f"{refused['device']}: not planned for, {refused['reason']}"), soft_wrap=True)
    if placed := [c for c in fit if c.get("placement")]:
        _print_placements(placed)
    _print_unknown(result["candidates"])
    if result["savings"]:
        _print_savings(result["savings"])
    if len(result["moves"]) == 1:
        _print_moves(result["moves"][0])
    for c in result["candidates"]:
        if "explain" in c:
            rows: list[list[object]] = [[e["what"], e["value"], e["formula"], e["source"]] for e in c["explain"]]
            print_rows(f"{escape(c['device'])}, {c['cards']} cards", ["what", "value", "formula", "source"], rows)
    out().print(f"a roofline, which leaves out: {'; '.join(result['left_out'])}", soft_wrap=True)


def _print_asked(result: Mapping[str, Any]) -> None:
    asked = result["asked"]
    batch = "as many sequences as fit" if asked["batch"] is None else f"{asked['batch']} sequences"
    slo = f", at most {asked['slo_milliseconds']:g} ms a token" if asked["slo_milliseconds"] else ""
    facts = {
        "family": f"{result['family']} (model_type {result['model_type']}), {result['layers']} layers",
        "parameters": f"{result['parameters']:,}, {result['active_parameters']:,} active; stored in {result['stored']}",
        "cache": f"{result['cache_numbers_per_token']:,} numbers a token",
        "asked": f"{batch} with {asked['context']:,} tokens each{slo}; prompts of {asked['prompt']:,}; "
        f"the best split for {asked['phase']}",
    }
    print_pairs(f"plan: {escape(result['path'])}", facts)


def _place(c: Mapping[str, Any]) -> list[object]:
    holds = f"{c['bytes_per_card'] / 1e9:.1f} of {c['memory_bytes'] / 1e9:.1f}"
    split = f"{c['tp']}/{c['ep']}/{c['pp']}"
    return [c["device"], c["cards"], split, holds, f"{c['sequences']:,}", size(c["link_bytes_per_token"])]


def _decode(c: Mapping[str, Any]) -> list[object]:
    rate, cards, known = c["decode_tokens_per_second"], c["cards"], " *" if c["unknown"] else ""
    return [
        c["device"],
        cards,
        speed(rate),
        speed(rate, cards),
        f"{c['milliseconds_per_token']:.1f}",
        c["bound"] + known,
    ]


def _prefill(c: Mapping[str, Any]) -> list[object]:
    rate, cards, known = c["prefill_tokens_per_second"], c["cards"], " *" if c["unknown"] else ""
    return [c["device"], cards, speed(rate), speed(rate, cards), c["prefill_bound"] + known]


def speed(rate: float | None, cards: int = 1) -> str:
    """Tokens per second, of the system or of one of its cards."""
    return "unknown" if rate is None else f"{rate / cards:,.0f}"


def _print_placements(candidates: Sequence[Mapping[str, Any]]) -> None:
    """How even the cards are, and how far tokens go, beside simpler placements."""
    rows: list[list[object]] = []
    for c in candidates:
        placement = c["placement"]
        ways = {"by the routes": placement} | {name.replace("_", " "): one for name, one in placement["simple"].items()}
        for name, one in ways.items():
            load, where = one["load"], one["traffic"]
            numbers = [f"{load['max_over_mean']:.4f}", f"{load['gap']:.2%}", f"{where['cards']:.3f}"]
            rows.append([c["device"], c["cards"], name, *numbers, f"{where['nodes']:.3f} of {placement['nodes']}"])
    print_rows("experts on the cards, by the routes of the prompts", PLACED, rows)


def _print_unknown(candidates: Sequence[Mapping[str, Any]]) -> None:
    """What is not known of each device, once."""
    found: dict[str, dict[str, None]] = {}
    for c in candidates:
        found.setdefault(c["device"], {}).update(dict.fromkeys(c["unknown"]))
    for device, facts in found.items():
        if facts:
            words = f"* {device}: unknown: {', '.join(facts)}; a bound without them"
            out().print(escape(words), soft_wrap=True)


def _print_savings(savings: Sequence[Mapping[str, Any]]) -> None:
    """Decode of the same model on the same cards without the latent, and without routing."""
    rows: list[list[object]] = [
        [
            s["device"],
            s["cards"],
            speed(s["decode_tokens_per_second"]),
            _without(s["full_heads"]),
            _without(s["dense_experts"]),
        ]
        for s in savings
        if s["full_heads"] or s["dense_experts"]
    ]
    if rows:
        print_rows("what latent attention and routing save: decode of the same model with", SAVED, rows)


def _without(other: Mapping[str, Any] | None) -> str:
    if other is None:
        return "the same"
    return (
        f"{speed(other['decode_tokens_per_second'])}, {other['times_slower']:.3g} x"
        if other["fits"]
        else "does not fit"
    )


def _print_moves(moves: Mapping[str, Any]) -> None:
    title = f"decode on {moves['cards']} cards, {moves['tp']}/{moves['ep']}/{moves['pp']}, by context and sequences"
    rows: list[list[object]] = [
        [f"{context:,}", *("does not fit" if rate is None else speed(rate) for rate in rates)]
        for context, rates in zip(moves["contexts"], moves["decode_tokens_per_second"], strict=True)
    ]
    print_rows(title, ["context", *(f"{batch:,}" for batch in moves["batches"])], rows)
