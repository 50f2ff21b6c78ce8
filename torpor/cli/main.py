"""The `torpor` command.

Commands print and never decide: what they do lives in the modules they call, imported when a command runs, so that
`torpor --help` and shell completion stay quick. Every error the user can act on ends as one line on stderr and exit
code 1; a wrong command line is 2, Ctrl-C is 130.
"""

import errno
import sys
from collections.abc import Coroutine
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from kncore.errors import KnError
from torpor.cli import completion
from torpor.cli.output import Output, fail, say

__all__ = ["app", "main"]

INTERRUPTED = 130  # 128 + SIGINT, as shells count
MACHINE_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE}

app = typer.Typer(
    name="torpor",
    help="Serverless workloads that sleep when idle and wake on the first request. `torpor up` starts everything here.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class PatchType(StrEnum):
    """How a patch is to be read."""

    MERGE = "merge"
    JSON = "json"
    STRATEGIC = "strategic"


Namespace = Annotated[
    str, typer.Option("--namespace", "-n", help="Namespace.", show_default="the kubeconfig's, else default")
]
Everywhere = Annotated[bool, typer.Option("--all-namespaces", "-A", help="In all namespaces.")]
Format = Annotated[Output | None, typer.Option("--output", "-o", help="Print the result for programs.")]
State = Annotated[
    Path | None,
    typer.Option("--state-dir", help="State directory.", show_default="$TORPOR_STATE_DIR, else ~/.local/state/torpor"),
]
Kind = Annotated[
    str,
    typer.Argument(
        help="Kind (ksvc, revision, pod ...), KIND/NAME, or a category (all, knative).",
        autocompletion=completion.kinds,
    ),
]


def _run(work: Coroutine[Any, Any, int | None]) -> None:
    """Run a command's coroutine; its result is the exit code."""
    import asyncio

    try:
        code = asyncio.run(work)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BaseExceptionGroup as group:
        raise _told(group) from group
    raise typer.Exit(code or 0)


def _told(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a group of failed tasks is told as: the first of our own errors, or the group if there is a bug in it."""
    expected, bugs = group.split((KnError, OSError))
    if expected is None or bugs is not None:
        return group
    found: BaseException = expected
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def _own(path: Path | None) -> Path:
    """The state directory to start on or to remove: as given, or the default one."""
    from torpor.state import default_state_dir

    return path.absolute() if path else default_state_dir()


def _found(path: Path | None) -> Path:
    """The state directory to look at: as given, or where the platform is that $KUBECONFIG leads to."""
    from torpor.state import find_state_dir

    return path.absolute() if path else find_state_dir()


def _version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        print(f"torpor {importlib.metadata.version('torpor')}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options of the command itself."""


@app.command()
def up(
    filename: Annotated[
        list[str] | None,
        typer.Option("--filename", "-f", help="Manifest or directory of manifests to apply when ready; repeatable."),
    ] = None,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Public HTTP port; the next free one if it is taken.")
    ] = 8080,
    https_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Public HTTPS port; the next free one if it is taken.")
    ] = 8443,
    domain: Annotated[
        str, typer.Option(help="Suffix of public URLs: http://NAME.NAMESPACE.DOMAIN:PORT.")
    ] = "localhost",
    state_dir: State = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(help="Images file: which program stands behind an image name; repeatable."),
    ] = None,
) -> None:
    """Start the platform and keep it running here.

    Prints the line to give to a shell for kubectl, then what happens to services. Ctrl-C lets requests in flight
    finish and stops everything; a second Ctrl-C kills it. Objects stay in the state directory for the next start.
    """
    from kncore.api.syntax import dns_1123_subdomain
    from torpor.cli.manifests import read
    from torpor.cli.output import emphasis
    from torpor.embedded.images import read_images_file
    from torpor.up import Options, up

    # Mistakes on the command line are told before anything starts.
    if dns_1123_subdomain(domain):
        raise KnError(f"--domain {domain}: a domain is lower-case letters, digits, dashes and dots, as in example.com")
    if filename:
        if "-" in filename:
            raise KnError("up -f takes files and directories, not standard input")
        read(filename)
    for path in images or []:
        read_images_file(path)
    options = Options(
        state_dir=_own(state_dir),
        files=[str(Path(file).absolute()) for file in filename or []],
        port=port,
        https_port=https_port,
        domain=domain,
        images=[path.absolute() for path in images or []],
    )

    def out(line: str) -> None:
        print(line, flush=True)

    _run(up(options, lambda text: say(f"{emphasis('torpor', 'bold')} {text}"), out))


@app.command()
def down(state_dir: State = None) -> None:
    """Stop the platform and remove its state.

    Every object, log and deployed copy of the state directory is removed.
    """
    from torpor.down import down

    _run(down(_own(state_dir), say))


@app.command()
def demo(
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Public HTTP port; the next free one if it is taken.")
    ] = 8080,
) -> None:
    """Watch a service sleep, wake, scale and split.

    A guided run on a platform of its own that ends by itself; it leaves nothing behind.
    """
    from torpor.demo import demo

    def out(line: str) -> None:
        print(line, flush=True)

    _run(demo(port, out))


@app.command()
def apply(
    filename: Annotated[
        list[str],
        typer.Option("--filename", "-f", help="Manifest, directory of manifests, or - for standard input; repeatable."),
    ],
    namespace: Namespace = "",
    force: Annotated[bool, typer.Option("--force-conflicts", help="Take over fields that others manage.")] = False,
    output: Format = None,
) -> None:
    """Create or change objects from manifests.

    All files are read before the first object is sent; one that the server refuses does not keep it from the others.
    """
    from torpor.cli.objects import apply

    _run(apply(filename, namespace, force=force, output=output))


@app.command()
def get(
    kind: Kind = "ksvc",
    names: Annotated[
        list[str] | None, typer.Argument(help="Names; all without.", autocompletion=completion.services)
    ] = None,
    namespace: Namespace = "",
    all_namespaces: Everywhere = False,
    selector: Annotated[str, typer.Option("--selector", "-l", help="Label selector.")] = "",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on printing changes until Ctrl-C.")] = False,
    output: Format = None,
) -> None:
    """Show objects.

    Several kinds can be given with commas, as in: torpor get kpa,sks,king -A
    """
    from torpor.cli.objects import get

    _run(
        get(kind, names or [], namespace, everywhere=all_namespaces, labels=selector, watch=watch, output=output),
    )


@app.command()
def patch(
    kind: Kind,
    name: Annotated[str, typer.Argument(help="Name.", autocompletion=completion.services)] = "",
    patch: Annotated[str, typer.Option("--patch", "-p", help="The patch, in JSON.")] = "",
    how: Annotated[
        PatchType, typer.Option("--type", help="How the patch is to be read; Knative's kinds take merge and json.")
    ] = PatchType.MERGE,
    namespace: Namespace = "",
    output: Format = None,
) -> None:
    """Change some fields of an object."""
    from torpor.cli.objects import patch as patch_object

    _run(patch_object(kind, name, namespace, patch, how.value, output=output))


@app.command()
def delete(
    kind: Kind = "",
    names: Annotated[list[str] | None, typer.Argument(help="Names.", autocompletion=completion.services)] = None,
    filename: Annotated[
        list[str] | None, typer.Option("--filename", "-f", help="Delete what a manifest names; repeatable.")
    ] = None,
    namespace: Namespace = "",
    wait: Annotated[bool, typer.Option(help="Wait until they are gone.")] = True,
) -> None:
    """Delete objects."""
    from torpor.cli.objects import delete as delete_objects

    _run(delete_objects(kind, names or [], filename or [], namespace, wait=wait))


@app.command()
def logs(
    source: Annotated[
        str, typer.Argument(help="Service, revision/NAME or pod/NAME.", autocompletion=completion.services)
    ],
    namespace: Namespace = "",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on printing, also of pods that start later.")
    ] = False,
    container: Annotated[str, typer.Option("--container", "-c", help="Container; the app's by default.")] = "",
    tail: Annotated[int, typer.Option(min=-1, help="Only the last lines of each pod; -1 is all.")] = -1,
    since: Annotated[str, typer.Option(help="Only lines of the last while, such as 30s or 5m.")] = "",
    previous: Annotated[
        bool, typer.Option("--previous", help="Of the container's run before its last restart.")
    ] = False,
) -> None:
    """Print the logs of a service's pods."""
    from torpor.cli.logs import Options
    from torpor.cli.logs import logs as print_logs

    options = Options(
        follow=follow, container=container, tail=tail, since=_seconds("--since", since), previous=previous
    )
    _run(print_logs(source, namespace, options))


def _seconds(option: str, text: str) -> float | None:
    from kncore.quantity import parse_duration

    if not text:
        return None
    try:
        return parse_duration(text)
    except ValueError:
        raise KnError(f"{option} {text}: expected a duration such as 30s or 5m") from None


@app.command()
def status(
    namespace: Namespace = "",
    all_namespaces: Everywhere = False,
    state_dir: State = None,
    output: Format = None,
) -> None:
    """Show services and why they have the pods they have.

    For each revision: its share of traffic, its pods, the last scaling decision with its reason, and where the time of
    its last cold start went.
    """
    from torpor.cli.status import status as print_status

    _run(print_status(_found(state_dir), namespace, everywhere=all_namespaces, output=output))


@app.command()
def deploy(
    directory: Annotated[
        Path, typer.Argument(help="Directory of a program: Flask, ASGI, func.py, Procfile, script or executable.")
    ],
    name: Annotated[str, typer.Option(help="Service name.", show_default="the directory's")] = "",
    namespace: Namespace = "",
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", help="Variable of the program, NAME=VALUE; repeatable.")
    ] = None,
    state_dir: State = None,
    output: Format = None,
) -> None:
    """Run a directory as a service.

    Waits until the service is Ready; its URL is the last line, and the only one on standard output. Deploying again
    after a change makes a new revision; older ones keep the code they had.
    """
    from torpor.cli.deploy import deploy as deploy_directory

    _run(deploy_directory(directory, name, namespace, env or [], _found(state_dir), output=output))


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def run(
    command: Annotated[list[str], typer.Argument(help="Command and its arguments, after --.")],
    state_dir: State = None,
) -> None:
    """Run a command that reaches services by cluster names.

    It gets the http_proxy and KUBECONFIG that pods get: torpor run -- curl http://hello.default.svc.cluster.local
    """
    from torpor.cli.run import run as run_command

    raise typer.Exit(run_command(command, _found(state_dir)))


@app.command()
def doctor(state_dir: State = None, output: Format = None) -> None:
    """Check this machine and the running platform.

    Says what to do about each problem; exit code 1 if there is one.
    """
    from torpor.cli.doctor import doctor as examine

    raise typer.Exit(examine(_found(state_dir), output=output))


@app.command()
def version(output: Format = None) -> None:
    """Print the version."""
    import importlib.metadata
    import platform

    from torpor.cli.output import show

    found = importlib.metadata.version("torpor")
    if output is None:
        print(f"torpor {found}")
    else:
        show({"version": found, "python": platform.python_version()}, output)


def main() -> None:
    """Entry point; errors become one line and exit code 1."""
    try:
        app(prog_name="torpor")  # also when run as a module
    except KnError as exc:
        fail(str(exc))
    except OSError as exc:
        if exc.errno not in MACHINE_FAULTS:
            raise
        fail(f"{exc.filename or 'writing'}: {exc.strerror}")
    sys.exit(1)


if __name__ == "__main__":
    main()
