"""From the neutral graph to the one that a front end takes."""

from __future__ import annotations

import onnx_ir as ir

from porter import __version__
from porter.errors import TargetError, known_names
from porter.graph import inferred
from porter.passes import passes
from porter.passes.checks import check
from porter.passes.lower import Lower
from porter.target import Frontend


def lower(graph: ir.Graph, frontend: Frontend) -> tuple[ir.Model, dict[str, int]]:
    """Runs the front end's passes and checks; gives the model and what became of its functions.

    Raises TargetError for an operator that the front end does not take, or a rule that is broken.
    """
    model = ir.Model(graph, ir_version=frontend.ir_version, producer_name="porter", producer_version=__version__)
    report: dict[str, int] = {}
    for name in frontend.passes:
        if name not in passes():
            raise TargetError(f"{frontend.name}: no pass is called '{name}'", known_names(name, passes()))
        step = passes()[name](frontend)
        step(model)
        if isinstance(step, Lower):
            report = step.report(model)
    check(inferred(model), frontend)
    return model, report
