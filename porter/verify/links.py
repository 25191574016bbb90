"""One rank as a process among others: torch.distributed moves what it exchanges."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
import torch.distributed as dist

from porter.errors import PortError
from porter.exchange import Exchange
from porter.manifest import Port
from porter.verify.ranks import Call, Rank, rounding
from porter.verify.session import Arrays

CPU = "gloo"


class Links:
    """The process groups of a port's exchanges; torchrun says which rank this process is.

    `backend` is one of torch.distributed's own, or what a card's plug-in brings: hccl, mccl. Raises PortError where
    there are not as many processes as cards, or no such backend.
    """

    def __init__(self, port: Port, backend: str, *, deployed: bool) -> None:
        if not self.there_is(backend):
            raise PortError(
                f"torch.distributed has no backend '{backend}'", f"install the card's plug-in, or use {CPU}"
            )
        dist.init_process_group(backend)
        self.rank, self._rounded = dist.get_rank(), rounding(port, deployed=deployed)
        self._wire = getattr(torch, port.dtype) if deployed else torch.float32  # what tensors travel in
        if dist.get_world_size() != port.cards:
            message = f"the port is for {port.cards} cards, and there are {dist.get_world_size()} processes"
            raise PortError(message, f"torchrun --nproc-per-node {port.cards} -m porter.run_ranks PORT")
        kinds = {name: device for device, name in dist.Backend.default_device_backend_map.items()}
        self._device = torch.device("cpu" if backend == CPU else kinds.get(backend, "cpu"))
        self.exchanges = [Exchange.of_json(told) for told in port.manifest["split"]["exchanges"]]
        groups = dict.fromkeys(group for e in self.exchanges if e.kind != "Send" for group in e.groups)
        self._groups = {group: dist.new_group(list(group)) for group in groups}  # all processes make all, in one order
        self.given: Counter[Exchange] = Counter()  # bytes that this rank gave
        self.computed = 0  # tokens, over all calls

    @staticmethod
    def there_is(backend: str) -> bool:
        """Whether torch.distributed has a backend of this name here."""
        return bool(dist.is_backend_available(backend))

    def run(self, rank: Rank, call: Call) -> Arrays:
        """All values of a call."""
        self.computed += call.tokens
        working, value = rank.work(call), None
        while True:
            try:
                exchange, given = working.send(value)
            except StopIteration as end:
                return dict(end.value)
            value = self._exchange(exchange, given, call.tokens)

    def same(self, number: int, source: int) -> int:
        """A number that the rank `source` has, on all of them."""
        told = torch.tensor([number], dtype=torch.int64, device=self._device)
        dist.broadcast(told, source)
        return int(told.item())

    def totals(self) -> list[int]:
        """The bytes that all ranks together gave in each exchange."""
        counts = torch.tensor([self.given[e] for e in self.exchanges], dtype=torch.int64, device=self._device)
        dist.all_reduce(counts)
        return [int(n) for n in counts.tolist()]

    def close(self) -> None:
        """Leaves the others."""
        dist.destroy_process_group()

    def _exchange(self, exchange: Exchange, given: np.ndarray | None, tokens: int) -> np.ndarray | None:
        group = exchange.group_of(self.rank)
        assert group is not None
        if given is None:
            taken = torch.empty(tokens, exchange.width, dtype=self._wire, device=self._device)
            dist.recv(taken, group[0])
            return _array(taken)
        mine = torch.from_numpy(given.copy()).to(self._device, self._wire)
        self.given[exchange] += mine.numel() * mine.element_size()
        if exchange.kind == "Send":
            dist.send(mine, group[1])
            return None
        if exchange.kind == "AllReduce" and self._wire == torch.float32:
            dist.all_reduce(mine, group=self._groups[group])
            return _array(mine)
        parts = [torch.empty_like(mine) for _ in group]
        dist.all_gather(parts, mine, group=self._groups[group])
        if exchange.kind == "AllGather":
            return _array(torch.cat(parts, dim=-1))
        return self._rounded(_array(torch.stack(parts).float().sum(0)))  # narrow numbers, added up in float32


def _array(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.float().cpu().numpy()
    return array
