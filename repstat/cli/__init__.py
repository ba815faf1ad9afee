"""The command line: one module per command, loaded when it is typed; errors become messages in one place."""

import os
import signal
import sys
from importlib import import_module
from io import TextIOWrapper
from types import FrameType
from typing import Any, NoReturn

import click

from repstat.errors import RepstatError
from repstat.naming import printable
from repstat.version import __version__

COMMANDS = {
    "layers": "List the layers of a model.",
    "extract": "Record hidden activations of one or many checkpoints in a store.",
    "import": "Put activations made elsewhere in a store.",
    "inspect": "Say what is in a store or a results file.",
    "verify": "Check every hash and rule of a store, or of results.",
    "merge": "Join stores of one training into one.",
    "analyze": "Estimate what the layers know along the trajectory.",
    "report": "Explain results on one HTML page.",
    "plot": "Draw a figure of results for a paper.",
    "info": "Versions, adapters and devices, for bug reports.",
}
"""The commands in the order of use, with the line that ``repstat --help`` shows."""
_MODULES = {"import": "importing"}
"""Where the module has another name than the command: Python has a word of its own for it."""

HELP = """See what the layers of a neural network know while it learns.

\b
  repstat extract step-*.onnx --inputs data.npz   # activations of every hidden layer
  repstat analyze acts.h5                         # estimates with errors, as a table
  repstat report acts.results.h5                  # findings and figures, as a page
"""


KEPT = "An extraction keeps its finished checkpoints, and the same command goes on."


class Terminated(BaseException):
    """SIGTERM arrived; unwinding removes temporary files."""


class OutOfTimeError(BaseException):
    """``--timeout`` is over. Not an Exception: no handler of a model's failures is meant."""


class LazyGroup(click.Group):
    """A group whose commands are modules, imported when they are invoked."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of one command."""
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"repstat.cli.{_MODULES.get(cmd_name, cmd_name)}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Offer close matches for a misspelt command."""
        from difflib import get_close_matches

        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            close = get_close_matches(name, COMMANDS, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            ctx.fail(f"No such command {name!r}.{hint} Commands are {', '.join(COMMANDS)}.")
        return super().resolve_command(ctx, args)


@click.group(
    help=HELP,
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="repstat")
@click.option("--debug", is_flag=True, help="Show the traceback of an error (anywhere on the line).")
def cli(debug: bool) -> None:
    """Run the group; `--debug` is read in `_run`, wherever it stands."""


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with the code that docs/cli.md lists."""
    from repstat.cli import guard

    arguments = sys.argv[1:] if args is None else args
    signal.signal(signal.SIGTERM, _terminate)
    _occupy()
    guard.enable()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a bar or a foreign name must not fail in LC_ALL=C
    sys.exit(_run(arguments))


def _occupy() -> None:
    """Fill closed standard streams, or the next file opened would be stdout and take what is printed."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def _run(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    try:
        # Not cli.main: it turns a closed stdout into exit code 1.
        with cli.make_context("repstat", [a for a in arguments if a != "--debug"]) as context:
            cli.invoke(context)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help(), err=True)
        return 2
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        return _click_error(error)
    except RepstatError as error:
        return _say(" ".join([str(error), *_notes(error)]), error.exit_code, error, debug)
    except (KeyboardInterrupt, click.Abort) as error:
        return _say(_stopped("interrupted", error), 130, error, debug)
    except Terminated as error:
        return _say(_stopped("terminated", error), 143, error, debug)
    except OutOfTimeError as error:
        return _say(_stopped("time ran out: it took longer than --timeout allows", error), 6, error, debug)
    except BrokenPipeError:
        # The reader of stdout went away (`| head -1`): not an error of ours, and nothing more to say there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError as error:
        return _say("out of memory. Use fewer samples or a smaller --batch-size.", 6, error, debug)
    except OSError as error:
        return _say(_os_error(error), _os_code(error), error, debug)
    except Exception as error:
        text = f"internal error: {type(error).__name__}: {error}. This is a bug; --debug shows the traceback."
        return _say(text, 1, error, debug)
    return 0


def _stopped(how: str, error: BaseException) -> str:
    # A second Ctrl-C is not to interrupt the message.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return " ".join([f"{how}. Nothing half-written is left.", *(_notes(error) or [KEPT])])


def _notes(error: BaseException) -> list[str]:
    """Return what an extraction said about its finished checkpoints."""
    return list(getattr(error, "__notes__", []))


def _say(text: str, code: int, error: BaseException, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    say(f"repstat: error: {text}")
    return code


def _click_error(error: click.ClickException) -> int:
    context: Any = getattr(error, "ctx", None)
    hint = f" Try '{context.command_path} --help'." if context is not None else ""
    message = error.format_message()
    say(f"repstat: error: {message}{'' if message.endswith(('.', '?')) else '.'}{hint}")
    return error.exit_code


def _os_error(error: OSError) -> str:
    where = f" in {error.filename}" if error.filename else ""
    return f"the system refused{where}: {error.strerror or error}."


def _os_code(error: OSError) -> int:
    import errno

    if error.errno in {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.ENOMEM}:
        return 6
    return (
        2 if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENAMETOOLONG} else 1
    )


def say(text: str) -> None:
    """Print a line on stderr, whatever foreign names are in it."""
    click.echo(printable(text), err=True)
