"""Loads a checkpoint into transformers' own class, from local files, with every tensor accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers

from porter.errors import ParityError
from porter.verify.dequantise import dequantise
from porter.verify.stored import Tensors, check_tensors, drop_unused, read_tensors

huggingface_hub.constants.HF_HUB_OFFLINE = True  # what the variable of that name sets, but at any time
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def read_checkpoint(folder: Path) -> tuple[Any, Tensors]:
    """Read the config and all that the model takes, what is quantised multiplied out, the rest as it is stored."""
    config = _read_config(folder)
    predictors = getattr(config, "num_nextn_predict_layers", None) or 0
    tensors = drop_unused(read_tensors(folder), config.num_hidden_layers, predictors)
    quantisation = config.__dict__.pop("quantization_config", None)  # so that the model has plain weights
    if quantisation is not None:
        tensors = dequantise(tensors, quantisation)
    check_tensors(tensors)
    return config, tensors


def build_model(config: Any, tensors: Tensors, dtype: torch.dtype) -> Any:
    """Let transformers build its model from these tensors, upcast to `dtype`.

    It would fill a missing one with random numbers and go on, so what it reports is an error here.
    """
    try:
        model, report = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=dtype,
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
        return transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as cause:  # each model's config has its own ways to fail
        first = next(iter(str(cause).splitlines()), type(cause).__name__)
        raise ParityError(
            f"transformers cannot read {folder / 'config.json'}: {first}",
            f"the original must be a model that transformers {transformers.__version__} knows",
        ) from cause
