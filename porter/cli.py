"""The command line: reads arguments, calls one story, hands the result to `render`. No logic lives here."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from porter import __version__
from porter.errors import Interrupted, PorterError

app = typer.Typer(
    name="porter",
    help="Takes large language models off the hardware they were made for: a checkpoint in, a verified ONNX port out.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


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


class ExecutorName(StrEnum):
    """Who writes the weight files."""

    local = "local"
    ray = "ray"


class LevelName(StrEnum):
    """How deep to verify."""

    weights = "weights"
    semantics = "semantics"
    dtype = "dtype"
    distribution = "distribution"
    all = "all"


Form = Annotated[
    str,
    typer.Option(
        help="Weights as codes: none, int8 (a scale per output channel), or int4 (per block of 128, or :64 or :32; "
        "symmetric, or :asymmetric behind it)."
    ),
]
ShardSize = Annotated[
    str,
    typer.Option("--shard-size", help="How large a weight file becomes, as 5GB or 500MB; a larger weight has its own."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"porter {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Exit codes: 0 done or parity holds, 1 parity fails, 2 bad input or usage, 3 inconclusive, 130 interrupted."""


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="A Hugging Face folder: config.json and *.safetensors.")],
    target: Annotated[str, typer.Option("--target", help="The device; `porter targets` lists them.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The port folder to make.")],
    dtype: Annotated[Dtype, typer.Option(help="The port's float type; auto is the front end's first.")] = Dtype.auto,
    attention: Annotated[
        Attention, typer.Option(help="Latent attention: absorbed (decode), expanded (long prefill); auto is absorbed.")
    ] = Attention.auto,
    frontend: Annotated[str | None, typer.Option(help="The way in, where a device has several.")] = None,
    weights: Annotated[
        Weights, typer.Option(help="copy, or reference: the graph points into the checkpoint's own shards.")
    ] = Weights.copy,
    quantize: Form = "none",
    shard_size: ShardSize = "4GiB",
    executor: Annotated[
        ExecutorName, typer.Option(help="Who writes the files: this machine, or a Ray cluster that shares its disk.")
    ] = ExecutorName.local,
    digests: Annotated[
        bool, typer.Option("--digests", help="Take the digests of referenced shards now, not at the first verify.")
    ] = False,
    sign: Annotated[
        Path | None, typer.Option(metavar="KEY", help="Sign the port with this private key: an elliptic curve's, PEM.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a port that is there.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Threads that read, cast and write; all cores.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell the bytes, memory and room needed; write nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Convert a checkpoint into a port for a target. Interrupted, the same command goes on where it stopped."""
    from porter import port, render
    from porter.progress import progress

    with progress(quiet=as_json) as watch:
        result = port.convert(
            checkpoint,
            target,
            output,
            dtype=dtype,
            attention=attention,
            frontend=frontend,
            weights=weights,
            quantize=quantize,
            shard_size=shard_size,
            executor=executor,
            digests=digests,
            sign=sign,
            force=force,
            jobs=jobs,
            dry_run=dry_run,
            watch=watch,
        )
    render.print_json(result) if as_json else render.print_conversion(result)
    if not result.get("fits", True):
        raise PorterError("the port does not fit on that disk", "make room or choose another folder")


@app.command()
def verify(
    port: Annotated[Path, typer.Argument(help="A port folder.")],
    against: Annotated[Path, typer.Option("--against", help="The checkpoint that it was made from.")],
    level: Annotated[
        LevelName,
        typer.Option(
            help="weights: bytes only; semantics: the gate that decides; dtype, distribution: what the dtype costs."
        ),
    ] = LevelName.all,
    public_key: Annotated[
        Path | None,
        typer.Option("--public-key", metavar="PUB", help="Check the port's signature, too; a port without one fails."),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, max=512, help="Tokens to decode, teacher-forced and greedily.")] = 8,
    as_json: Json = False,
) -> None:
    """Prove that a port computes what its checkpoint does. Exits with 0, 1 or 3."""
    from porter import render
    from porter import verify as story
    from porter.progress import progress

    levels = story.LEVELS if level is LevelName.all else (str(level),)
    with progress(quiet=as_json) as watch:
        report = story.verify(port, against, levels=levels, public_key=public_key, tokens=tokens, watch=watch)
    render.print_json(report.to_json()) if as_json else render.print_parity(report.to_json())
    raise typer.Exit(report.exit_code)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A checkpoint folder or a port folder.")],
    as_json: Json = False,
) -> None:
    """Tell what a checkpoint or a port is: architecture, parameters, bytes, cache per token, operators."""
    from porter import inspect as story
    from porter import render

    result = story.inspect(path)
    render.print_json(result) if as_json else render.print_inspection(result)


@app.command()
def targets(
    name: Annotated[str | None, typer.Argument(help="One target, with the source of every fact.")] = None,
    as_json: Json = False,
) -> None:
    """List the targets, or tell what is known of one."""
    from porter import catalogue, render

    result = catalogue.one_target(name) if name else catalogue.all_targets()
    if as_json:
        render.print_json(result)
    elif name:
        render.print_target(result)
    else:
        render.print_targets(result)


def main(arguments: list[str] | None = None) -> None:
    """The `porter` command: what the user can mend becomes two lines and exit code 2, an interrupt 130."""
    given = sys.argv[1:] if arguments is None else arguments
    words = "interrupted"
    try:
        code = app(args=given or ["--help"], prog_name="porter", standalone_mode=False) or 0
        sys.stdout.flush()
    except Interrupted as interrupt:
        code, words = 130, f"{interrupt.message}: {interrupt.hint}"
    except PorterError as error:
        code = _refuse(error)
    except typer.TyperException as error:  # bad usage
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "porter"
        code = _refuse(PorterError(error.format_message().rstrip("."), f"`{command} --help` lists what it takes"))
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except SystemExit:  # Typer's way when the reader of our output left; its code, 1, would say that parity fails
        code = 2
    except BrokenPipeError:  # the same, noticed later
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 2
    if code == 130:
        sys.stderr.write(f"{words}\n")
    sys.exit(code)


def _refuse(error: PorterError) -> int:
    from porter import render

    render.print_error(error)
    return 2


if __name__ == "__main__":
    main()
