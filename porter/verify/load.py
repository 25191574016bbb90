"""Loads a checkpoint into transformers' own class, from local files, with every tensor accounted for."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers
from torch import nn

from porter.errors import ParityError
from porter.families import original_type
from porter.verify.dequantise import dequantise
from porter.verify.precision import Precision, arithmetic
from porter.verify.stages import LAYER, Stage
from porter.verify.stored import Tensors, check_tensors, drop_unused, read_tensors, tensor_files

HEAD = "lm_head.weight"
Override = Callable[[Callable[[str], bool]], Tensors]  # of tensors whose names are wanted, what stands in for them

huggingface_hub.constants.HF_HUB_OFFLINE = True  # what the variable of that name sets, but at any time
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


class Stored:
    """A checkpoint that transformers can read: its config, and its tensors where they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.config = _read_config(folder)
        predictors = getattr(self.config, "num_nextn_predict_layers", None) or 0
        self._files = drop_unused(tensor_files(folder), self.config.num_hidden_layers, predictors)
        # Taken out, so that the model has plain weights:
        self._quantisation = self.config.__dict__.pop("quantization_config", None)

    @property
    def has_sdpa(self) -> bool:
        """Whether transformers has this model with PyTorch's own attention, too."""
        return bool(self.kind._supports_sdpa)

    @property
    def kind(self) -> Any:
        """The class that transformers has for it."""
        return transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(self.config)]

    def read(self, wanted: Callable[[str], bool] = lambda name: True) -> Tensors:
        """Tensors by their names; what is quantised is multiplied out, the rest as it is stored."""
        tensors = read_tensors({name: path for name, path in self._files.items() if wanted(name)})
        if self._quantisation is not None:
            tensors = dequantise(tensors, self._quantisation)
        check_tensors(tensors)
        return tensors


class Absent(nn.Module):  # type: ignore[misc]
    """In the place of a layer, or of an end, that is not in memory: what comes in goes out."""

    def forward(self, hidden: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        """[B, S, D], as it was given."""
        return hidden


class Rows(nn.Module):  # type: ignore[misc]
    """An embedding whose table stays in its file: [B, S] → [B, S, D]."""

    def __init__(self, table: torch.Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self._table, self._dtype = table, dtype

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """The rows, cast: that is exact."""
        return nn.functional.embedding(ids, self._table).to(self._dtype)


class Output(nn.Module):  # type: ignore[misc]
    """An output projection whose table stays in its file: [B, S, D] → [B, S, V], a few words at a time."""

    WORDS = 8192

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self._table = table

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """In the precision of what comes in."""
        parts = self._table.split(self.WORDS)
        return torch.cat([nn.functional.linear(hidden, part.to(hidden.dtype)) for part in parts], dim=-1)


def build_model(stored: Stored, precision: Precision, override: Override, stage: Stage | None) -> Any:
    """Let transformers build its model upcast to `precision`, or a `stage` of it: its own class, with the other layers
    absent. `override` gives tensors that stand in for the checkpoint's own of the same names.

    It would fill a missing one with random numbers and go on, so what it reports is an error here.
    """
    kind = stored.kind
    if stage is None:
        return _build(kind, stored.config, stored.read() | override(lambda name: True), precision)
    config = copy.deepcopy(stored.config)
    config.tie_word_embeddings = False  # each end has its own stage
    with torch.device("meta"):
        empty = kind(config)
    _check_layers(empty)
    table = _embedding_of(empty)

    def wanted(name: str) -> bool:
        return stage.holds(name) or (stage.head and LAYER.match(name) is None and name not in (table, HEAD))

    model = _build(_part(kind, stage), config, stored.read(wanted) | override(wanted), precision)
    if stage.embedding:
        model.set_input_embeddings(Rows(stored.read(lambda name: name == table)[table], getattr(torch, precision)))
    if stage.head:
        ends = stored.read(lambda name: name in (table, HEAD))
        model.lm_head = Output(ends.get(HEAD, ends.get(table)))
    return model


def _embedding_of(model: Any) -> str:
    """The name of its table. Raises ParityError for an embedding that does more than look rows up."""
    module = model.get_input_embeddings()
    if type(module) is not nn.Embedding:
        raise ParityError(f"{type(module).__name__} cannot be read in parts", "give --memory for the whole model")
    return next(f"{name}.weight" for name, found in model.named_modules() if found is module)


def _check_layers(model: Any) -> None:
    """Raises ParityError for layers that are given more by the one before than hidden states."""
    (layer,) = {type(layer) for layer in model.base_model.layers}
    if any(name.startswith("prev_") for name in inspect.signature(layer.forward).parameters):
        message = f"{layer.__name__} is handed more than hidden states by the layer before it"
        raise ParityError(message, "it cannot be read in parts: give --memory for the whole model, and no --layers")


def _part(kind: Any, stage: Stage) -> Any:
    """The class of the model without what the stage has not."""

    class Part(kind):  # type: ignore[misc]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            base = self.base_model
            for n in range(len(base.layers)):
                if n not in stage.layers:
                    base.layers[n] = Absent()
            for name, module in list(base.named_children()):
                ends = module is not base.layers and next(module.parameters(), None) is not None
                if ends and (module is self.get_input_embeddings() or not stage.head):
                    setattr(base, name, Absent())
            self.lm_head = Absent()

    Part.__name__ = kind.__name__
    return Part


def _build(kind: Any, config: Any, tensors: Tensors, precision: Precision) -> Any:
    try:
        with arithmetic(precision):
            model, report = kind.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                dtype=getattr(torch, precision),
                attn_implementation="eager",
                experts_implementation="eager",
                ignore_mismatched_sizes=True,  # they come back in the report, by name
                output_loading_info=True,
                local_files_only=True,
            )
    except (KeyError, RuntimeError, ValueError) as cause:
        raise ParityError(
            f"transformers cannot load the checkpoint as {config.model_type}: {cause}",
            "its tensors and its config.json must belong together",
        ) from cause
    wrong = [f"{name} is missing" for name in report["missing_keys"]]
    wrong += [f"{name} is not in the model" for name in report["unexpected_keys"] if not _adds_nothing(name, tensors)]
    wrong += [f"{name} is {tuple(is_)}, not {tuple(must)}" for name, is_, must in report["mismatched_keys"]]
    if wrong:
        raise ParityError("; ".join(sorted(wrong)[:5]), "the original needs the tensors of its config.json")
    return model.requires_grad_(False)


def _adds_nothing(name: str, tensors: Tensors) -> bool:
    """Whether it is a bias of zeros, which some quantisers write for layers that have none."""
    return name.endswith(".bias") and not tensors[name].any()


def _read_config(folder: Path) -> Any:
    try:
        raw, _ = transformers.PreTrainedConfig.get_config_dict(str(folder), local_files_only=True)
        if stand_in := original_type(raw):  # transformers has no class of that name, but one that is the same
            return transformers.AutoConfig.for_model(stand_in, **{k: v for k, v in raw.items() if k != "model_type"})
        return transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as cause:  # each model's config has its own ways to fail
        first = next(iter(str(cause).splitlines()), type(cause).__name__)
        raise ParityError(
            f"transformers cannot read {folder / 'config.json'}: {first}",
            f"the original must be a model that transformers {transformers.__version__} knows",
        ) from cause
