"""`build-engines thin`."""

from __future__ import annotations

from pathlib import Path

import click

_PATH = click.Path(path_type=Path)


@click.command("thin")
@click.argument("bundle")
@click.option("--for", "target", type=click.Choice(["onnxruntime", "tensorrt"]), required=True, help="The back end.")
@click.option("--compute", default="", help="Keep engines for this compute capability, e.g. 8.7.  [default: none]")
@click.option("--reports/--no-reports", default=True, show_default=True, help="Keep the reports.")
@click.option("--out", type=_PATH, required=True, help="Directory of the thin bundle.")
@click.option("--key", type=_PATH, default=None, help="Private key to sign it with; without it, it is not signed.")
@click.option("--trust", "keys", multiple=True, type=_PATH, help="Public key (PEM) that BUNDLE must be signed with.")
@click.option("--allow-unsigned", is_flag=True, help="Accept a bundle without a signature.")
def thin_command(
    bundle: str,
    target: str,
    compute: str,
    reports: bool,
    out: Path,
    key: Path | None,
    keys: tuple[Path, ...],
    allow_unsigned: bool,
) -> None:
    """Write BUNDLE for one kind of device: the graphs of its plan, fitting engines, nothing else.

    BUNDLE is a directory, a .tar, or shipped:NAME.
    """
    from build_engines.thin import thin
    from edge_runtime.bundle import open_bundle, sign_bundle
    from edge_runtime.bundles import bundle_path

    whole = open_bundle(bundle_path(bundle), keys, allow_unsigned)
    made = thin(whole, target, compute, reports, out)
    if key is not None:
        made = sign_bundle(out, key)
    sizes = (sum(len(one.read(name)) for name in one.manifest.files) / 1e6 for one in (whole, made))
    before, after = sizes
    click.echo(f"{out}: {before:.2f} MB are {after:.2f} MB now, for {target}; digest {made.digest}")
