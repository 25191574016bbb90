"""What the command line takes: every argument and option with its values and the words of its help."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Dtype(StrEnum):
    """The float type of a port."""

    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class Attention(StrEnum):
    """The form of latent attention."""

    auto = "auto"
    absorbed = "absorbed"
    expanded = "expanded"


class Weights(StrEnum):
    """How weights get into a port."""

    copy = "copy"
    reference = "reference"


class Executor(StrEnum):
    """Who writes the weight files."""

    local = "local"
    ray = "ray"


class Level(StrEnum):
    """How deep to verify."""

    weights = "weights"
    semantics = "semantics"
    dtype = "dtype"
    distribution = "distribution"
    all = "all"


class PlanDtype(StrEnum):
    """What a plan's weights or cache are stored in."""

    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    float8e4m3fn = "float8e4m3fn"
    int8 = "int8"
    int4 = "int4"


class Phase(StrEnum):
    """What a split is the best for."""

    decode = "decode"
    prefill = "prefill"


JSON = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]

CHECKPOINT = Annotated[Path, typer.Argument(help="A Hugging Face folder: config.json and *.safetensors.")]
TARGET = Annotated[
    str, typer.Option("--target", help="The device; `porter targets` lists them; or a TOML file of your own.")
]
OUTPUT = Annotated[Path, typer.Option("-o", "--output", help="The port folder to make.")]
DTYPE = Annotated[
    Dtype, typer.Option(help="The port's float type; auto is the most exact that device and front end take.")
]
ATTENTION = Annotated[
    Attention, typer.Option(help="Latent attention: absorbed (decode), expanded (long prefill); auto is absorbed.")
]
FRONTEND = Annotated[str | None, typer.Option(help="The way in, where a device has several; or a TOML file.")]
WEIGHTS = Annotated[
    Weights, typer.Option(help="copy, or reference: the graph points into the checkpoint's own shards.")
]
QUANTIZE = Annotated[
    str,
    typer.Option(
        help="Weights as codes: none, int8 (a scale per output channel), int4 (per block: :32, :64 or :128, the "
        "default; symmetric, or :asymmetric behind it)."
    ),
]
SHARD_SIZE = Annotated[
    str,
    typer.Option("--shard-size", help="How large a weight file becomes, as 5GB or 500MB; a larger weight has its own."),
]
SHAPE = Annotated[
    str | None,
    typer.Option(
        help="Graphs of fixed sizes, as batch=1,sequence=128,context=4096: one for prefill, one for decode; several "
        "lengths as 128/512."
    ),
]
TP = Annotated[
    int, typer.Option("--tp", min=1, help="Cards that heads, inner sizes and the vocabulary are divided over.")
]
EP = Annotated[int, typer.Option("--ep", min=1, help="Cards that the experts are divided over.")]
PP = Annotated[int, typer.Option("--pp", min=1, help="Cards that the layers are divided over; tp * ep * pp in all.")]
PLACEMENT = Annotated[
    Path | None,
    typer.Option(metavar="FILE.json", help="Where experts shall lie, as `porter plan --save-placement` wrote it."),
]
EXECUTOR = Annotated[
    Executor, typer.Option(help="Who writes the files: this machine, or a Ray cluster that shares its disk.")
]
DIGESTS = Annotated[
    bool, typer.Option("--digests", help="Take the digests of referenced shards now, not at the first verify.")
]
SIGN = Annotated[
    Path | None, typer.Option(metavar="KEY", help="Sign the port with this private key: an elliptic curve's, PEM.")
]
FORCE = Annotated[bool, typer.Option("--force", help="Replace a port that is there.")]
JOBS = Annotated[int | None, typer.Option(min=1, help="Threads that read, cast and write; all cores.")]
DRY_RUN = Annotated[bool, typer.Option("--dry-run", help="Tell the bytes, memory and room needed; write nothing.")]

PORT = Annotated[Path, typer.Argument(help="A port folder.")]
VERIFIED = Annotated[Path, typer.Argument(metavar="PORT", help="A port folder; with --replay what --bisect wrote.")]
AGAINST = Annotated[Path | None, typer.Option("--against", help="The checkpoint that it was made from; must be given.")]
LEVEL = Annotated[
    Level,
    typer.Option(
        help="weights: bytes only; semantics: the gate that decides; dtype, distribution: what the dtype costs."
    ),
]
PUBLIC_KEY = Annotated[
    Path | None,
    typer.Option("--public-key", metavar="PUB", help="Check the port's signature, too; a port without one fails."),
]
PROMPTS = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Prompts for the levels that measure, one a line; or .jsonl with a prompt or ids a line.",
    ),
]
TOKENS = Annotated[int, typer.Option(min=1, max=512, help="Tokens to decode, teacher-forced and greedily.")]

LAYERS = Annotated[
    str | None,
    typer.Option(help="Run only these, as 0-3,58-60, one behind the other: a slice, and the verdict says so."),
]
MEMORY = Annotated[
    str | None,
    typer.Option(help="How much to use, as 6GB: a larger model is run layer by layer. Most of what is free."),
]
BISECT = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Where semantics fails, save the first block that is wrong, to be run alone."),
]
REPLAY = Annotated[bool, typer.Option("--replay", help="Run a block that --bisect saved, against what was saved.")]
REPORT = Annotated[
    list[Path] | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Also write the verdict into a file, as its suffix says: .json, .xml (JUnit), .sarif, .md or .html. "
        "May be given several times.",
    ),
]
RUNTIME = Annotated[
    str | None,
    typer.Option(metavar="COMMAND", help="Judge what this program on the device's host computes; docs/runtime.md."),
]
PROVIDER = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Judge what this execution provider of ONNX Runtime computes, not emulated."),
]
SAVE_ROUTES = Annotated[
    Path | None,
    typer.Option(
        "--save-routes", metavar="FILE.npz", help="Record which experts the prompts hit, for `porter plan --routes`."
    ),
]
FRESH = Annotated[
    bool, typer.Option("--fresh", help="Verify anew, even where nothing changed since a verdict that is recorded.")
]

LAUNCH = Annotated[
    int | None, typer.Option(min=2, help="Run a port of several cards as so many processes, through torchrun.")
]

PATH = Annotated[Path, typer.Argument(help="A checkpoint folder or a port folder.")]
TARGET_NAME = Annotated[
    str | None, typer.Argument(help="One target, or a TOML file of your own, with the source of every fact.")
]
COVERAGE = Annotated[
    bool, typer.Option("--coverage", help="Lower every family for every front end (of NAME): taken, expanded, refused.")
]

CONFIG = Annotated[Path, typer.Argument(help="A checkpoint folder, with weights or without, or a config.json.")]
TARGETS = Annotated[
    str, typer.Option("--target", help="The devices, as a,b,c; `porter targets` lists them; or TOML files of your own.")
]
CARDS = Annotated[
    str | None,
    typer.Option(help="How many, as 8 or 8,16,32; by default the fewest that fit, and two and four times as many."),
]
PLAN_TP = Annotated[
    int | None, typer.Option("--tp", min=1, help="Ranks that heads and columns are cut over; searched for.")
]
PLAN_EP = Annotated[int | None, typer.Option("--ep", min=1, help="Groups that experts are divided over; searched for.")]
PLAN_PP = Annotated[int | None, typer.Option("--pp", min=1, help="Stages that layers are divided over; searched for.")]
PLAN_DTYPE = Annotated[
    PlanDtype, typer.Option("--dtype", help="Of the weights; auto is what they are stored in, or the nearest there is.")
]
CACHE_DTYPE = Annotated[PlanDtype, typer.Option("--cache-dtype", help="Of the cache; auto is that of activations.")]
BATCH = Annotated[
    int | None, typer.Option(min=1, help="Sequences decoded at once by all cards together; the most that fit.")
]
CONTEXT = Annotated[
    int | None, typer.Option(min=1, help="Tokens that each sequence has in the cache; 4096, or what the model has.")
]
PROMPT = Annotated[int | None, typer.Option(min=1, help="Tokens of a prompt in prefill; as many as --context.")]
ACCEPTED = Annotated[
    float,
    typer.Option(min=1, max=16, help="Tokens that a sequence gains in a step, as 1.7 by multi-token prediction."),
]
SLO = Annotated[float | None, typer.Option(min=0.001, metavar="MS", help="The most milliseconds of an output token.")]
PHASE = Annotated[Phase, typer.Option(help="What the split shall be the best for.")]
ROUTES = Annotated[
    Path | None,
    typer.Option(metavar="FILE.npz", help="Routes of `porter verify --save-routes`: experts are placed where they go."),
]
REPLICAS = Annotated[
    int, typer.Option(min=0, help="Places of each card for copies of the experts with most tokens, with --routes.")
]
SAVE_PLACEMENT = Annotated[
    Path | None, typer.Option("--save-placement", metavar="FILE.json", help="Write where the experts lie.")
]
EXPLAIN = Annotated[bool, typer.Option("--explain", help="Every number with its formula, its inputs and its source.")]
PAGE = Annotated[
    Path | None, typer.Option("--report", metavar="FILE.html", help="The plan as a page with charts, in one file.")
]
