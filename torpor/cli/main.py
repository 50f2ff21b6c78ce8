"""The `torpor` command.

Commands print and never decide: what they do lives in the modules they call, imported when a command runs, so that
`torpor --help` and shell completion stay quick. Every error the user can act on ends as one line on stderr and exit
code 1.
"""

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from kncore.errors import KnError
from torpor.cli.output import Output, fail, say

__all__ = ["app", "main"]

app = typer.Typer(
    name="torpor",
    help="Serverless workloads that sleep when idle and wake on the first request. `torpor up` starts everything here.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Namespace.")]
Files = Annotated[
    list[str],
    typer.Option("--filename", "-f", help="Manifest, directory of manifests, or - for standard input; repeatable."),
]
Format = Annotated[Output | None, typer.Option("--output", "-o", help="Machine-readable result.")]
State = Annotated[Path | None, typer.Option("--state-dir", help="State directory [default: ~/.local/state/torpor].")]


def _run(work: Coroutine[Any, Any, int | None]) -> None:
    raise typer.Exit(asyncio.run(work) or 0)


def _state_dir(path: Path | None) -> Path:
    from torpor.state import default_state_dir

    return path.absolute() if path else default_state_dir()


@app.command()
def up(
    filename: Annotated[
        list[str] | None, typer.Option("--filename", "-f", help="Apply a manifest or directory when ready.")
    ] = None,
    port: Annotated[int, typer.Option(help="Public HTTP port; the next free one when taken.")] = 8080,
    domain: Annotated[
        str, typer.Option(help="Suffix of public URLs: http://NAME.NAMESPACE.DOMAIN:PORT.")
    ] = "localhost",
    state_dir: State = None,
    images: Annotated[
        list[Path] | None, typer.Option(help="Images file: which program stands behind an image name.")
    ] = None,
) -> None:
    """Start the platform here and keep it running; Ctrl-C stops it, a second Ctrl-C kills it."""
    from torpor.cli.output import emphasis
    from torpor.up import Options, up

    for path in images or []:
        if not path.is_file():
            raise KnError(f"{path}: no such images file")
    options = Options(
        state_dir=_state_dir(state_dir),
        files=[str(Path(file).absolute()) for file in filename or []],
        port=port,
        domain=domain,
        images=[path.absolute() for path in images or []],
    )

    def out(line: str) -> None:
        print(line, flush=True)

    _run(up(options, lambda text: say(f"{emphasis('torpor', 'bold')} {text}"), out))


@app.command()
def down(state_dir: State = None) -> None:
    """Stop the platform that runs here, if one does, and remove its state."""
    from torpor.down import down

    _run(down(_state_dir(state_dir), say))


@app.command()
def demo(
    port: Annotated[int, typer.Option(help="Public HTTP port; the next free one when taken.")] = 8080,
) -> None:
    """Watch a service sleep, wake, scale and split: a guided run on a platform of its own that ends by itself."""
    from torpor.demo import demo

    _run(demo(port, print))


@app.command()
def apply(
    filename: Files,
    namespace: Namespace = "default",
    output: Format = None,
) -> None:
    """Create or change objects from manifests."""
    from torpor.cli.objects import apply

    _run(apply(filename, namespace, output=output))


@app.command()
def get(
    kind: Annotated[
        str, typer.Argument(help="Kind (ksvc, revision, pod ...), category (all, knative) or KIND/NAME.")
    ] = "ksvc",
    name: Annotated[str, typer.Argument(help="Name; all without it.")] = "",
    namespace: Namespace = "default",
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A")] = False,
    selector: Annotated[str, typer.Option("--selector", "-l", help="Label selector.")] = "",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on printing changes.")] = False,
    output: Format = None,
) -> None:
    """Show objects."""
    from torpor.cli.objects import get

    _run(get(kind, name, None if all_namespaces else namespace, labels=selector, watch=watch, output=output))


@app.command()
def patch(
    kind: Annotated[str, typer.Argument(help="Kind or KIND/NAME.")],
    name: Annotated[str, typer.Argument()] = "",
    patch: Annotated[str, typer.Option("--patch", "-p", help="JSON merge patch.")] = "",
    namespace: Namespace = "default",
    output: Format = None,
) -> None:
    """Change an object by a JSON merge patch."""
    from torpor.cli.objects import patch as patch_object

    _run(patch_object(kind, name, namespace, patch, output=output))


@app.command()
def delete(
    kind: Annotated[str, typer.Argument(help="Kind or KIND/NAME.")] = "",
    name: Annotated[str, typer.Argument()] = "",
    filename: Annotated[
        list[str] | None, typer.Option("--filename", "-f", help="Delete what a manifest names.")
    ] = None,
    namespace: Namespace = "default",
    wait: Annotated[bool, typer.Option(help="Wait until it is gone.")] = True,
) -> None:
    """Delete objects."""
    from torpor.cli.objects import delete as delete_objects

    _run(delete_objects(kind, name, filename or [], namespace, wait=wait))


@app.command()
def logs(
    service: Annotated[str, typer.Argument(help="Service, or pod/NAME.")],
    namespace: Namespace = "default",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on printing, also of pods that start later.")
    ] = False,
    container: Annotated[str, typer.Option("--container", "-c", help="Container; the app's by default.")] = "",
    tail: Annotated[int, typer.Option(help="Only the last lines of each pod; -1 is all.")] = -1,
) -> None:
    """Print the logs of a service's pods."""
    from torpor.cli.logs import logs as print_logs

    _run(print_logs(service, namespace, follow=follow, container=container, tail=tail))


@app.command()
def status(
    namespace: Namespace = "default",
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A")] = False,
    state_dir: State = None,
    output: Format = None,
) -> None:
    """Show services, revisions, pods, and the last scaling decision with its reason."""
    from torpor.cli.status import status as print_status

    _run(print_status(_state_dir(state_dir), None if all_namespaces else namespace, output=output))


@app.command()
def deploy(
    directory: Annotated[
        Path, typer.Argument(help="Directory of a program: Flask, ASGI, func.py, Procfile, script or executable.")
    ],
    name: Annotated[str, typer.Option(help="Service name; the directory's by default.")] = "",
    namespace: Namespace = "default",
    env: Annotated[list[str] | None, typer.Option("--env", "-e", help="NAME=VALUE; repeatable.")] = None,
    state_dir: State = None,
    output: Format = None,
) -> None:
    """Run a directory as a service; prints its URL last."""
    from torpor.cli.deploy import deploy as deploy_directory

    _run(deploy_directory(directory, name, namespace, env or [], _state_dir(state_dir), output=output))


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def run(
    command: Annotated[list[str], typer.Argument(help="Command and its arguments, after --.")],
    state_dir: State = None,
) -> None:
    """Run a command that can reach services by their cluster names, as pods can."""
    from torpor.cli.run import run as run_command

    raise typer.Exit(run_command(command, _state_dir(state_dir)))


@app.command()
def doctor(state_dir: State = None) -> None:
    """Check ports, kubectl, limits and the running platform; says what to do about each problem."""
    from torpor.cli.doctor import doctor as examine

    raise typer.Exit(examine(_state_dir(state_dir)))


@app.command()
def version(output: Format = None) -> None:
    """Print the version."""
    import importlib.metadata
    import platform

    found = importlib.metadata.version("torpor")
    if output is Output.JSON:
        import orjson

        print(orjson.dumps({"version": found, "python": platform.python_version()}).decode())
    else:
        print(f"torpor {found}")


def main() -> None:
    """Entry point; errors become one line and exit code 1."""
    try:
        app()
    except KnError as exc:
        fail(str(exc))
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(141)  # as a program ended by SIGPIPE: the reader left
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
