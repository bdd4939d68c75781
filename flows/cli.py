"""The command: parse, call one flow, print one record. Heavy imports happen inside the command that needs them."""

from __future__ import annotations

import gc
import json
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_contracts.errors import NoduleflowError, storage_error

if TYPE_CHECKING:
    from flows.remote.working_copy import WorkingCopy
    from flows.settings import Settings
    from flows.workspace import Workspace

app = typer.Typer(
    name="noduleflow",
    help="DICOM CT studies in, an evaluated and registered nodule classifier and review reports out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@dataclass
class Session:
    """What every command shares: where the workspace is and how to answer."""

    workspace_path: str | Path | None = None
    as_json: bool = False
    debug: bool = False
    _bucket: WorkingCopy | None = None

    def settings(self) -> Settings:
        """Settings of the environment and the command line, applied before Prefect and MLflow are imported."""
        from pydantic import ValidationError

        from data_contracts.errors import UsageError
        from flows.log_filter import install
        from flows.settings import Settings, apply_environment

        install()
        try:
            settings = Settings() if self.workspace_path is None else Settings(workspace=self.workspace_path)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            name = "NODULEFLOW_" + ("_".join(str(part) for part in first["loc"]).upper() or "WORKSPACE")
            is_word = self.workspace_path is not None and name == "NODULEFLOW_WORKSPACE"
            named = "--workspace" if is_word else f"setting {name}"
            raise UsageError(f"{named}: {first['msg'].removeprefix('Value error, ')}") from None
        apply_environment(settings, debug=self.debug)
        return settings

    def open(self) -> tuple[Settings, Workspace]:
        """Settings and workspace."""
        from flows.workspace import Workspace

        settings = self.settings()
        if settings.workspace_url and self._bucket is None:
            from flows.remote.opening import open_bucket

            copy = open_bucket(settings)
            copy.bring_in()
            self._bucket = copy
        return settings, Workspace(settings.workspace)

    def hand_on(self) -> None:
        """Give the bucket of the workspace, where it has one, what this command did."""
        if self._bucket is not None:
            copy, self._bucket = self._bucket, None
            copy.hand_on()

    @contextmanager
    def engine(
        self,
        room: str,
        prepare: Callable[[Workspace], object] = lambda workspace: None,
        *,
        by_the_clock: bool = False,
    ) -> Iterator[tuple[Settings, Workspace]]:
        """Settings and workspace, with a Prefect server behind them.

        The module `room` is imported, and `prepare` done, while the server starts. by_the_clock: it must keep
        schedules.
        """
        settings, workspace = self.open()
        workspace.create()
        from flows.engine import engine

        def load() -> None:
            # A hundred thousand objects of modules stay to the end: looking through them for garbage, again and again,
            # took a tenth of the time of the imports and a third of that of building a large report.
            gc.disable()
            try:
                import_module(room)
                prepare(workspace)
            finally:
                gc.freeze()
                gc.set_threshold(10_000)
                gc.enable()

        with engine(workspace, load, by_the_clock=by_the_clock):
            yield settings, workspace

    def emit(self, record: dict[str, Any], text: str) -> None:
        """The command's answer on standard output: one JSON record, or text for a person."""
        print(json.dumps(record, indent=2, default=str) if self.as_json else text)


session = Session()


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version as installed

        print(f"noduleflow {installed('noduleflow')}")
        raise typer.Exit


@app.callback()
def _options(
    workspace: Annotated[
        # a word, not a path: a URL would lose slashes, and an empty word would be this folder
        str | None,
        typer.Option(
            help="Folder of all that a site produces, or s3://bucket/prefix.", metavar="PATH", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print exactly one JSON record.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and end.")
    ] = False,
) -> None:
    session.workspace_path = workspace
    session.as_json = as_json
    session.debug = debug


def _register() -> None:
    """Importing a room of commands registers them; none of them imports anything heavy at its top."""
    from flows import commands

    for room in pkgutil.iter_modules(commands.__path__):
        import_module(f"{commands.__name__}.{room.name}")


def main(arguments: list[str] | None = None) -> None:
    """Entry point: run the command and turn every error into one line and an exit status."""
    _register()
    given = list(sys.argv[1:] if arguments is None else arguments)
    # These two are understood anywhere on the line, as most commands people know do it.
    flags = [flag for flag in ("--json", "--debug") if flag in given]
    rest = [word for word in given if word not in flags]
    session.as_json, session.debug = "--json" in flags, "--debug" in flags
    try:
        status = app(args=[*flags, *rest], prog_name="noduleflow", standalone_mode=False) or 0
    except NoduleflowError as error:
        status = _fail(error.line(), error.exit_status)
    except KeyboardInterrupt:
        status = _fail("interrupted; run the same command again to go on", 130)
    except Exception as error:
        status = _foreign(error)
    status = _handed_on(status)
    sys.exit(status if isinstance(status, int) else 0)


def _handed_on(status: Any) -> Any:
    """The exit status after what was done, whatever came of it, is handed on to the bucket of the workspace."""
    try:
        session.hand_on()
    except NoduleflowError as error:
        # The command's record is on standard output already.
        print(f"noduleflow: {error.line()}", file=sys.stderr)
        return status or error.exit_status
    except KeyboardInterrupt:
        print("noduleflow: interrupted; the next command hands on what is left", file=sys.stderr)
        return status or 130
    return status


def _foreign(error: Exception) -> int:
    """The exit status of an error that is not ours, after saying it in one line."""
    show = getattr(error, "format_message", None)
    if show is not None:  # the command line parser's own errors
        context = getattr(error, "ctx", None)
        hint = f" Try '{context.command_path} --help'." if context is not None else ""
        return _fail(f"{show()}{hint}", int(getattr(error, "exit_code", 2)))
    if type(error).__name__ == "Abort":
        return _fail("interrupted", 130)
    if session.debug:
        print(_scrubbed(traceback.format_exc()), file=sys.stderr)
    from flows.server_errors import server_error

    if (known := storage_error(error) or server_error(error)) is not None:
        return _fail(known.line(), known.exit_status)
    place = traceback.extract_tb(error.__traceback__)[-1]
    reason = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
    return _fail(
        f"unexpected {type(error).__name__}{reason} at {Path(place.filename).name}:{place.lineno}."
        " Run again with --debug for the traceback.",
        1,
    )


def _scrubbed(text: str) -> str:
    """A traceback may quote a header; what could name a patient is hidden."""
    from flows.log_filter import scrub

    return scrub(text)


def _fail(line: str, status: int) -> int:
    if session.debug:
        engine = sys.modules.get("flows.engine")
        print(_scrubbed("".join(getattr(engine, "last_traceback", []))), file=sys.stderr)
    print(f"noduleflow: {line}", file=sys.stderr)
    if session.as_json:
        print(json.dumps({"error": line, "exit_status": status}))
    return status
