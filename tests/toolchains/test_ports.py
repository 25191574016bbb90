"""Whole ports through the vendors' own compilers, and what their simulators compute beside what the original does.

`make test-toolchains` runs this; `make toolchains` sets the compilers up. Each case leaves a row in
build/toolchains/results.md, which docs/targets.md shows.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from command import ROOT, run

from porter.families import family_of
from porter.verify.original import Original

pytestmark = pytest.mark.toolchains
TOOLCHAINS = ROOT / "build" / "toolchains"
SEQUENCE, CONTEXT = 16, 32
SHAPE = f"batch=1,sequence={SEQUENCE},context={CONTEXT}"
ALLOWED = 10.0  # times the original's own error at the same dtype, as for porter verify
CODES = 0.998  # the cosine that is asked of integers, for which nothing of the original's is a measure

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Way:
    """A compiler, what it compiles for, and how that computes."""

    driver: str
    environment: str
    device: str  # porter's
    target: str  # the compiler's
    arithmetic: str

    def __str__(self) -> str:
        return f"{self.environment}-{self.target}-{self.arithmetic}"

    @property
    def dtype(self) -> Any:
        """What the original is run at beside it; None for integers."""
        return {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}.get(self.arithmetic)


WAYS = (
    Way("sophgo", "tpu-mlir", "sophgo-bm1684x", "bm1684x", "F32"),
    Way("sophgo", "tpu-mlir", "sophgo-bm1684x", "bm1684x", "F16"),
    Way("rockchip", "rknn-toolkit2", "rockchip-rk3588", "rk3588", "F16"),
    Way("canaan", "nncase", "canaan-k230", "cpu", "F32"),
    Way("canaan", "nncase", "canaan-k230", "k230", "INT16"),
)
MODELS = ("llama", "qwen3_moe", "deepseek_v3 absorbed", "deepseek_v3 expanded")
TRAINED = "deepseek-v3-tiny"  # the sample, which is larger: for simulators that are quick
INTEGERS = (
    "llama",
)  # a random router's scores are near-ties all of them: codes flip its choices, the trained one's not


def models(way: Way) -> tuple[str, ...]:
    """What is sent through a compiler."""
    return (*(MODELS if way.dtype else INTEGERS), *(() if way.driver == "sophgo" else (TRAINED,)))


CASES = [(way, model) for way in WAYS for model in models(way)]


@dataclass(frozen=True, eq=False)
class Told:
    """A checkpoint, tokens, and what the original makes of them: [tokens, V] logits and the cache [tokens, H, D]."""

    folder: Path
    ids: np.ndarray
    family: Any

    @cache  # noqa: B019  # a handful of them, for the whole session
    def at(self, dtype: Any) -> tuple[np.ndarray, list[np.ndarray]]:
        trace, _ = Original(self.folder, dtype).run(self.ids)
        config = self.family.read(tiny.json.loads((self.folder / "config.json").read_text()))
        entries = (e for layer in trace.cache.values() for e in self.family.original_cache(config, *layer))
        return trace.logits[0].astype(np.float64), [np.moveaxis(e[0], 0, 1).astype(np.float64) for e in entries]


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Told]:
    """The trained sample reads its reference prompt; the others are random, and so are their tokens."""

    @lru_cache
    def make(model: str) -> Told:
        name = model.partition(" ")[0]
        if name == TRAINED:
            folder = ROOT / "samples" / name
            ids = np.load(folder / "reference.npz")["prompt_ids"][None, : SEQUENCE + 1].astype(np.int64)
        else:
            folder = tiny.write_checkpoint(tmp_path_factory.mktemp(name), tiny.sample(name))
            ids = np.random.default_rng(3).integers(0, tiny.sample(name)["vocab_size"], (1, SEQUENCE + 1))
        return Told(folder, ids, family_of(tiny.json.loads((folder / "config.json").read_text())))

    return make


@pytest.fixture(scope="session")
def ports(told: Callable[[str], Told], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The port of a model for a device, made from the command line."""

    @lru_cache
    def make(model: str, device: str) -> Path:
        form = model.partition(" ")[2]
        port = tmp_path_factory.mktemp("ports") / "port"
        attention = ["--attention", form] if form else []
        found = run("convert", told(model).folder, "--target", device, "-o", port, "--shape", SHAPE, *attention)
        assert found.code == 0, found.err
        return port

    return make


@pytest.fixture(scope="session")
def rows() -> Iterator[list[str]]:
    """What the page shows: a row for each case."""
    found: list[str] = []
    yield found
    head = [
        "| compiler | for | arithmetic | model | graph | compiled and simulated | error / the original's own | cosine |"
    ]
    (TOOLCHAINS / "results.md").write_text(
        "\n".join([*head, "|---|---|---|---|---|---|---|---|", *sorted(found)]) + "\n"
    )


def feed(ids: np.ndarray, start: int, cache: Arrays) -> Arrays:
    """The inputs of a call: tokens [1, S] at the positions from `start` on."""
    mask = (np.arange(CONTEXT) < start + ids.shape[1]).astype(np.int64)[None]
    return {
        "input_ids": ids,
        "position_ids": np.arange(start, start + ids.shape[1])[None],
        "attention_mask": mask,
        **cache,
    }


def simulate(way: Way, graph: Path, inputs: Arrays, more: list[Arrays], folder: Path) -> tuple[Arrays, float]:
    """The graph compiled and run by the vendor's tools; and the seconds it took."""
    python = TOOLCHAINS / way.environment / "bin" / "python"
    assert python.exists(), "make toolchains sets the compilers up"
    folder.mkdir()
    np.savez(folder / "inputs.npz", **inputs)
    samples = [folder / f"sample-{n}.npz" for n in range(len(more))]
    for path, sample in zip(samples, more, strict=True):
        np.savez(path, **sample)
    options = ["--target", way.target, "--quantize", way.arithmetic]
    options += ["--calibration", *map(str, samples)] if samples else []
    begun = time.monotonic()
    driver = Path(__file__).with_name(f"{way.driver}.py")
    command = [python, driver, graph, folder / "inputs.npz", folder / "outputs.npz", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\nsee {folder / 'outputs.log'}"
    with np.load(folder / "outputs.npz") as outputs:
        return dict(outputs), time.monotonic() - begun


def rmse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a.astype(np.float64) - b) ** 2)))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


def emptied(graph: Path) -> Arrays:
    """A cache with nothing in it."""
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in _inputs(graph)}
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items() if name.startswith("past_key_values.")}


def _inputs(graph: Path) -> Any:
    import onnx

    return onnx.load(graph, load_external_data=False).graph.input


def samples(graph: Path, told: Told, count: int = 4) -> list[Arrays]:
    """Other tokens than those that are tested, for a calibration; the cache of decode is what prefill made of them."""
    import onnxruntime

    prefill = graph.with_name("prefill.onnx")
    session = onnxruntime.InferenceSession(prefill, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = []
    for seed in range(count):
        ids = np.random.default_rng(100 + seed).permutation(told.ids.max() + 1)[None, : SEQUENCE + 1]
        first = feed(ids[:, :SEQUENCE], 0, emptied(prefill))
        if graph == prefill:
            found.append(first)
            continue
        results = dict(zip(names, session.run(None, first), strict=True))
        cache = {n.replace("present.", "past_key_values."): a for n, a in results.items() if n.startswith("present.")}
        found.append(feed(ids[:, SEQUENCE:], SEQUENCE, cache))
    return found


@pytest.mark.parametrize(("way", "model"), CASES, ids=str)
def test_a_port_compiles_and_computes_what_the_original_does(
    way: Way,
    model: str,
    told: Callable[[str], Told],
    ports: Callable[[str, str], Path],
    rows: list[str],
    tmp_path: Path,
) -> None:
    """Prefill, and decode upon the cache that the simulator itself has made."""
    original, port = told(model), ports(model, way.device)
    exact, exact_cache = original.at("float64")
    own, own_cache = original.at(way.dtype or "float32")
    cache = emptied(port / "prefill.onnx")
    for phase, places in (("prefill", slice(0, SEQUENCE)), ("decode", slice(SEQUENCE, SEQUENCE + 1))):
        graph = port / f"{phase}.onnx"
        more = [] if way.dtype else samples(graph, original)
        inputs = feed(original.ids[:, places], places.start, cache)
        found, seconds = simulate(way, graph, inputs, more, tmp_path / phase)
        cache = {n.replace("present.", "past_key_values."): a for n, a in found.items() if n.startswith("present.")}
        logits = found["logits"].reshape(-1, exact.shape[-1])
        near, ratio = cosine(logits, exact[places]), rmse(logits, exact[places]) / rmse(own[places], exact[places])
        compared = f"{ratio:.2f}" if way.dtype else "-"
        row = (way.environment, way.target, way.arithmetic, model, phase, f"{seconds:.0f} s", compared, f"{near:.7f}")
        rows.append(f"| {' | '.join(row)} |")
        assert np.isfinite(logits).all()
        if way.dtype is None:
            assert near > CODES
            continue
        assert ratio <= ALLOWED, f"logits: {ratio}"
        for name, got in enumerate(cache.values()):
            entry = np.moveaxis(got[0], 0, 1)[places]  # [tokens, heads, width]
            assert rmse(entry, exact_cache[name][places]) <= ALLOWED * rmse(
                own_cache[name][places], exact_cache[name][places]
            )
