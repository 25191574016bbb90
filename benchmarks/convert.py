"""Converting a random Llama of about 1 GB beside `cp` of the same bytes, interleaved in one run.

usage: python benchmarks/convert.py [FOLDER FOR SCRATCH]
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from porter.checkpoint import write_header

CONFIG = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5504,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "torch_dtype": "float32",
}
ROUNDS = 3


def make(folder: Path) -> int:
    """Writes the checkpoint in float32, so that nothing is cast; gives its bytes."""
    hidden, inner, vocabulary = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["vocab_size"]
    square, wide = (hidden, hidden), (inner, hidden)
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "lm_head.weight": (vocabulary, hidden)}
    shapes["model.norm.weight"] = (hidden,)
    for n in range(CONFIG["num_hidden_layers"]):
        layer = f"model.layers.{n}"
        shapes |= {f"{layer}.self_attn.{p}_proj.weight": square for p in "qkvo"}
        shapes |= {f"{layer}.mlp.{p}_proj.weight": wide for p in ("gate", "up")}
        shapes[f"{layer}.mlp.down_proj.weight"] = wide[::-1]
        shapes |= {f"{layer}.{p}_layernorm.weight": (hidden,) for p in ("input", "post_attention")}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    rng = np.random.default_rng(0)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(write_header([(name, "F32", shape) for name, shape in shapes.items()]))
        for shape in shapes.values():
            file.write(rng.standard_normal(shape, dtype=np.float32).tobytes())
        return file.tell()


def main() -> None:
    """Prints seconds, the ratio to cp, and the peak memory that porter reports."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as scratch:
        checkpoint, copy, port = (Path(scratch) / name for name in ("checkpoint", "copy", "port"))
        size = make(checkpoint)
        command = [sys.executable, "-m", "porter", "convert", checkpoint, "--target", "onnxruntime-cpu", "-o", port]
        taken: dict[str, list[float]] = {"cp": [], "porter convert": []}
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            subprocess.run(["cp", "-r", checkpoint, copy], check=True)
            taken["cp"].append(time.perf_counter() - begun)
            begun = time.perf_counter()
            result = subprocess.run([*command, "--json"], check=True, capture_output=True)
            taken["porter convert"].append(time.perf_counter() - begun)
            peak = json.loads(result.stdout)["peak_rss_bytes"]
            shutil.rmtree(copy)
            shutil.rmtree(port)
        base = np.median(taken["cp"])
        print(f"{size / 1e9:.2f} GB float32, nothing cast, median of {ROUNDS}")
        for name, times in taken.items():
            print(f"  {name:15} {np.median(times):6.2f} s   {np.median(times) / base:5.2f} x cp")
        print(f"  peak memory of porter {peak / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
