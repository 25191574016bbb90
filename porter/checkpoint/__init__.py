"""A checkpoint folder, opened without reading its weights and without trusting it."""

from porter.checkpoint.folder import Checkpoint, open_checkpoint
from porter.checkpoint.safetensors import DTYPES, TensorInfo, parse_header, write_header

__all__ = ["DTYPES", "Checkpoint", "TensorInfo", "open_checkpoint", "parse_header", "write_header"]
