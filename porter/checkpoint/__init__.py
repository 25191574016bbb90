"""A checkpoint folder, opened without reading its weights and without trusting it."""

from porter.checkpoint.config import read_config
from porter.checkpoint.folder import Checkpoint, Read, open_checkpoint
from porter.checkpoint.safetensors import DTYPES, TensorInfo, parse_header, write_header

__all__ = [
    "DTYPES",
    "Checkpoint",
    "Read",
    "TensorInfo",
    "open_checkpoint",
    "parse_header",
    "read_config",
    "write_header",
]
