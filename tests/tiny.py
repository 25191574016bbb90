"""Tiny random checkpoints as transformers writes them, and ports of them run on ONNX Runtime."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import transformers
from safetensors.torch import load_file, save_file

from porter.families import original_type

EMBEDDING = "model.embed_tokens.weight"
SAMPLES = Path(__file__).parent.parent / "samples"
KINDS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}

Config = dict[str, Any]
Tensors = dict[str, torch.Tensor]


def sample(family: str, **overrides: Any) -> Config:
    """The config.json of a family's sample, with some fields changed; `...` for a field takes it out."""
    config = json.loads((SAMPLES / family / "config.json").read_text()) | overrides
    return {name: value for name, value in config.items() if value is not ...}


def write_sample(folder: Path, family: str) -> Path:
    """A checkpoint of a family's sample, its embeddings as small as trained ones are, so that epsilon counts."""
    torch.set_num_threads(1)  # in models this small, threads do nothing but wait for each other
    write_checkpoint(folder, sample(family))
    table = load_file(folder / "model.safetensors")[EMBEDDING]
    edit_tensors(folder, add={EMBEDDING: table / 16})
    return folder


def write_checkpoint(
    folder: Path,
    config: Mapping[str, Any],
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    shard: str = "1GB",
    verbatim: bool = True,
    fused: bool = False,
    gains: Mapping[str, float] | None = None,
) -> Path:
    """A checkpoint of transformers' own class for this config: random weights, none of them 0 or 1.

    config.json is the given one, or with `verbatim` false the one that transformers writes. `fused` names and stacks
    experts as transformers 5 holds them in memory, not as they are published. `gains` multiply the matrices of these
    names: what is small shows a norm's epsilon.
    """
    given = copy.deepcopy(dict(config))
    kind = original_type(given)  # of a family whose class transformers has by another name
    own = given.pop("model_type")
    parsed = transformers.AutoConfig.for_model(kind or own, **given)
    parsed.dtype = dtype
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(parsed, dtype=torch.float32)
        for name, tensor in model.state_dict().items():
            tensor.copy_(_random(name, tensor) * (gains or {}).get(name.split(".")[-2], 1.0))
    model.requires_grad_(False)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.save_pretrained(folder, max_shard_size=shard, save_original_format=not fused)
    if verbatim:
        (folder / "config.json").write_text(json.dumps(dict(config)))
    return folder


def _random(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Such that each part of the model counts: norms around 1, biases around 0, routers with a clear opinion."""
    noise = torch.randn(tensor.shape)
    if tensor.dim() == 1:
        return 1 + 0.2 * noise if "norm" in name else 0.2 * noise
    gain = 1.0 if "embed_tokens" in name else (3.0 if name.endswith("gate.weight") else 1.5) / tensor.shape[-1] ** 0.5
    return gain * noise


def respell(folder: Path) -> None:
    """Rewrites config.json in the older form: `rope_scaling` and `rope_theta` for `rope_parameters`, `torch_dtype`."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters", None) or {}
    if "rope_theta" in rope:
        config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type", "default")
    config["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    if "dtype" in config:
        config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config))


def edit_tensors(folder: Path, *, add: Tensors | None = None, drop: tuple[str, ...] = ()) -> None:
    """Adds tensors to a checkpoint of one file, or takes some out."""
    path = folder / "model.safetensors"
    tensors = load_file(path) | (add or {})
    save_file({n: t.contiguous() for n, t in tensors.items() if n not in drop}, path, metadata={"format": "pt"})


class FixedRunner:
    """A port made with --shape on ONNX Runtime, by what README.md promises and nothing else: one sequence, whose tokens
    stand in the cache at their positions; pieces of a prompt through prefill.onnx, the last of them filled up with
    copies of its last token, and single ones through decode.onnx.
    """

    def __init__(self, port: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        prefill, decode = (
            onnxruntime.InferenceSession(port / name, options, providers=["CPUExecutionProvider"])
            for name in ("prefill.onnx", "decode.onnx")
        )
        self._graphs = {1: decode, prefill.get_inputs()[0].shape[1]: prefill}
        self._inputs = {i.name: i for i in decode.get_inputs()}
        self.batch, self.context = self._inputs["attention_mask"].shape
        self._mask = np.zeros((self.batch, self.context), np.int64)
        past = (i for name, i in self._inputs.items() if name.startswith("past_key_values."))
        self.cache = {i.name: np.full(i.shape, 3.0, KINDS[i.type]) for i in past}  # what stands there must not matter

    def run(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """The logits of new tokens [batch, S] at positions [S]."""
        count = next((n for n in sorted(self._graphs) if n >= ids.shape[1]), max(self._graphs))
        if ids.shape[1] > count:
            parts = [self.run(ids[:, a : a + count], positions[a : a + count]) for a in range(0, ids.shape[1], count)]
            return np.concatenate(parts, axis=1)
        picked = np.minimum(np.arange(count), ids.shape[1] - 1)
        self._mask[:, positions] = 1
        places = np.broadcast_to(positions[picked], (self.batch, count))
        feed = {"input_ids": ids[:, picked], "position_ids": places, "attention_mask": self._mask, **self.cache}
        feed = {name: np.ascontiguousarray(a, KINDS[self._inputs[name].type]) for name, a in feed.items()}
        session = self._graphs[count]
        results = dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))
        logits = results.pop("logits")
        self.cache = {name.replace("present.", "past_key_values."): a for name, a in results.items()}
        return logits[:, : ids.shape[1]]


class Runner:
    """A port on ONNX Runtime, by what DESIGN.md section 6 promises and nothing else."""

    def __init__(self, port: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(port / "model.onnx", options, providers=["CPUExecutionProvider"])
        self._inputs = {i.name: i for i in self._session.get_inputs()}
        self._outputs = [o.name for o in self._session.get_outputs()]

    def empty(self, batch: int, places: int) -> dict[str, np.ndarray]:
        """A cache with nothing in it but `places` that a mask must hide; what stands there must not matter."""
        names = [n for n in self._inputs if n.startswith("past_key_values.")]
        shapes = {n: [batch, self._inputs[n].shape[1], places, self._inputs[n].shape[3]] for n in names}
        return {n: np.full(shape, 3.0, KINDS[self._inputs[n].type]) for n, shape in shapes.items()}

    def run(
        self, ids: np.ndarray, positions: np.ndarray, mask: np.ndarray, cache: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Logits, and the cache for the next call."""
        feed = {"input_ids": ids, "position_ids": positions, "attention_mask": mask, **cache}
        feed = {name: np.ascontiguousarray(a, KINDS[self._inputs[name].type]) for name, a in feed.items()}
        results = dict(zip(self._outputs, self._session.run(None, feed), strict=True))
        logits = results.pop("logits")
        return logits, {name.replace("present.", "past_key_values."): a for name, a in results.items()}
