"""The command `mull`: finds the subcommand, or starts the terminal app; turns every failure into one line.

Imports click and nothing heavy: a command's module is loaded when the command is run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from app.cli.output import show_error
from app.errors import CommandError, reason

COMMANDS = {
    "ask": ("app.cli.ask", "Ask one question; the answer goes to stdout."),
    "sessions": ("app.cli.sessions", "List, show, search and delete conversations."),
    "export": ("app.cli.export", "Write a conversation as Markdown or JSON, with its receipts."),
    "replay": ("app.cli.replay", "Recompute a recorded answer, and say where it comes out otherwise."),
    "quantize": ("app.cli.quantize", "Write a quantized checkpoint, or report what quantizing costs."),
    "speed": ("app.cli.speed", "Measure how fast a model runs, and how near the hardware's limits."),
    "bench": ("app.cli.bench", "Measure accuracy against cost, on bundled tasks or your own."),
    "calibrate": ("app.cli.calibrate", "Measure how fast a model is here, for previews and --method auto."),
    "demo": ("app.cli.demo", "See in a minute what thinking is worth."),
    "models": ("app.cli.models", "List the models on this machine, and whether they fit."),
    "profiles": ("app.cli.profiles", "List hardware profiles, or show one."),
    "ps": ("app.cli.ps", "Show the resident engine: its model, memory and clients."),
    "stop": ("app.cli.stop", "End the resident engine."),
    "config": ("app.cli.config", "Show the settings and where each comes from."),
    "doctor": ("app.cli.doctor", "Say what mull finds here, and what is wrong."),
}
"""Command, its module (which has a command of the same name) and its line in the help."""

OFFLINE_HELP = "Touch no network."
DEBUG_HELP = "Show a traceback where something fails."
INTERRUPTED = 130
CLOSED_PIPE = 141


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(COMMANDS[cmd_name][0]), cmd_name)
        _take_common_options(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in COMMANDS.items()])


def _take_common_options(command: click.Command) -> None:
    """Let a command and those under it take the options that all take, where they do not by themselves."""
    known = {parameter.name for parameter in command.params}
    for name, help_line in (("offline", OFFLINE_HELP), ("debug", DEBUG_HELP)):
        if name not in known:
            command.params.append(
                click.Option([f"--{name}"], is_flag=True, expose_value=False, help=help_line)
            )
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        _take_common_options(below)


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from engine.build import mull_version

        click.echo(f"mull {mull_version()}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Each command explains itself: mull ask --help",
)
@click.option("--resume", metavar="ID", help="Go on with a conversation: its id, the start of it, or last.")
@click.option(
    "--model", metavar="NAME|PATH|REPO", help="A folder, a GGUF file, or a name (see: mull models)."
)
@click.option("--profile", metavar="NAME", help="The hardware profile to run with (see: mull profiles).")
@click.option("--draft", metavar="MODEL|exit:N|off", help="Who guesses tokens ahead (see: mull ask --help).")
@click.option("--quant", metavar="none|int8|int4|fp8|auto", help="Quantize the weights as they are loaded.")
@click.option("--kv", metavar="model|int8", help="Keys and values in the model's own dtype, or in int8.")
@click.option("--think", metavar="off|max|N", help="How many tokens an answer may think.")
@click.option(
    "--step-by-step", is_flag=True, default=None, help="Have a model that marks no thoughts think in words."
)
@click.option("--method", metavar="NAME", help="How to answer (see: mull ask --help).")
@click.option("--offline", is_flag=True, default=None, help=OFFLINE_HELP)
@click.option("--debug", is_flag=True, expose_value=False, help=DEBUG_HELP)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version.",
)
@click.pass_context
def root(ctx: click.Context, resume: str | None, **flags: str | bool | None) -> None:
    """A terminal assistant on your own machine.

    Without a command, mull opens the chat. You set how much an answer may think, before and while it
    runs, and each answer shows what it cost.
    """
    if ctx.invoked_subcommand is None:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise CommandError("the chat needs a terminal", "in a pipe, use: mull ask -")
        from app.tui.app import run

        ctx.exit(run(flags, resume))
    elif given := [f"--{name}" for name, value in {"resume": resume, **flags}.items() if value is not None]:
        raise click.UsageError(
            f"{given[0]} belongs after the command: mull {ctx.invoked_subcommand} {given[0]}", ctx
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    _replace_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character shows another
    options = given[: given.index("--")] if "--" in given else given
    sys.exit(_run(given, debug="--debug" in options))


def _replace_closed_streams() -> None:
    """Let a standard stream that was closed be empty: its number would else go to the next file opened."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(nothing, mode, encoding="utf-8"))


def _run(arguments: list[str], *, debug: bool) -> int:
    try:
        with root.make_context("mull", arguments) as context:
            root.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as request:
        return request.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # Nobody reads any more: leave in silence, also when Python flushes stdout on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except Exception as error:
        if debug:
            raise
        failure = _as_command_error(error)
        show_error(failure)
        return failure.status


def _as_command_error(error: Exception) -> CommandError:
    if isinstance(error, CommandError):
        return error
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "mull"
        return CommandError(error.format_message().rstrip("."), f"see: {command} --help", status=2)
    if isinstance(error, click.ClickException):
        return CommandError(error.format_message(), status=error.exit_code)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return CommandError(f"{where}{reason(error)}", "--debug shows where")
    return CommandError(f"{type(error).__name__}: {error}", "this is a fault in mull; --debug shows where")


if __name__ == "__main__":
    main()
