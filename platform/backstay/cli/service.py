"""`backstay serve`."""

import click

from backstay.cli import options
from backstay.terminal import Command, Output


@click.command(cls=Command, example="backstay serve --registry registry --port 8000")
@options.registry
@click.option(
    "--wait-for-registry",
    is_flag=True,
    help="Start without a published version, and wait for one.",
)
@click.option("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0: all interfaces.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    help="Port to listen on; 0: any free one.",
)
@click.option(
    "--replicas", type=options.POSITIVE, default=1, help="Processes that answer requests."
)
@click.option(
    "--shards",
    type=click.IntRange(1, 64),
    default=1,
    help="Parts to divide tables into that are too large for one machine, each with a process.",
)
@click.option(
    "--space",
    "spaces",
    multiple=True,
    metavar="NAME",
    help="Serve this space only; may be given several times. The default: all spaces.",
)
@click.option("--cache", type=options.FOLDER, help="Local folder for copies of the newest tables.")
@click.option(
    "--refresh-seconds",
    type=options.SECONDS,
    default=5.0,
    help="Seconds between two checks for new versions.",
)
@click.option("--max-ids", type=options.POSITIVE, default=10_000, help="Most ids in one request.")
@click.option(
    "--access-log",
    default="off",
    metavar="FILE|-|off",
    show_default=True,
    help="Write a line of JSON for each request to a file, or to standard output.",
)
@click.option(
    "--max-ongoing-requests",
    type=options.POSITIVE,
    default=32,
    help="Most requests that one replica answers at the same time.",
)
@click.option(
    "--max-queued-requests",
    type=options.POSITIVE,
    default=200,
    help="Most requests that wait; the next one is answered with 503 and Retry-After.",
)
@click.option(
    "--ha-proxy/--no-ha-proxy",
    default=None,
    help="Distribute requests with HAProxy, or with Ray Serve's own proxy, which is slower. "
    "Default: HAProxy where Ray brings it (on Linux).",
)
@click.option(
    "--auth/--no-auth",
    default=None,
    help="Whether requests need an access token. Default: on the loopback once there is one, "
    "elsewhere always.",
)
@click.option(
    "--views-max-bytes",
    type=click.IntRange(0),
    help="Most bytes of disk for tables converted ahead to older versions; 0: none. The default: "
    "as many as the tables have.",
)
@click.option(
    "--tls-cert",
    type=options.FILE,
    help="File with the certificate and its chain, in PEM, to serve https.",
)
@click.option("--tls-key", type=options.FILE, help="File with its private key, in PEM.")
@click.pass_obj
def serve(
    output: Output, /, registry: str, ha_proxy: bool | None, auth: bool | None, **settings: object
) -> None:
    """Serve look-ups over HTTP until interrupted.

    Answers for every version from the newest table. Prints the URL when the service is ready.
    Without RAY_ADDRESS it starts a private Ray, which stops with it. Only --host and --port can be
    reached from other machines; Ray's own ports listen on 127.0.0.1.

    SIGTERM or Ctrl-C stops it after the requests in flight; a second one stops it at once.
    """
    from backstay.serving.server import run

    run(
        registry,
        ha_proxy=ha_proxy,
        auth=auth,
        on_ready=lambda url: output.show({"url": url}),
        **options.given(settings),
    )


COMMANDS = (serve,)
