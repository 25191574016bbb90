"""A port for several cards on an engine that exists: one process for each card, segments on ONNX Runtime, what cards
exchange by torch.distributed.

    torchrun --nproc-per-node 4 -m porter.run_ranks PORT --ids 3,14,15 --tokens 8

Rank 0 prints the tokens that follow, greedily chosen, and the bytes that were exchanged, as one JSON document.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from porter import render
from porter.errors import PorterError, PortError
from porter.manifest import SCHEMA_VERSION, Port, open_port
from porter.model import understand
from porter.target import find_target
from porter.verify.cards import card_of, cards_of
from porter.verify.launched import TICK, call_file, is_left, read_call, result_file, write_arrays
from porter.verify.links import CPU, Links
from porter.verify.ranks import Call, Program, Rank, open_rank
from porter.verify.runs import PortPast, as_run
from porter.verify.session import PAST, Arrays, BrokenPort, Results, results_of
from porter.verify.widen import Weights, wide_weights

PATIENCE = 5.0  # seconds for rank 0 to say what is wrong


def main() -> None:
    """The command; what the user can mend becomes two lines of rank 0 and exit code 2."""
    given = _arguments()
    links = None
    try:
        port = open_port(given.port)
        if port.cards == 1:
            raise PortError(f"'{given.port}' is a port for one card", "convert with --tp, --ep or --pp")
        deployed = port.dtype != "float32" if given.serve is None else given.deployed
        links = Links(port, _backend(port, given.backend), deployed=deployed)
        rank = _opened(port, links.rank, given, deployed=deployed)
        if given.serve is not None:
            _serve(links, rank, given.serve)
        else:
            result = _generate(port, links, rank, _ids(given.ids), given.tokens)
            if links.rank == 0:
                render.print_json(result)
    except (PorterError, BrokenPort) as error:
        if isinstance(error, PorterError) and os.environ.get("RANK", "0") != "0":
            time.sleep(PATIENCE)  # all meet it, rank 0 says it, and the first to end takes the others with it
        render.print_error(error if isinstance(error, PorterError) else PortError(str(error)))
        os._exit(2)  # the others may wait for this one, and would keep it
    links.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="porter.run_ranks", description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("port", type=Path, help="a port for as many cards as there are processes")
    parser.add_argument("--ids", default="", help="the prompt, as token ids: 3,14,15")
    parser.add_argument("--tokens", type=int, default=8, help="how many tokens to choose")
    parser.add_argument("--backend", default="auto", help="of torch.distributed: gloo, or the cards' own (auto)")
    parser.add_argument(
        "--serve", type=Path, help=argparse.SUPPRESS
    )  # porter verify --launch: calls come from a folder
    parser.add_argument("--against", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--forced", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--deployed", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _ids(text: str) -> np.ndarray:
    try:
        return np.array([[int(part) for part in text.split(",")]], np.int64)
    except ValueError:
        raise PortError(f"--ids '{text}' is no list of token ids", "write --ids 3,14,15") from None


def _backend(port: Port, asked: str) -> str:
    """What was asked for; of the port's device where its plug-in is there, else that for processors."""
    if asked != "auto":
        return asked
    link = find_target(str(port.manifest["target"]), None).device.link
    own = link.collectives if link else None
    return own if own and Links.there_is(own) else CPU


def _opened(port: Port, rank: int, given: argparse.Namespace, *, deployed: bool) -> Rank:
    card, wide = card_of(port, rank), partial(_nothing)
    if given.against is not None:
        model = understand(given.against, port.manifest.get("attention") or "auto", port.quantization, port.places)
        wide = partial(wide_weights, cards_of(port, model)[rank][1])
    return open_rank(card, Program.of(port, rank), wide, forced=given.forced, deployed=deployed)


def _nothing(names: frozenset[str]) -> Weights:
    return [], []


def _serve(links: Links, rank: Rank, folder: Path) -> None:
    """Takes calls out of a folder, as long as there may be any."""
    number = 0
    while not is_left(folder):
        path = call_file(folder, number, links.rank)
        if not path.exists():
            time.sleep(TICK)
            continue
        call = read_call(path)
        values = links.run(rank, call)
        write_arrays(result_file(folder, number, links.rank), {n: a for n, a in values.items() if n not in call.feed})
        number += 1


class Own:
    """A graph of the port as this rank has it: what the others compute is theirs to know."""

    def __init__(self, graph: str, port: Port, links: Links, rank: Rank) -> None:
        self._graph, self._links, self._rank = graph, links, rank
        inputs = (value for entry in card_of(port, links.rank).manifest["graphs"] for value in entry["inputs"])
        self._cached = {value["name"]: value["shape"] for value in inputs if value["name"].startswith(PAST)}

    def cache(self, batch: int, places: int) -> Arrays:
        """A cache of so many places with nothing in them."""
        return {n: np.zeros([batch, shape[1], places, shape[3]], np.float32) for n, shape in self._cached.items()}

    def run(
        self,
        feed: Mapping[str, np.ndarray],
        routes: Mapping[int, np.ndarray] | None,
        embedding_scale: float,
        hidden: np.ndarray | None = None,
    ) -> Results:
        """One call; logits are zeros where another stage has them."""
        values = self._links.run(self._rank, Call(self._graph, feed, routes, embedding_scale))
        nothing = np.zeros((*feed["input_ids"].shape, 1), np.float32)
        return results_of(values, values.get("logits", nothing), forced=False)


def _generate(port: Port, links: Links, rank: Rank, ids: np.ndarray, count: int) -> dict[str, Any]:
    """Tokens one by one, each of them the likeliest."""
    begun, tokens, start = time.monotonic(), list[int](), 0
    run = as_run(port, {graph: Own(graph, port, links, rank) for graph in Program.of(port, links.rank).segments})
    past: PortPast | None = None
    while len(tokens) < count:
        positions = np.arange(start, start + ids.shape[1])[None]
        trace, past = run.run(ids, positions, np.ones_like(ids), past)
        start += ids.shape[1]
        tokens.append(links.same(int(trace.logits[0, -1].argmax()), port.cards - 1))
        ids = np.array([tokens[-1:]], np.int64)
    exchanges = [
        {
            **exchange.to_json(),
            "bytes": nbytes,
            "told_bytes": links.computed * exchange.bytes_per_token * exchange.givers,
        }
        for exchange, nbytes in zip(links.exchanges, links.totals(), strict=True)
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "tokens": tokens,
        "computed_tokens": links.computed,
        "exchanges": exchanges,
        "seconds": round(time.monotonic() - begun, 3),
    }


if __name__ == "__main__":
    main()
