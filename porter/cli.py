"""The command line: reads arguments, calls one story, hands the result to `render`. No logic lives here."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from porter import __version__, options
from porter.errors import Interrupted, PorterError

app = typer.Typer(
    name="porter",
    help="Takes large language models off the hardware they were made for: a checkpoint in, a verified ONNX port out.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


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


def _list_families(value: bool) -> None:
    if value:
        from porter import gallery, render_families

        render_families.print_families(gallery.gallery())
        raise typer.Exit


@app.command()
def convert(
    checkpoint: options.CHECKPOINT,
    target: options.TARGET,
    output: options.OUTPUT,
    dtype: options.DTYPE = options.Dtype.auto,
    attention: options.ATTENTION = options.Attention.auto,
    frontend: options.FRONTEND = None,
    weights: options.WEIGHTS = options.Weights.copy,
    quantize: options.QUANTIZE = "none",
    shard_size: options.SHARD_SIZE = "4GiB",
    shape: options.SHAPE = None,
    tp: options.TP = 1,
    ep: options.EP = 1,
    pp: options.PP = 1,
    placement: options.PLACEMENT = None,
    executor: options.EXECUTOR = options.Executor.local,
    digests: options.DIGESTS = False,
    sign: options.SIGN = None,
    force: options.FORCE = False,
    jobs: options.JOBS = None,
    dry_run: options.DRY_RUN = False,
    list_families: Annotated[
        bool,
        typer.Option(
            "--list-families", callback=_list_families, is_eager=True, help="Tell which families of models are known."
        ),
    ] = False,
    as_json: options.JSON = False,
) -> None:
    """Convert a checkpoint into a port for a target. Interrupted, the same command goes on where it stopped."""
    from porter import port, render, render_conversion
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
            shape=shape,
            tp=tp,
            ep=ep,
            pp=pp,
            placement=placement,
            executor=executor,
            digests=digests,
            sign=sign,
            force=force,
            jobs=jobs,
            dry_run=dry_run,
            watch=watch,
        )
    render.print_json(result) if as_json else render_conversion.print_conversion(result)
    if not result.get("fits", True):
        raise PorterError("the port does not fit on that disk", "make room or choose another folder")


@app.command()
def verify(
    port: options.VERIFIED,
    against: options.AGAINST = None,
    level: options.LEVEL = options.Level.all,
    public_key: options.PUBLIC_KEY = None,
    tokens: options.TOKENS = 8,
    prompts: options.PROMPTS = None,
    layers: options.LAYERS = None,
    memory: options.MEMORY = None,
    launch: options.LAUNCH = None,
    bisect: options.BISECT = None,
    replay: options.REPLAY = False,
    files: options.REPORT = None,
    runtime: options.RUNTIME = None,
    provider: options.PROVIDER = None,
    save_routes: options.SAVE_ROUTES = None,
    fresh: options.FRESH = False,
    as_json: options.JSON = False,
) -> None:
    """Prove that a port computes what its checkpoint does. Exits with 0, 1 or 3."""
    from porter import recorded, render, reports
    from porter.progress import progress

    reports.check_files(files or (), [folder for folder in (port, against) if folder])
    every = tuple(str(one) for one in options.Level if one is not options.Level.all)
    with progress(quiet=as_json) as watch:
        if replay:
            document, code = recorded.replay(port, against)
        elif against is None:
            raise PorterError("Missing option '--against'", "`porter verify --help` lists what it takes")
        else:
            document, code = recorded.verify(
                port,
                against,
                levels=every if level is options.Level.all else (str(level),),
                fresh=fresh,
                public_key=public_key,
                tokens=tokens,
                prompts=prompts,
                layers=layers,
                memory=memory,
                launch=launch,
                bisect=bisect,
                runtime=runtime,
                provider=provider,
                save_routes=save_routes,
                watch=watch,
            )
    render.print_json(document) if as_json else render.print_parity(document)
    reports.write_files(files or (), document)
    render.print_commands(reports.annotations_for(files or (), document))
    raise typer.Exit(code)


@app.command()
def inspect(
    path: options.PATH,
    as_json: options.JSON = False,
) -> None:
    """Tell what a checkpoint or a port is: architecture, parameters, bytes, cache per token, operators."""
    from porter import inspect as story
    from porter import render

    result = story.inspect(path)
    render.print_json(result) if as_json else render.print_inspection(result)


@app.command()
def plan(
    checkpoint: options.CONFIG,
    target: options.TARGETS,
    cards: options.CARDS = None,
    tp: options.PLAN_TP = None,
    ep: options.PLAN_EP = None,
    pp: options.PLAN_PP = None,
    dtype: options.PLAN_DTYPE = options.PlanDtype.auto,
    cache_dtype: options.CACHE_DTYPE = options.PlanDtype.auto,
    batch: options.BATCH = None,
    context: options.CONTEXT = None,
    prompt: options.PROMPT = None,
    accepted: options.ACCEPTED = 1.0,
    slo: options.SLO = None,
    phase: options.PHASE = options.Phase.decode,
    routes: options.ROUTES = None,
    replicas: options.REPLICAS = 0,
    save_placement: options.SAVE_PLACEMENT = None,
    explain: options.EXPLAIN = False,
    report: options.PAGE = None,
    as_json: options.JSON = False,
) -> None:
    """Tell what a model would need and reach on each target: cards, split, bytes, tokens per second at most."""
    from porter import plan as story
    from porter import render, render_plan

    result = story.plan(
        checkpoint,
        target.split(","),
        cards=story.cards_of(cards),
        split=story.split_of(tp, ep, pp),
        dtype=dtype,
        cache_dtype=cache_dtype,
        batch=batch,
        context=context,
        prompt=prompt,
        accepted=accepted,
        slo=None if slo is None else slo / 1000,
        phase=phase.value,
        routes=routes,
        replicas=replicas,
        explained=explain,
    )
    if save_placement is not None:
        story.write_placement(save_placement, result)
    if report is not None:
        story.write_page(report, result)
    render.print_json(result) if as_json else render_plan.print_plan(result)


@app.command()
def compile(port: options.PORT, sign: options.SIGN = None, as_json: options.JSON = False) -> None:
    """Compile a port with the vendor's own tool where it is installed; else tell the exact command."""
    from porter import compilation, render

    result = compilation.compile_port(port, sign=sign, say=render.say)
    render.print_json(result) if as_json else render.print_compilation(result)


@app.command()
def targets(
    name: options.TARGET_NAME = None,
    coverage: options.COVERAGE = False,
    as_json: options.JSON = False,
) -> None:
    """List the targets, tell what is known of one, or which family of models each front end takes."""
    from porter import catalogue, render, render_targets

    if coverage:
        _coverage(name, as_json)
        return
    result = catalogue.one_target(name) if name else catalogue.all_targets()
    show = render_targets.print_target if name else render_targets.print_targets
    render.print_json(result) if as_json else show(result)


def _coverage(name: str | None, as_json: bool) -> None:
    from porter import coverage, render, render_targets
    from porter.progress import progress

    with progress(quiet=as_json) as watch:
        result = coverage.coverage(name, watch=watch)
    render.print_json(result) if as_json else render_targets.print_coverage(result)


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
