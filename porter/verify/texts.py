"""Prompts of text: cut from the text that comes with porter, or the user's own from a file.

Both take the checkpoint's tokenizer.json. What follows a token is then what stands in the text, and the perplexity over
it a real one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import Tokenizer

from porter.errors import ParityError

TEXT = Path(__file__).parent / "prompts.txt"
TOKENIZER = "tokenizer.json"
FEWEST = 8  # prompts that a file must have: an interval is over prompts
SHORTEST = 8  # tokens of each
LONGEST = 128  # tokens of each that are read
KEPT = 2**31  # bytes that the logits of all prompts may take in float64


@dataclass(frozen=True)
class Texts:
    """Token ids, [N, S + 1] for each helping: the next one is for what the one before leaves undecided."""

    source: Literal["bundled", "file"]
    helpings: tuple[np.ndarray, ...]
    notes: tuple[str, ...] = ()


def bundled(folder: Path, vocabulary: int, length: int, counts: Sequence[int]) -> Texts | None:
    """As many prompts as the `counts` say, of `length` tokens and the one that follows; None where the checkpoint has
    no tokenizer, or one that knows more tokens than the model.

    They lie evenly over the whole text, whose languages so come in every helping, and each helping has its own.
    """
    try:
        tokenizer = open_tokenizer(folder)
    except ParityError:
        return None
    opening, ids = _opening(tokenizer), tokenizer.encode(TEXT.read_text("utf-8"), add_special_tokens=False).ids
    taken = length + 1 - len(opening)
    if taken < 2 or len(ids) < taken or max([*opening, *ids]) >= vocabulary:
        return None
    starts = np.linspace(0, len(ids) - taken, sum(counts)).astype(int)
    windows = np.array([[*opening, *ids[start : start + taken]] for start in starts])
    return Texts("bundled", tuple(windows[picked] for picked in _spread(counts)))


def _spread(counts: Sequence[int]) -> Iterator[np.ndarray]:
    """Numbers from 0 to the sum of the counts, dealt out evenly: so many for each."""
    left = np.arange(sum(counts))
    for count in counts:
        picked = np.linspace(0, len(left) - 1, count).round().astype(int)
        yield left[picked]
        left = np.delete(left, picked)


def from_file(path: Path, folder: Path, vocabulary: int, positions: int | None) -> Texts:
    """The user's own: a prompt a line, or in a file whose name ends in .jsonl an object a line with `prompt` or `ids`.

    All are cut to the length of the shortest, and to LONGEST: notes tell what was. Raises ParityError where the file
    cannot be read as that, or says too little.
    """
    prompts = list(_read(path, folder))
    if len(prompts) < FEWEST:
        message = f"{path} has {len(prompts)} prompts, and no interval can be made of so few"
        raise ParityError(message, f"give {FEWEST} or more, one a line")
    for line, ids in prompts:
        if len(ids) < SHORTEST:
            message = f"{path}, line {line}: the prompt has {len(ids)} tokens, and all are cut to the shortest"
            raise ParityError(message, f"each needs {SHORTEST} or more: lengthen the line, or leave it out")
        if strange := [n for n in ids if not 0 <= n < vocabulary]:
            message = f"{path}, line {line}: token {strange[0]} is not in the vocabulary"
            raise ParityError(message, f"the checkpoint has the tokens 0 to {vocabulary - 1}")
    shortest = min(prompts, key=lambda prompt: len(prompt[1]))
    room = KEPT // (8 * vocabulary * len(prompts)) + 1
    length = min(len(shortest[1]), LONGEST, room, (positions or LONGEST) + 1)
    if length < min(SHORTEST, (positions or LONGEST) + 1):
        message = f"{path} has {len(prompts)} prompts: the logits of all would take more than {KEPT // 2**30} GiB"
        raise ParityError(message, "give fewer")
    return Texts("file", (np.array([ids[:length] for _, ids in prompts]),), _cut(prompts, shortest, length))


def _cut(prompts: Sequence[tuple[int, list[int]]], shortest: tuple[int, list[int]], length: int) -> tuple[str, ...]:
    longer = sum(len(ids) > length for _, ids in prompts)
    if not longer:
        return ()
    why = f", as many as the shortest (line {shortest[0]}) has" if len(shortest[1]) == length else ""
    return (f"each prompt was cut to its first {length} tokens{why}: {longer} of {len(prompts)} were longer",)


def _read(path: Path, folder: Path) -> Iterator[tuple[int, list[int]]]:
    """The number of each line that is not empty, and its token ids."""
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as cause:
        raise ParityError(f"{path} cannot be read: {cause}", "prompts are UTF-8 text, one a line") from cause
    tokenizer: Tokenizer | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        given = _object(path, number, line) if path.suffix == ".jsonl" else line
        if isinstance(given, str):
            tokenizer = tokenizer or open_tokenizer(folder)
            given = [*_opening(tokenizer), *tokenizer.encode(given, add_special_tokens=False).ids]
        yield number, given


def _object(path: Path, number: int, line: str) -> str | list[int]:
    """What a line of JSON gives: a text, or ids."""
    try:
        found: Any = json.loads(line)
    except ValueError:
        found = None
    if isinstance(found, dict) and len({"prompt", "ids"} & set(found)) == 1:
        given = found.get("prompt", found.get("ids"))
        if isinstance(given, str) and "prompt" in found:
            return given
        if isinstance(given, list) and "ids" in found and all(type(n) is int for n in given):
            return given
    hint = 'a line is {"prompt": "a text"} or {"ids": [1, 2, 3]}'
    raise ParityError(f"{path}, line {number}: neither a prompt nor token ids", hint)


def open_tokenizer(folder: Path) -> Tokenizer:
    """The checkpoint's. Raises ParityError where it has none that can be read."""
    path = folder / TOKENIZER
    if not path.is_file():
        hint = 'token ids need none: a .jsonl file of {"ids": [1, 2, 3]} a line'
        raise ParityError(f"{folder} has no {TOKENIZER} to read prompts with", hint)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as cause:  # a plain Exception is what the package raises
        raise ParityError(f"{path} cannot be read: {cause}", "take one that the tokenizers package reads") from cause
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _opening(tokenizer: Tokenizer) -> list[int]:
    """The special tokens that a text begins with; none that ends one, since these texts go on."""
    plain, special = (tokenizer.encode("a", add_special_tokens=added).ids for added in (False, True))
    before = next((n for n in range(len(special)) if special[n : n + len(plain)] == plain), 0)
    return list(special[:before])
