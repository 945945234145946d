"""`build-engines`: exit 0 fine, 2 the user's mistake (one line), 3 a gate refused, 1 a bug (with its trace)."""

from __future__ import annotations

import sys

import click

from build_engines.cli.compare import compare_command
from build_engines.cli.degrade import degrade_command
from build_engines.cli.evaluate import evaluate_command
from build_engines.cli.fleet import fleet_command, mine_command
from build_engines.cli.grammar import grammar_command
from build_engines.cli.improve import improve_command
from build_engines.cli.inspect import inspect_command
from build_engines.cli.publish import publish_command
from build_engines.cli.run import STAGE_COMMANDS, run_command
from build_engines.cli.thin import thin_command
from edge_runtime.cli import run_command as run_and_exit


@click.group()
def cli() -> None:
    """Build bundles of fused multimodal models: from data, or from one's own ONNX, to a signed bundle."""


for _command in (
    run_command,
    *STAGE_COMMANDS,
    evaluate_command,
    compare_command,
    degrade_command,
    fleet_command,
    grammar_command,
    improve_command,
    inspect_command,
    mine_command,
    publish_command,
    thin_command,
):
    cli.add_command(_command)


def main() -> None:
    """Entry point of `build-engines`."""
    sys.exit(run_and_exit(cli))
