"""A plan as one HTML file: charts, tables and every number's reason; nothing is loaded and no script runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from porter.plan.charts import Bar, Series, bars, lines, short

Row = Mapping[str, Any]
STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --paper: #fff; --faint: #e2e5e9; --dim: #5c646d;
  --c0: #2f6fb3; --c1: #c4622d; --c2: #3f8f5f; --c3: #8a5bb0; --c4: #b5892a; --c5: #6b7580; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --paper: #15181b; --faint: #32383e; --dim: #9aa3ac;
  --c0: #6ba7e5; --c1: #e8915f; --c2: #6fc091; --c3: #b78fdb; --c4: #dab85e; --c5: #9aa5b0; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; padding: 1rem;
  max-width: 64rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.wide { overflow-x: auto; } .dim, figcaption, .legend { color: var(--dim); }
table { border-collapse: collapse; font-size: .9em; } th, td { padding: .25rem .6rem; text-align: right;
  border-bottom: 1px solid var(--faint); white-space: nowrap; }
th:first-child, td:first-child, .words td { text-align: left; }
.words td { white-space: normal; }
figure { margin: 1rem 0; } .legend span { margin-right: 1rem; white-space: nowrap; }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .3em; }
.bar { display: grid; grid-template-columns: 16rem 1fr 11rem; gap: .6rem; align-items: center; margin: .2rem 0; }
.bar b { display: flex; height: 1rem; } .bar em { font-style: normal; font-variant-numeric: tabular-nums; }
.bar span { overflow-wrap: anywhere; }
@media (max-width: 40rem) { .bar { grid-template-columns: 1fr auto; } .bar b { grid-column: 1 / 3; grid-row: 2; } }
svg { width: 100%; min-width: 28rem; height: auto; font-size: 11px; } svg text { fill: var(--dim); }
.grid { stroke: var(--faint); } polyline { fill: none; stroke: currentColor; stroke-width: 2; }
circle { fill: currentColor; }
""" + "".join(f"i.c{n} {{ background: var(--c{n}); }} g.c{n} {{ color: var(--c{n}); }} " for n in range(6))
TERMS = ("compute", "memory", "links")


def page(result: Row) -> str:
    """The whole page of a plan's document."""
    fit = [c for c in result["candidates"] if c["fits"]]
    body = [
        f"<h1>Plan: {escape(result['path'])}</h1>",
        f"<p>{escape(_asked(result))}</p>",
        _rates("Decode, tokens per second of a card, at most", fit, "decode_tokens_per_second"),
        _rates("Prefill, tokens per second of a card, at most", fit, "prefill_tokens_per_second"),
        _terms(fit),
        "<h2>Side by side</h2>",
        _candidates(fit),
        _refusals(result),
        "<h2>What latent attention and routing save</h2>" if result["savings"] else "",
        _saved(result["savings"]),
        "<h2>How it moves</h2>" if result["moves"] else "",
        _by_context(result["moves"]),
        _by_batch(result["moves"]),
        *map(_grid, result["moves"]),
        *_explained(result["candidates"]),
        "<h2>What a roofline leaves out</h2>",
        _list(result["left_out"]),
    ]
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>porter plan: {escape(result['path'])}</title><style>{STYLE}</style></head><body>"
    )
    return f"{head}\n{chr(10).join(part for part in body if part)}\n</body></html>\n"


def _asked(result: Row) -> str:
    asked = result["asked"]
    batch = "as many sequences as fit" if asked["batch"] is None else f"{asked['batch']} sequences"
    slo = f", at most {asked['slo_milliseconds']:g} ms a token" if asked["slo_milliseconds"] else ""
    sizes = f"{result['parameters']:,} parameters, {result['active_parameters']:,} active, stored in {result['stored']}"
    work = f"{batch} with {asked['context']:,} tokens each{slo}; prompts of {asked['prompt']:,}"
    return f"{result['model_type']}: {sizes}. {work}; the best split for {asked['phase']}."


def _name(c: Row) -> str:
    return f"{c['device']} x {c['cards']}"


def _rates(title: str, fit: Sequence[Row], field: str) -> str:
    """One colour for each device."""
    devices = list(dict.fromkeys(c["device"] for c in fit))
    known = [(devices.index(c["device"]), _name(c), c[field] / c["cards"]) for c in fit if c[field] is not None]
    return bars(title, [Bar(name, ((colour, rate),), f"{rate:,.0f}") for colour, name, rate in known])


def _terms(fit: Sequence[Row]) -> str:
    """What a token of decode waits for; the terms overlap, so that a step takes less than their sum."""
    rows = []
    for c in fit:
        terms = [1e3 * c["pp"] * c["seconds"]["decode"][term] for term in TERMS]
        rows.append(Bar(_name(c), tuple(enumerate(terms)), f"{c['milliseconds_per_token']:,.1f} ms, {c['bound']}"))
    return bars("Decode, milliseconds of a token by what takes them (they overlap)", rows, TERMS) if rows else ""


def _candidates(fit: Sequence[Row]) -> str:
    columns = (
        "device",
        "cards",
        "tp / ep / pp",
        "GB a card",
        "sequences",
        "ms a token",
        "decode",
        "prefill",
        "MB over links a token",
    )
    rows = [
        (
            c["device"],
            c["cards"],
            f"{c['tp']} / {c['ep']} / {c['pp']}",
            f"{c['bytes_per_card'] / 1e9:.1f} of {c['memory_bytes'] / 1e9:.1f}",
            f"{c['sequences']:,}",
            f"{c['milliseconds_per_token']:,.1f}",
            _rate(c["decode_tokens_per_second"]),
            _rate(c["prefill_tokens_per_second"]),
            f"{c['link_bytes_per_token'] / 1e6:,.3g}",
            f"{c['bound']} / {c['prefill_bound']}",
            ", ".join(c["unknown"]) or "nothing",
        )
        for c in fit
    ]
    return _table((*columns, "bound by", "unknown"), rows)


def _rate(rate: float | None) -> str:
    return "unknown" if rate is None else f"{rate:,.0f}"


def _refusals(result: Row) -> str:
    told = [f"{c['device']}, {c['cards']} cards: {c['reason']}" for c in result["candidates"] if not c["fits"]]
    return _list([*told, *(f"{r['device']}: not planned for, {r['reason']}" for r in result["refused"])])


def _saved(savings: Sequence[Row]) -> str:
    rows = []
    for s in savings:
        for name, words in (("full_heads", "every head cached"), ("dense_experts", "every expert met")):
            other = s[name]
            if other:
                slower = f"{other['times_slower']:.3g} times" if other["fits"] else "does not fit"
                speeds = (_rate(other["decode_tokens_per_second"]), _rate(other["prefill_tokens_per_second"]))
                rows.append((_name(s), words, f"{other['cache_bytes_per_token'] / 1e3:,.1f}", *speeds, slower))
    return _table(
        ("cards", "the same model with", "kB of cache a token", "decode", "prefill", "decode is slower"), rows
    )


def _by_context(moves: Sequence[Row]) -> str:
    series = [
        Series(
            _name(m),
            tuple((x, y / m["cards"]) for x, y in zip(m["contexts"], m["most_tokens_per_second"], strict=True) if y),
        )
        for m in moves
    ]
    return lines(
        "Decode by context, as many sequences as fit", series, "tokens in the cache", "tokens per second of a card"
    )


def _by_batch(moves: Sequence[Row]) -> str:
    """At the shortest context, where most fits."""
    series = [
        Series(
            _name(m),
            tuple(
                (x / m["cards"], y / m["cards"])
                for x, y in zip(m["batches"], m["decode_tokens_per_second"][0], strict=True)
                if y
            ),
        )
        for m in moves
    ]
    shortest = f"{moves[0]['contexts'][0]:,}" if moves else ""
    return lines(
        f"Decode by batch, {shortest} tokens of context", series, "sequences of a card", "tokens per second of a card"
    )


def _grid(m: Row) -> str:
    rows = [
        (f"{context:,}", *(short(rate) if rate else "-" for rate in rates), short(most) if most else "-")
        for context, rates, most in zip(
            m["contexts"], m["decode_tokens_per_second"], m["most_tokens_per_second"], strict=True
        )
    ]
    columns = ("context", *(f"{batch:,}" for batch in m["batches"]), "as many as fit")
    title = f"{_name(m)}, split {m['tp']} / {m['ep']} / {m['pp']}: decode by context and sequences"
    return f'<p class="dim">{escape(title)}</p>{_table(columns, rows)}'


def _explained(candidates: Sequence[Row]) -> Iterable[str]:
    for c in candidates:
        if "explain" in c:
            rows = [(e["what"], e["value"], e["formula"], e["source"]) for e in c["explain"]]
            table = _table(("what", "value", "formula", "source"), rows, "words")
            yield f"<details><summary>{escape(_name(c))}: every number</summary>{table}</details>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]], kind: str = "") -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _list(words: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in words)}</ul>" if words else ""
