"""A plan as text: candidates side by side, what the architecture saves, how the answer moves, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape

from porter.render import out, print_pairs, print_rows, size

HEADS = ["device", "cards", "tp/ep/pp", "a card holds", "sequences", "ms a token", "decode", "of a card", "prefill"]
HEADS += ["of a card", "links", "bound by"]


def print_plan(result: Mapping[str, Any]) -> None:
    """Devices and numbers of cards one below the other, then the rest of the answer."""
    _print_asked(result)
    print_rows("tokens per second, at most", HEADS, [_row(c) for c in result["candidates"] if c["fits"]])
    for c in result["candidates"]:
        if not c["fits"]:
            out().print(escape(f"{c['device']}, {c['cards']} cards: {c['reason']}"), soft_wrap=True)
    for refused in result["refused"]:
        out().print(escape(f"{refused['device']}: not planned for, {refused['reason']}"), soft_wrap=True)
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


def _row(c: Mapping[str, Any]) -> list[object]:
    holds = f"{size(c['bytes_per_card'])} of {size(c['memory_bytes'])}"
    bound = c["bound"] if c["bound"] == c["prefill_bound"] else f"{c['bound']}, prefill {c['prefill_bound']}"
    return [
        c["device"],
        c["cards"],
        f"{c['tp']}/{c['ep']}/{c['pp']}",
        holds,
        f"{c['sequences']:,}",
        f"{c['milliseconds_per_token']:.1f}",
        speed(c["decode_tokens_per_second"]),
        speed(c["decode_tokens_per_second"], c["cards"]),
        speed(c["prefill_tokens_per_second"]),
        speed(c["prefill_tokens_per_second"], c["cards"]),
        f"{size(c['link_bytes_per_token'])}/token",
        bound + (" *" if c["unknown"] else ""),
    ]


def speed(rate: float | None, cards: int = 1) -> str:
    """Tokens per second, of the system or of one of its cards."""
    return "unknown" if rate is None else f"{rate / cards:,.0f}"


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
    rows: list[list[object]] = []
    for s in savings:
        for name, words in (("full_heads", "every head cached"), ("dense_experts", "every expert met")):
            other = s[name]
            if other:
                slower = f"{other['times_slower']:.3g} x slower" if other["fits"] else "does not fit"
                what = [size(other["cache_bytes_per_token"]), speed(other["decode_tokens_per_second"])]
                what.append(speed(other["prefill_tokens_per_second"]))
                rows.append([s["device"], s["cards"], words, *what, slower])
    columns = ["device", "cards", "the same model with", "cache a token", "decode", "prefill", "decode is"]
    if rows:
        print_rows("what latent attention and routing save", columns, rows)


def _print_moves(moves: Mapping[str, Any]) -> None:
    title = f"decode on {moves['cards']} cards, {moves['tp']}/{moves['ep']}/{moves['pp']}, by context and sequences"
    rows: list[list[object]] = [
        [f"{context:,}", *("does not fit" if rate is None else speed(rate) for rate in rates)]
        for context, rates in zip(moves["contexts"], moves["decode_tokens_per_second"], strict=True)
    ]
    print_rows(title, ["context", *(f"{batch:,}" for batch in moves["batches"])], rows)
