"""The original runs as transformers runs it, in one pass or in several."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from inside import inside

from porter.errors import ParityError
from porter.verify.original import Original
from porter.verify.part import Past

IDS = np.random.default_rng(0).integers(0, 97, (2, 11))
Load = Callable[..., Original]


def plain(folder: Path) -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    )


def in_pieces(model: Original, pieces: list[int]) -> tuple[np.ndarray, Past | None]:
    """Compute the logits of IDS, so many tokens at a time."""
    logits, past, start = [], None, 0
    for size in pieces:
        trace, past = model.run(IDS[:, start : start + size], past=past)
        logits.append(trace.logits)
        start += size
    return np.concatenate(logits, axis=1), past


def test_float32_is_what_transformers_gives(name: str, checkpoint: Callable[[str], Path], original: Load) -> None:
    trace, _ = original(name, "float32").run(IDS)
    with torch.no_grad():
        expected = plain(checkpoint(name))(torch.from_numpy(IDS), output_hidden_states=True)
    assert trace.logits.dtype == np.float32
    assert np.array_equal(trace.logits, expected.logits.numpy())
    assert np.array_equal(trace.layers[0], expected.hidden_states[1].numpy())


def test_float64_is_near_float32_but_not_it(name: str, original: Load) -> None:
    double, single = (original(name, precision).run(IDS)[0] for precision in ("float64", "float32"))
    assert double.logits.dtype == np.float64
    assert double.logits.std() > 0.1
    assert 1e-9 < np.abs(double.logits - single.logits).max() < 1e-4


def test_the_last_layer_leads_to_the_logits(name: str, original: Load) -> None:
    model = original(name)
    trace, _ = model.run(IDS)
    rest = inside(model)
    assert len(trace.layers) == model.layers == len(trace.cache) == 2
    x = trace.layers[1]
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + rest.config.rms_norm_eps) * rest.model.norm.weight.numpy()
    assert np.abs(x @ rest.lm_head.weight.numpy().T - trace.logits).max() < 1e-12


@pytest.mark.parametrize("pieces", [[1] * 11, [4, 1, 6]])
def test_pieces_through_the_cache_are_the_whole(steady: str, pieces: list[int], original: Load) -> None:
    whole, past = original(steady).run(IDS)
    logits, pieced = in_pieces(original(steady), pieces)
    assert np.abs(logits - whole.logits).max() < 1e-12
    assert pieced is not None
    for layer in range(2):
        for side in range(2):
            assert torch.allclose(past.cache[layer][side], pieced.cache[layer][side], rtol=0, atol=1e-12)


def test_pieces_are_what_transformers_gives(name: str, checkpoint: Callable[[str], Path], original: Load) -> None:
    logits, _ = in_pieces(original(name, "float32"), [7, 1, 3])
    model, cache, expected = plain(checkpoint(name)), None, []
    with torch.no_grad():
        for piece in torch.from_numpy(IDS).split([7, 1, 3], dim=1):
            output = model(piece, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            expected.append(output.logits)
    assert np.abs(logits - torch.cat(expected, dim=1).numpy()).max() < 1e-5


def test_a_past_can_be_continued_twice(name: str, original: Load) -> None:
    model = original(name)
    before, past = model.run(IDS[:, :5])
    once, _ = model.run(IDS[:, 5:], past=past)
    before.cache[0][0][:] = 0
    again, _ = model.run(IDS[:, 5:], past=past)
    assert np.array_equal(once.logits, again.logits)
    assert again.cache[0][0].shape[2] == 11


def test_left_padding_changes_nothing(steady: str, original: Load) -> None:
    alone, _ = original(steady).run(IDS[:1, :7])
    ids = np.stack([np.r_[[0] * 4, IDS[0, :7]], IDS[1]])
    mask = np.stack([np.r_[[0] * 4, [1] * 7], np.ones(11, int)])
    positions = np.maximum(mask.cumsum(-1) - 1, 0)
    padded, past = original(steady).run(ids, attention_mask=mask, position_ids=positions)
    assert np.abs(padded.logits[0, 4:] - alone.logits[0]).max() < 1e-12
    one = np.ones((2, 1), int)
    step, _ = original(steady).run(
        one, attention_mask=np.hstack([mask, one]), position_ids=positions[:, -1:] + 1, past=past
    )
    unpadded, _ = original(steady).run(np.r_[IDS[0, :7], 1][None])
    assert np.abs(step.logits[0, 0] - unpadded.logits[0, 7]).max() < 1e-12


def test_a_mask_that_leaves_out_the_past_is_refused(original: Load) -> None:
    _, past = original("llama").run(IDS)
    with pytest.raises(ParityError, match=r"shape \(2, 1\)"):
        original("llama").run(IDS[:, :1], past=past, attention_mask=np.ones((2, 1)))


def test_the_cache_keeps_what_lies_before_the_sliding_window(checkpoint: Callable[[str], Path], original: Load) -> None:
    trace, past = original("mistral", "float32").run(IDS)
    step, _ = original("mistral", "float32").run(IDS[:, :1], past=past)
    assert trace.cache[0][0].shape == (2, 2, 11, 8)
    with torch.no_grad():
        own = plain(checkpoint("mistral"))
        first = own(torch.from_numpy(IDS), use_cache=True)
        second = own(torch.from_numpy(IDS[:, :1]), past_key_values=first.past_key_values)
    assert first.past_key_values.layers[0].keys.shape[2] == 3
    assert np.abs(step.logits - second.logits.numpy()).max() < 1e-5


def test_the_cache_of_latent_attention_is_the_latent(original: Load) -> None:
    trace, _ = original("deepseek_v3").run(IDS)
    assert [part.shape for part in trace.cache[1]] == [(2, 1, 11, 12), (2, 1, 11, 4)]


def test_dynamic_frequencies_belong_to_the_sequence(original: Load) -> None:
    model = original("llama-dynamic")
    short, past_short = model.run(IDS[:, :5])
    long, past_long = model.run(np.tile(IDS, 3))
    again, _ = model.run(IDS[:, :5])
    assert np.array_equal(short.logits, again.logits)
    one_more = [model.run(IDS[:, :1], past=past)[0].logits for past in (past_long, past_short, past_long, past_short)]
    assert np.array_equal(one_more[0], one_more[2])
    assert np.array_equal(one_more[1], one_more[3])
    assert np.abs(long.logits[:, :5] - short.logits).max() > 1e-3


def test_greedy_takes_the_likeliest_token(steady: str, original: Load) -> None:
    tokens, logits = original(steady).greedy(IDS[:1, :2], 5)
    whole, _ = original(steady).run(np.r_[IDS[0, :2], tokens[:-1]][None])
    assert np.abs(whole.logits[0, 1:] - logits).max() < 1e-12
    assert np.array_equal(tokens, logits.argmax(-1))


def test_sizes(original: Load) -> None:
    model = original("llama-dynamic")
    assert (model.layers, model.vocabulary, model.max_positions) == (2, 97, 8)


def test_it_says_nothing_and_calls_nobody(checkpoint: Callable[[str], Path]) -> None:
    program = (
        "import socket, sys, numpy, pathlib\n"
        "socket.socket.connect = socket.getaddrinfo = None\n"
        "from porter.verify.original import Original\n"
        "Original(pathlib.Path(sys.argv[1]), 'float64').run(numpy.array([[1, 2]]))\n"
    )
    command = [sys.executable, "-W", "default", "-c", program, str(checkpoint("deepseek_v3"))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
