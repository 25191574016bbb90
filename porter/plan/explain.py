"""Every number of a candidate with its formula, what goes into it, and where that was read."""

from __future__ import annotations

from porter.plan.form import BYTES
from porter.plan.roofline import Machine, Step
from porter.plan.search import Found

Line = dict[str, str]


def explain(found: Found) -> list[Line]:
    """Lines of {what, value, formula, source}, from what a card holds to what the system reaches."""
    machine = found.roofline.machine
    return [
        *_held(found),
        *_rates(machine),
        *_step(found.decode),
        *_reached(found),
        *_step(found.prefill),
        *_prefill(found),
        *_links(found),
    ]


def _line(what: str, value: str, formula: str, source: str) -> Line:
    return {"what": what, "value": value, "formula": formula, "source": source}


def _held(found: Found) -> list[Line]:
    placed, machine, work, split = found.roofline.placed, found.roofline.machine, found.ask.work, found.split
    form = machine.form
    stage, weights, cache = max(placed.held, key=lambda held: held[1])
    layers = sum(count for _, count in stage.layers)
    width = sum(layer.attention.width * count for layer, count in stage.layers)
    share = {placed.cache_share(layer.attention) for layer, _ in stage.layers}
    experts = f", {placed.experts_held} of {placed.demand.experts} experts a layer" if placed.demand.experts else ""
    of = "config.json through the network that is built of it"
    return [
        _line(
            "weights of a card",
            f"{weights:,} bytes",
            f"{layers} of {len(placed.demand.layers)} layers{experts}; cut over tp = {split.tp} but for low-rank "
            f"projections, routers and norms; {float(BYTES[form.weights]):g} bytes of {form.weights}, else "
            f"{form.wide}",
            of,
        ),
        _line(
            "cache of a token on a card",
            f"{cache:,} bytes",
            f"{width} numbers in {layers} layers x {float(BYTES[form.cache]):g} bytes of {form.cache} / "
            f"{max(share)} ranks",
            of,
        ),
        _line(
            "cache of a card",
            f"{found.whole * work.context * cache:,} bytes",
            f"{found.whole} sequences of a group x {work.context} tokens x {cache} bytes",
            f"as many as {found.limit} {'was' if found.limit == 'asked' else 'allows'}",
        ),
        _line(
            "bytes of a card",
            f"{placed.bytes_per_card(found.whole, work):,} bytes",
            f"weights + cache + activations of {work.prompts * work.prompt} tokens: (4 x {placed.demand.hidden} + "
            f"{placed.demand.widest} / {split.tp}) x {form.activation} bytes each, and logits of what is put out",
            f"a card has {machine.device.memory_bytes:,}: {_source(machine, 'memory_bytes')}",
        ),
    ]


def _rates(machine: Machine) -> list[Line]:
    lines = [
        _line(
            f"rate in {dtype}",
            "unknown" if rate is None else f"{rate.value / 1e12:g} T/s",
            "dense, of one card",
            "" if rate is None else rate.said,
        )
        for dtype, rate in machine.rates.items()
        if dtype in (machine.form.multiplied, machine.form.wide)
    ]
    bandwidth = machine.device.memory_bandwidth or 0
    lines.append(
        _line("memory bandwidth", f"{bandwidth / 1e9:g} GB/s", "of one card", _source(machine, "memory_bandwidth"))
    )
    fabric = machine.fabric
    if fabric.within:
        directions = {1: "each way", 2: "half of both ways together", None: "taken as each way: nobody says"}
        said = directions[fabric.link.directions if fabric.link else None]
        lines.append(_line("link", f"{fabric.within / 1e9:g} GB/s", f"of one card, {said}", _source(machine, "link")))
    if fabric.between:
        lines.append(
            _line("link between nodes", f"{fabric.between / 1e9:g} GB/s", "of one card", _source(machine, "link"))
        )
    return lines


def _step(step: Step) -> list[Line]:
    """The parts of one micro-batch at the slowest stage."""
    lines = [
        _line(
            f"{step.phase}: {part.name}",
            _ms(part.seconds),
            f"the longer of {part.operations / 1e9:.4g} G operations ({_ms(part.compute)}) and "
            f"{part.bytes / 1e6:.4g} MB read ({_ms(part.memory)}); {step.tokens:g} tokens of a group",
            "roofline",
        )
        for part in step.parts
    ]
    lines += [
        _line(
            f"{step.phase}: {timed.exchange.name}",
            _ms(timed.seconds),
            f"{timed.exchange.kind} over {timed.exchange.axis} = {timed.exchange.ranks}, all the stage's layers",
            "traffic",
        )
        for timed in step.links
    ]
    total = f"the longer of card ({_ms(step.card)}, its parts) and links ({_ms(step.wires)}): bound by {step.bound}"
    return [*lines, _line(f"{step.phase}: a stage", _ms(step.seconds), total, "links work beside the card")]


def _reached(found: Found) -> list[Line]:
    split, accepted, rate = found.split, found.ask.work.accepted, found.decode_rate(found.decode.seconds)
    return [
        _line(
            "time of an output token",
            _ms(found.seconds_per_token),
            f"{split.pp} stages x {_ms(found.decode.seconds)} / {accepted:g} tokens of a step",
            "",
        ),
        _line(
            "decode",
            f"{rate:,.0f} tokens/s",
            f"{found.sequences / split.pp:g} sequences x {accepted:g} tokens x {split.ep} groups / "
            f"{_ms(found.decode.seconds)}; "
            f"{rate / split.cards:,.0f} of a card",
            "",
        ),
    ]


def _prefill(found: Found) -> list[Line]:
    work, split = found.ask.work, found.split
    rate = found.prefill_rate(found.prefill.seconds)
    tokens = f"{work.prompts} prompts of {work.prompt} x {split.ep} groups"
    formula = f"{tokens} / {_ms(found.prefill.seconds)}; {rate / split.cards:,.0f} of a card"
    return [_line("prefill", f"{rate:,.0f} tokens/s", formula, f"{work.cached:.1%} of a prompt in the cache already")]


def _links(found: Found) -> list[Line]:
    """What one token sends, exchange by exchange."""
    lines = []
    for exchange in found.roofline.wires.whole:
        copies = "" if exchange.copies == 1 else f" x {float(exchange.copies):.4g} other groups, expected"
        formula = (
            f"{exchange.kind}: {exchange.times} times x {exchange.bytes} bytes of all {exchange.ranks} ranks{copies}"
        )
        lines.append(
            _line(f"bytes over links: {exchange.name}", f"{float(exchange.total):,.0f} bytes", formula, "traffic")
        )
    return lines


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.4g} ms"


def _source(machine: Machine, fact: str) -> str:
    return machine.device.sources.get(fact, "not given")
