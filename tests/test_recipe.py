"""compile.sh: where a front end has a command line, a script that a shell can read, with this port's own inputs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import takers

from porter.port import convert
from porter.target import find_target

TARGETS = takers.DEVICES


@pytest.fixture(scope="module")
def scripts(deepseek: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """Target → its compile.sh, if it has one."""
    folder = tmp_path_factory.mktemp("ports")
    for target in TARGETS:
        convert(deepseek, target, folder / target)
    found = {target: folder / target / "compile.sh" for target in TARGETS}
    return {target: path.read_text() if path.exists() else None for target, path in found.items()}


@pytest.mark.parametrize("target", TARGETS)
def test_a_script_is_there_where_the_front_end_has_a_command(target: str, scripts: dict[str, str | None]) -> None:
    text = scripts[target]
    assert (text is None) == (find_target(target).frontend.compile is None)
    if text is not None:
        assert text.startswith("#!/bin/sh\n")
        assert "{" not in text.replace("${", ""), "every placeholder is filled"
        assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0


def test_atc_learns_which_dimensions_vary(scripts: dict[str, str | None]) -> None:
    """No past place at all is not allowed there: the range starts at one."""
    text = scripts["ascend-910b"]
    assert text is not None
    assert "--model=model.onnx --output=model" in text
    assert "input_ids:-1,-1;position_ids:-1,-1;attention_mask:-1,-1" in text
    assert "past_key_values.0.latent:-1,1,1~256,26" in text


@pytest.mark.parametrize(("soc", "code"), [("Ascend910B3", 0), ("", 2)])
def test_the_script_asks_which_card_it_is_where_several_bear_the_name(
    soc: str, code: int, scripts: dict[str, str | None], tmp_path: Path
) -> None:
    text = scripts["ascend-910b"]
    assert text is not None
    (tmp_path / "compile.sh").write_text(text)
    (tmp_path / "atc").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "atc").chmod(0o755)
    settings = {"PATH": f"{tmp_path}:/usr/bin:/bin"} | ({"SOC_VERSION": soc} if soc else {})
    done = subprocess.run(["sh", tmp_path / "compile.sh"], env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert (f"--soc_version={soc}" in done.stdout) if soc else ("one of Ascend910B" in done.stderr)
