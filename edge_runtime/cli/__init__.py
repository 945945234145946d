"""`edge-runtime`: the commands, a module for each or for a group of them. Heavy imports happen inside the commands.

Exit codes: 0 fine; 2 the user's mistake, told in one line; 3 a gate refused; 4 the engines are lost, or cannot be
opened; 75 something else is in the way, and may not be for ever (an endpoint is held; only where a service manager
starts us again, otherwise 2); 1 a bug, with its trace.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import traceback
from importlib import import_module

import click

from edge_runtime.cli.run import EXIT_ENGINES
from edge_runtime.errors import EngineError, GateRefused, UserError
from edge_runtime.log_handler import one_line

EXIT_BUG, EXIT_USER, EXIT_GATE = 1, 2, 3
MAX_ERROR = 4000
"""Characters of the one line that a user's mistake is told in."""


COMMANDS = (
    "bundle",
    "dashboard",
    "demo",
    "doctor",
    "init",
    "keys",
    "listen",
    "predict",
    "record",
    "reload",
    "replay",
    "run",
    "send",
    "service",
    "voice",
)
"""Each is a module here that holds a command of its name."""


class _Commands(click.Group):
    """A command's module is imported when it is asked for: a service starts without all others'."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"{__name__}.{cmd_name}"), cmd_name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edge-runtime")
def commands() -> None:
    """Run fused camera + sensor + text models on edge devices."""


def main() -> None:
    """Entry point."""
    code = run_command(commands)
    if threading.active_count() > 1:
        # They are inside a library that does not return, or write the log: neither is waited for, nor taken down
        # while something of it still runs.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stdout.flush()
        logging.shutdown()
        os._exit(code)
    sys.exit(code)


def run_command(command: click.Command, arguments: list[str] | None = None) -> int:
    """Run a click command and turn what it raises into the project's exit codes."""
    for argument in sys.argv[1:] if arguments is None else arguments:
        if any("\udc80" <= char <= "\udcff" for char in argument):
            shown = argument.encode("ascii", "backslashreplace").decode()
            click.echo(
                f"error: argument {shown!r:.200} is not UTF-8; set the terminal to UTF-8, or convert it", err=True
            )
            return EXIT_USER
    try:
        result = command.main(args=arguments, standalone_mode=False)
    except UserError as error:
        click.echo(f"error: {one_line(str(error), MAX_ERROR)}", err=True)
        return EXIT_USER
    except EngineError as error:
        click.echo(f"error: {one_line(str(error), MAX_ERROR)}", err=True)
        return EXIT_ENGINES
    except GateRefused as error:
        click.echo(f"refused: {error}", err=True)
        return EXIT_GATE
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package == __name__.partition(".")[0]:
            traceback.print_exc()
            return EXIT_BUG
        click.echo(f"error: {package} is not installed for this Python; `edge-runtime doctor` says how", err=True)
        return EXIT_USER
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}; see --help", err=True)
        return EXIT_USER
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # The reader of our output (head, say) has gone; it is not a bug. Nothing more can be written.
        sys.stderr.close()
        return 0
    except Exception:
        traceback.print_exc()
        return EXIT_BUG
    return result if isinstance(result, int) else 0
