"""`porter plan`: whether a model fits, on how many cards, split how, and at what cost, before it is converted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from porter.census import census
from porter.checkpoint import read_config
from porter.errors import FamilyError, TargetError
from porter.families import family_of
from porter.plan.demand import Demand, demand_of
from porter.plan.document import LEFT_OUT, Question, candidate, candidates, moves, savings
from porter.plan.form import form_for, stored_dtype
from porter.plan.links import Fabric
from porter.plan.placing import Placer, write_placement
from porter.plan.roofline import Machine, Phase
from porter.plan.routes import check_model, read_routes
from porter.plan.search import Ask
from porter.plan.split import Split, Work, misfit
from porter.target import find_device

__all__ = ["cards_of", "plan", "split_of", "write_page", "write_placement"]
SCHEMA_VERSION = 1
CONTEXT = 4096  # tokens, where none are asked for
NEEDED = ("memory_bytes", "memory_bandwidth")


def plan(
    path: Path,
    targets: Sequence[str],
    *,
    cards: Sequence[int] = (),
    split: Split | None = None,
    dtype: str = "auto",
    cache_dtype: str = "auto",
    batch: int | None = None,
    context: int | None = None,
    prompt: int | None = None,
    accepted: float = 1.0,
    slo: float | None = None,
    phase: Phase = "decode",
    routes: Path | None = None,
    replicas: int = 0,
    explained: bool = False,
) -> dict[str, Any]:
    """A checkpoint folder, or its config.json alone, on each of the targets; the result is what `--json` prints.

    `batch` counts the sequences of the whole system, by default the most that fit; `context` the tokens that each has
    in the cache, `prompt` those of a prompt (as many, if not given); `slo` is the most seconds of an output token;
    `accepted` the tokens that a sequence gains in a step. By a file of `routes` experts are placed on the cards, which
    have `replicas` places more each for copies.
    Raises CheckpointError, FamilyError, and TargetError when no target can be planned for.
    """
    config = read_config(path)
    family = family_of(config)
    read = family.read(config)
    network = family.build(read, "auto")
    sizes, demand = census(network), demand_of(network)
    ask = Ask(_work(context, prompt, accepted, read.max_position_embeddings), batch, slo, phase, replicas)
    placer = _placer(routes, replicas, demand)
    if split:
        _check(demand, split, cards)
    question = Question(demand, ask, tuple(cards), split, read.max_position_embeddings)
    stored = stored_dtype(config)
    machines, refused = _machines(targets, stored, dtype, cache_dtype)
    found = [(machine, *one) for machine in machines for one in candidates(question, machine)]
    firsts = {machine.device.name: (machine, s.best) for machine, _, s in reversed(found) if s.best}
    ordered = [firsts[m.device.name] for m in machines if m.device.name in firsts]
    return {
        "schema_version": SCHEMA_VERSION,
        "path": str(path),
        "family": family.name,
        "model_type": read.model_type,
        "parameters": sizes.parameters,
        "active_parameters": sizes.active_parameters,
        "layers": sizes.layers,
        "stored": stored,
        "cache_numbers_per_token": demand.cache_width,
        "asked": _asked(ask),
        "candidates": [
            candidate(question, m, count, searched, placer, explained=explained) for m, count, searched in found
        ],
        "refused": refused,
        "savings": [savings(question, machine, best) for machine, best in ordered],
        "moves": [moves(question, machine, best) for machine, best in ordered],
        "left_out": list(LEFT_OUT),
    }


def _placer(routes: Path | None, replicas: int, demand: Demand) -> Placer | None:
    """What places experts, where routes say where they are wanted. Raises CheckpointError and FamilyError."""
    if routes is None:
        if replicas:
            raise FamilyError("--replicas are of the experts with most tokens, which only routes tell", "give --routes")
        return None
    found = read_routes(routes)
    check_model(found, demand)
    return Placer(found)


def _asked(ask: Ask) -> dict[str, Any]:
    return {
        "context": ask.work.context,
        "prompt": ask.work.prompt,
        "accepted": ask.work.accepted,
        "batch": ask.batch,
        "slo_milliseconds": None if ask.slo is None else 1e3 * ask.slo,
        "phase": ask.phase,
    }


def _work(context: int | None, prompt: int | None, accepted: float, positions: int) -> Work:
    """What is asked for, by default CONTEXT tokens or what the model has. Raises FamilyError for more than it has."""
    tokens = context or min(CONTEXT, positions)
    for name, asked in (("--context", tokens), ("--prompt", prompt or tokens)):
        if asked > positions:
            raise FamilyError(f"{name} {asked} is more than the model's {positions} positions", "ask for fewer tokens")
    return Work(tokens, prompt or tokens, accepted=accepted)


def _check(demand: Demand, split: Split, cards: Sequence[int]) -> None:
    """Raises FamilyError for a split that cannot be, and where as many cards are not asked for."""
    if cards and tuple(cards) != (split.cards,):
        message = f"--cards {','.join(map(str, cards))} is not tp x ep x pp = {split.cards}"
        raise FamilyError(message, "leave one of them out")
    reason = misfit(demand, split)
    if reason:
        raise FamilyError(reason, "leave --tp, --ep and --pp out, and the best is searched for")


def _machines(
    targets: Sequence[str], stored: str, dtype: str, cache_dtype: str
) -> tuple[list[Machine], list[Mapping[str, str]]]:
    """The devices of which enough is known, and the others with what is missing."""
    machines: list[Machine] = []
    refused: list[Mapping[str, str]] = []
    errors: list[TargetError] = []
    for name in dict.fromkeys(targets):
        device, _ = find_device(name)
        missing = [fact for fact in NEEDED if getattr(device, fact) is None]
        if missing:
            sold = f"; it is sold as {', '.join(device.variants)}" if device.variants else ""
            refused.append({"device": device.name, "reason": f"unknown: {', '.join(missing)}{sold}"})
            continue
        try:
            form = form_for(device, stored, dtype, cache_dtype)
        except TargetError as error:
            refused.append({"device": device.name, "reason": error.message})
            errors.append(error)
            continue
        machines.append(Machine(device, form, Fabric(device.link)))
    if not machines:
        told = "; ".join(f"{one['device']}: {one['reason']}" for one in refused)
        hint = errors[0].hint if errors else _where(targets)
        raise TargetError(f"no target can be planned for: {told}", hint)
    return machines, refused


def _where(targets: Sequence[str]) -> str:
    return f"state them in a TOML file of your own; `porter targets {targets[0]}` tells what is known"


def cards_of(text: str | None) -> tuple[int, ...]:
    """What `--cards` says: 8, or 8,16,32. Raises TargetError for anything else."""
    counts = [word.strip() for word in (text or "").split(",")] if text is not None else []
    if not all(word.isdecimal() and 0 < int(word) <= 2**16 for word in counts):
        raise TargetError(f"--cards '{text}' is no number of cards", "write 8, or several as 8,16,32")
    return tuple(dict.fromkeys(map(int, counts)))


def split_of(tp: int | None, ep: int | None, pp: int | None) -> Split | None:
    """The split that is asked for, what is left out being 1; None where it is to be searched for."""
    return None if tp is ep is pp is None else Split(tp or 1, ep or 1, pp or 1)


def write_page(path: Path, result: Mapping[str, Any]) -> None:
    """Write the plan as one HTML file. Raises TargetError for another kind of file, and where it cannot be written."""
    from porter.plan.page import page

    if path.suffix != ".html":
        raise TargetError(f"--report '{path.name}' is no .html", "a plan is written as a page: name it FILE.html")
    try:
        path.write_text(page(result), encoding="utf-8")
    except OSError as error:
        raise TargetError(f"'{path}' cannot be written: {error.strerror}", "choose another place") from error
