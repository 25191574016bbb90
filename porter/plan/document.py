"""A plan as `--json` prints it: candidates side by side, what the architecture saves, how the answer moves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from porter.plan import placing
from porter.plan.demand import Demand
from porter.plan.explain import explain
from porter.plan.form import BYTES
from porter.plan.links import sizes_of
from porter.plan.placing import Placer
from porter.plan.roofline import Machine, Step
from porter.plan.search import Ask, Found, Searched, search, within
from porter.plan.split import Placed, Split, splits
from porter.plan.traffic import bytes_per_token, exchanges_of_copies

CONTEXTS = (1024, 4096, 16384, 65536, 131072)
EACH = (1, 8, 32, 128, 512)  # sequences of a group and a stage
MOST_CARDS = 1024
LEFT_OUT = (
    "kernels reach the rate and the bandwidth that are stated",
    "every expert is as likely, so that no card waits for the one with most tokens",
    "launches, scheduling, sampling and the host take no time",
    "links work beside the card: decode_tokens_per_second_in_turn has nothing beside anything",
    "drafting tokens ahead takes no time, where --accepted says that a step gains more than one",
    "memory that a runtime keeps for itself",
)


@dataclass(frozen=True)
class Question:
    """What a plan is asked for, of every device."""

    demand: Demand
    ask: Ask
    cards: tuple[int, ...]  # empty: the fewest that do, and two and four times as many
    split: Split | None
    max_positions: int


def candidates(question: Question, machine: Machine) -> list[tuple[int, Searched]]:
    """What was found for each number of cards."""
    pinned, node = question.split, machine.fabric.node
    if pinned:
        beyond = node is not None and pinned.tp > node
        looked = search(question.demand, machine, pinned.cards, question.ask, pinned)
        return [(pinned.cards, Searched(None, 1, 0) if beyond else looked)]
    counts = question.cards or _counts(question, machine)
    return [(count, search(question.demand, machine, count, question.ask)) for count in counts]


def _counts(question: Question, machine: Machine) -> tuple[int, ...]:
    """The fewest cards that do what is asked, in whole nodes beyond one, and two and four times as many."""
    for count in _ladder(question.demand, machine):
        if search(question.demand, machine, count, question.ask).best:
            return count, 2 * count, 4 * count
    return (MOST_CARDS,)


def _ladder(demand: Demand, machine: Machine) -> Iterable[int]:
    """Numbers of cards that one would buy and that hold the weights: powers of two, beyond a node multiples of it."""
    node, memory = machine.fabric.node or MOST_CARDS, machine.device.memory_bytes or 0
    powers = [2**n for n in range(MOST_CARDS.bit_length())]
    counts = {n for n in powers if n <= node} | {node * n for power in powers for n in (power, 3 * power)}
    weights = demand.numbers * BYTES[machine.form.weights]
    return (n for n in sorted(counts) if n <= MOST_CARDS and n * memory > weights)


def candidate(
    question: Question, machine: Machine, cards: int, searched: Searched, placer: Placer | None, *, explained: bool
) -> dict[str, Any]:
    """One row: a device and a number of cards with the best split, or with the one that holds least where none fits."""
    found = searched.best
    row = _candidate(question, machine, cards, searched, explained=explained)
    if placer is None or found is None:
        return row
    placement = placer.placement(found)
    if explained and placement:
        row["explain"] += placing.explained(placement)
    return {**row, "placement": placement}


def _candidate(
    question: Question, machine: Machine, cards: int, searched: Searched, *, explained: bool
) -> dict[str, Any]:
    found = searched.best
    head = {"device": machine.device.name, "cards": cards}
    form = {"weights": machine.form.weights, "wide": machine.form.wide, "cache": machine.form.cache}
    looked = {"splits": searched.splits, "evaluated": searched.evaluated}
    if found is None:
        return {**head, **_unfit(question, machine, cards), "dtypes": form, "searched": looked}
    decode, prefill, split, placed = found.decode, found.prefill, found.split, found.roofline.placed
    _, weights, cache = max(placed.held, key=lambda held: held[1])
    total = placed.bytes_per_card(found.whole, question.ask.work)
    kept = found.whole * question.ask.work.context * cache
    return {
        **head,
        "tp": split.tp,
        "ep": split.ep,
        "pp": split.pp,
        "fits": True,
        "reason": None,
        "bytes_per_card": total,
        "bytes": {"weights": weights, "cache": kept, "workspace": total - weights - kept},
        "memory_bytes": machine.device.memory_bytes,
        "prefill_tokens_per_second": _speed(found.prefill_rate(prefill.seconds), machine),
        "decode_tokens_per_second": _speed(found.decode_rate(decode.seconds), machine),
        "prefill_tokens_per_second_in_turn": _speed(found.prefill_rate(prefill.in_turn), machine),
        "decode_tokens_per_second_in_turn": _speed(found.decode_rate(decode.in_turn), machine),
        "link_bytes_per_token": _whole(bytes_per_token(found.roofline.wires.whole)),
        "bound": decode.bound,
        "prefill_bound": prefill.bound,
        "sequences": round(found.sequences * split.ep),
        "limit": found.limit,
        "milliseconds_per_token": round(1e3 * found.seconds_per_token, 3),
        "port": _port(found, weights, cache),
        "experts_per_card": placed.experts_held if question.demand.experts else None,
        "seconds": {"decode": _seconds(decode), "prefill": _seconds(prefill)},
        "unknown": unknown(machine, split),
        "dtypes": form,
        "searched": looked,
        **({"explain": explain(found)} if explained else {}),
    }


def _port(found: Found, weights: int, cache: int) -> dict[str, int]:
    """What `porter convert` with this split makes: the same weights, but all cards of a stage have all tokens."""
    split, placed = found.split, found.roofline.placed
    sent = exchanges_of_copies(sizes_of(placed.demand, placed.form), split.tp, split.ep, split.pp)
    return {
        "weight_bytes": weights,
        "cache_bytes_per_token": cache,
        "link_bytes_per_token": int(bytes_per_token(sent)),
    }


def _unfit(question: Question, machine: Machine, cards: int) -> dict[str, Any]:
    """Why there is no answer for so many cards, with the split that holds least."""
    demand, ask = question.demand, question.ask
    every = [question.split] if question.split else list(splits(demand, cards, machine.fabric.node))
    nothing: dict[str, Any] = {
        "fits": False,
        "prefill_tokens_per_second": None,
        "decode_tokens_per_second": None,
        "link_bytes_per_token": None,
        "bound": None,
        "memory_bytes": machine.device.memory_bytes,
        "unknown": [],
    }
    if not every:
        return {
            "tp": None,
            "ep": None,
            "pp": None,
            "bytes_per_card": None,
            **nothing,
            "reason": _next_size(demand, cards),
        }
    placed = [Placed(demand, machine.form, split, ask.replicas) for split in every]
    least = min(placed, key=lambda p: p.bytes_per_card(p.split.pp, ask.work))
    held = least.bytes_per_card(least.split.pp, ask.work)
    memory = machine.device.memory_bytes or 0
    asked = f"{ask.batch} sequences" if ask.batch else "one sequence of each group"
    short = f"with {asked} no split is within {1e3 * (ask.slo or 0):g} ms a token" if ask.slo else f"{asked} do not fit"
    if question.split and machine.fabric.node and least.split.tp > machine.fabric.node:
        reason = f"tp = {least.split.tp} is more than the {machine.fabric.node} cards of a node"
    else:
        reason = short if held <= memory else f"a card would hold {held:,} bytes and has {memory:,}"
    split = {"tp": least.split.tp, "ep": least.split.ep, "pp": least.split.pp, "bytes_per_card": held}
    return {**split, **nothing, "reason": reason}


def _next_size(demand: Demand, cards: int) -> str:
    larger = (n for n in range(cards + 1, 8 * cards + 8) if any(True for _ in splits(demand, n, None)))
    following = next(larger, None)
    beyond = f"; {following} do" if following else ""
    return f"heads, columns, experts and layers do not divide over {cards} cards{beyond}"


def unknown(machine: Machine, split: Split) -> list[str]:
    """The facts that an answer would need and that nobody states; it is a bound without them."""
    dtypes = dict.fromkeys((machine.form.multiplied, machine.form.wide))
    rates = [f"rates.{dtype}" for dtype in dtypes if (rate := machine.rates[dtype]) is None or rate.bound]
    return [*rates, *machine.fabric.missing(split)]


def savings(question: Question, machine: Machine, found: Found) -> dict[str, Any]:
    """What the latent cache and the routing save: the same model without either, on as many cards."""
    demand, cards = question.demand, found.split.cards
    have = found.decode_rate(found.decode.seconds)
    told: dict[str, Any] = {"device": machine.device.name, "cards": cards, "decode_tokens_per_second": have}
    others = {"full_heads": demand.with_full_heads(), "dense_experts": demand.with_all_experts()}
    for name, other in others.items():
        if other == demand:
            told[name] = None
            continue
        best = search(other, machine, cards, question.ask, question.split).best
        speed = best.decode_rate(best.decode.seconds) if best else None
        prefill = best.prefill_rate(best.prefill.seconds) if best else None
        told[name] = {
            "fits": best is not None,
            "cache_bytes_per_token": _whole(other.cache_width * BYTES[machine.form.cache]),
            "multiplied_parameters": _met(other),
            "decode_tokens_per_second": speed,
            "prefill_tokens_per_second": prefill,
            "sequences": round(best.sequences * best.split.ep) if best else None,
            "times_slower": have / speed if speed else None,
        }
    return told


def _met(demand: Demand) -> int:
    """Weights that one token is multiplied by."""
    total = demand.head.met
    for kind in demand.order:
        layer = demand.kinds[kind]
        total += sum(w.met for w in (*layer.projections, *layer.mlp))
        total += layer.routed.top_k * layer.routed.numbers if layer.routed else 0
    return total


def moves(question: Question, machine: Machine, found: Found) -> dict[str, Any]:
    """Decode of the same split with other contexts and batches; null where they do not fit."""
    split, line = found.split, found.roofline
    contexts = [c for c in CONTEXTS if c <= question.max_positions] or [question.max_positions]
    batches = [each * split.ep * split.pp for each in EACH]
    told: dict[str, Any] = {"device": machine.device.name, "cards": split.cards}
    told |= {"tp": split.tp, "ep": split.ep, "pp": split.pp, "contexts": contexts, "batches": batches}
    grid, most = [], []
    for context in contexts:
        work = replace(question.ask.work, context=context)
        reached = [within(line, Ask(work, batch, None)) for batch in (*batches, None)]
        *row, last = (one and one.decode_rate(one.decode.seconds) for one in reached)
        grid.append(row)
        most.append(last)
    return {**told, "decode_tokens_per_second": grid, "most_tokens_per_second": most}


def _seconds(step: Step) -> dict[str, float]:
    """Of one micro-batch at the slowest stage."""
    compute, memory = (sum(getattr(part, term) for part in step.parts) for term in ("compute", "memory"))
    return {"compute": compute, "memory": memory, "links": step.wires, "card": step.card, "total": step.seconds}


def _speed(rate: float, machine: Machine) -> float | None:
    """None where the rate of the multiplications is not known at all: memory and links alone would promise too much."""
    return rate if machine.rates[machine.form.multiplied] else None


def _whole(number: int | Fraction) -> int | float:
    return int(number) if number == int(number) else round(float(number), 1)
