"""`edge-runtime bundle`: look into bundles, sign and install them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from edge_runtime.cli.pull import pull
from edge_runtime.cli.slots import install, list_slots, rollback, status, trust_options

if TYPE_CHECKING:
    from rich.table import Table

    from edge_runtime.bundle import Bundle, Manifest
    from edge_runtime.streams import StreamSpec

EVALUATION = "report/evaluation.json"


@click.group()
def bundle() -> None:
    """Inspect, verify, sign and install bundles."""


@bundle.command()
@click.argument("name", metavar="BUNDLE")
@trust_options
def verify(name: str, keys: tuple[Path, ...], allow_unsigned: bool) -> None:
    """Check BUNDLE (a directory, a .tar, or shipped:NAME): signature, digests, and that it can decide.

    Every graph is opened and held against the manifest, and every head decides on made-up inputs.
    """
    from edge_runtime.infer.rehearsal import rehearse

    opened = _open(name, keys, allow_unsigned)
    rehearse(opened)
    signed = f"signed by {opened.signed_by}" if opened.signed_by else "NOT SIGNED"
    manifest = opened.manifest
    click.echo(f"{name}: {manifest.name} {manifest.version} is whole and decides; {signed}; digest {opened.digest}")


@bundle.command()
@click.argument("name", metavar="BUNDLE")
@trust_options
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as it is.")
@click.option("--licences", is_flag=True, help="Print the licence texts of what others made and BUNDLE holds.")
def inspect(name: str, keys: tuple[Path, ...], allow_unsigned: bool, as_json: bool, licences: bool) -> None:
    """Show what BUNDLE expects, decides and contains."""
    from rich.console import Console
    from rich.table import Table

    from edge_runtime.bundle import LICENCES, encode_manifest

    opened = _open(name, keys, allow_unsigned)
    manifest = opened.manifest
    texts = {file: opened.read(file) for file in sorted(manifest.files) if file.startswith(LICENCES)}
    if as_json:
        click.echo(encode_manifest(manifest))
        return
    if licences:
        for file, text in texts.items():
            click.echo(f"{file}:\n\n{text.decode(errors='replace')}")
        return
    console = Console()
    signed = f"signed by {opened.signed_by}" if opened.signed_by else "not signed"
    console.print(f"[bold]{manifest.name} {manifest.version}[/] {signed}, digest {opened.digest[:16]}")
    console.print(manifest.description, f"licence {manifest.licence}" if manifest.licence else "", soft_wrap=True)
    for line in manifest.attribution:
        console.print(f"  {line}", soft_wrap=True)
    for file, text in texts.items():
        count = len(text.splitlines())
        console.print(f"  {file}: {count} lines (print them: --licences)", highlight=False, soft_wrap=True)
    for what, origin in sorted(manifest.training.items()):
        console.print(f"  from {what} {origin}", markup=False, highlight=False, soft_wrap=True)
    console.print(_streams(manifest, Table(title="streams", title_justify="left")))
    console.print(_stages(opened, Table(title="stages", title_justify="left")))
    policy = manifest.decision
    console.print(f"decides ({manifest.head.kind}): {manifest.head.summary}", soft_wrap=True)
    for side in manifest.side_heads:
        console.print(f"beside it, {side.name} ({side.head.kind}): {side.head.summary}", soft_wrap=True)
    console.print(
        f"safe decision {policy.safe_label!r}; hold {policy.hold}; at once {list(policy.immediate)}; "
        f"threshold {policy.threshold}; heartbeat {policy.heartbeat_ms:g} ms"
    )
    for label, names in policy.needs.items():
        console.print(f"  {label} is said only with {', '.join(names)}")
    for figure, value in sorted(manifest.figures.items()):
        console.print(f"  {figure} {value:g}")
    for line in _headline(opened):
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


@bundle.command("time")
@click.argument("name", metavar="BUNDLE")
@trust_options
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Write the times here, as JSON.")
@click.option("--cpu", is_flag=True, help="On ONNX Runtime, though there is a GPU.")
def time_stages(name: str, keys: tuple[Path, ...], allow_unsigned: bool, out: Path | None, cpu: bool) -> None:
    """Tell how long each stage of BUNDLE takes on this machine: on the GPU where one can be used.

    The file is what a recipe's [budget.targets] asks of another machine.
    """
    from edge_runtime.config import EngineConfig
    from edge_runtime.infer import ON_CPU
    from edge_runtime.infer.timing import measure, write_times

    times = measure(_open(name, keys, allow_unsigned), ON_CPU if cpu else EngineConfig())
    for stage in times.stages:
        click.echo(f"{stage.stage} {stage.precision} {stage.ms:.3f} ms")
    click.echo(f"together {times.ms:.3f} ms on {times.backend}")
    if out is not None:
        write_times(out, times)
        click.echo(f"{out}: written")


@bundle.command()
@click.argument("stem", metavar="NAME", type=click.Path(path_type=Path))
def keygen(stem: Path) -> None:
    """Make a pair of keys: NAME.key signs (keep it secret), NAME.pem goes into `trusted_keys` on the devices."""
    from edge_runtime.signing_keys import generate_keys, load_public_key

    secret, public = generate_keys(stem)
    click.echo(
        f"{secret} signs bundles: keep it secret and safe\n"
        f"{public} goes to the devices, into trusted_keys or /etc/edge-runtime/trust.d; "
        f"its id is {load_public_key(public).id}"
    )


@bundle.command()
@click.argument("keys", metavar="KEY...", nargs=-1, required=True, type=click.Path(path_type=Path))
def keyid(keys: tuple[Path, ...]) -> None:
    """Tell the ids of public keys (PEM files, or folders of them): what a signature names, and a file `revoked`."""
    from edge_runtime.signing_keys import load_trusted_keys

    for key in load_trusted_keys(keys).keys:
        click.echo(f"{key.id} {key.name}")


@bundle.command()
@click.argument("path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--key", required=True, type=click.Path(path_type=Path), help="Private key (PEM) made by keygen.")
def sign(path: Path, key: Path) -> None:
    """Sign the directory BUNDLE: writes its model.sig (OpenSSF model signing 1.0)."""
    from edge_runtime.bundle import sign_bundle

    signed = sign_bundle(path, key)
    click.echo(f"{path}: signed; digest {signed.digest}")


for command in (install, pull, rollback, list_slots, status):
    bundle.add_command(command)


class _Evaluation(Struct, frozen=True):
    """What is read of the bundle's own report: the first lines of it."""

    split: str = ""
    headline: tuple[str, ...] = ()


def _headline(opened: Bundle) -> list[str]:
    """The headline of the report that the bundle carries; empty where it has none."""
    import msgspec

    if EVALUATION not in opened.manifest.files:
        return []
    try:
        evaluation = msgspec.json.decode(opened.read(EVALUATION), type=_Evaluation)
    except msgspec.DecodeError:
        return [f"{EVALUATION} cannot be read"]
    if not evaluation.headline:
        return []
    return [f"evaluated on {evaluation.split}:", *(f"  {line}" for line in evaluation.headline)]


def _open(name: str, keys: tuple[Path, ...], allow_unsigned: bool) -> Bundle:
    from edge_runtime.bundle import open_bundle
    from edge_runtime.bundles import bundle_path
    from edge_runtime.signing_keys import trusted

    return open_bundle(bundle_path(name), trusted(keys), allow_unsigned)


def _streams(manifest: Manifest, table: Table) -> Table:
    from edge_runtime.streams import kind, kind_of

    for column in ("stream", "what", "rate", "max age", "required", "detail"):
        table.add_column(column)
    for name, spec in manifest.streams.items():
        trigger = " (trigger)" if name == manifest.trigger else ""
        required = "yes" if spec.required else ", ".join(_required_channels(spec)) or "no"
        table.add_row(
            name + trigger,
            kind(spec),
            f"{spec.rate_hz:g} Hz",
            f"{spec.max_age_ms:g} ms",
            required,
            kind_of(spec).detail(spec),
        )
    return table


def _required_channels(spec: StreamSpec) -> list[str]:
    return [channel.name for channel in getattr(spec, "channels", ()) if channel.required]


def _stages(opened: Bundle, table: Table) -> Table:
    for column in ("stage", "reads", "gives", "files"):
        table.add_column(column)
    for stage in opened.manifest.stages:
        reads = "\n".join(f"{item.name} {item.dtype}{list(item.shape)}" for item in stage.inputs)
        gives = "\n".join(f"{out.name} {out.dtype}{list(out.shape)}" for out in stage.outputs)
        files = "\n".join(
            f"{precision} {len(opened.read(file)) / 1024:.0f} KiB" for precision, file in stage.files.items()
        )
        table.add_row(
            stage.name, reads.replace("[", "(").replace("]", ")"), gives.replace("[", "(").replace("]", ")"), files
        )
    return table
