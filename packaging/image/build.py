"""Makes an OCI image without a container engine: an archive in the image layout.

    dist/sandkeeper-<version>-linux-<machine>.oci.tar

The bundle is one layer, at /opt/sandkeeper, with a link at /usr/local/bin/sandkeeper. Below it lies
a base, given as the archive of a root (scripts/image makes a small Debian): the server runs where
there is nothing but a C library, but what it is asked to run needs a shell. `manifest.json` is what
`docker load` of earlier Docker reads. Formats: opencontainers/image-spec 1.1.
"""

import argparse
import hashlib
import io
import json
import sys
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "packaging" / "bundle"))

import archives  # noqa: E402 - lies beside

MEDIA = "application/vnd.oci.image"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROGRAM = "/opt/sandkeeper/bin/sandkeeper"
SECOND = 1_000_000_000


class Layout:
    """An image layout while it is made: blobs by their digests."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def blob(self, media_type: str, data: bytes) -> dict[str, Any]:
        """Add a blob; returns its descriptor."""
        digest = hashlib.sha256(data).hexdigest()
        self.files[f"blobs/sha256/{digest}"] = data
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def write(self, path: Path, moment: int) -> None:
        """Write the archive, `oci-layout` and the index first."""
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
            for name in sorted(self.files, key=lambda one: (one.startswith("blobs"), one)):
                member = tarfile.TarInfo(name)
                member.size, member.mtime, member.mode = len(self.files[name]), moment, 0o644
                archive.addfile(member, io.BytesIO(self.files[name]))


def main() -> None:
    """Make the image of a bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True, help="the bundle, .tar.gz")
    parser.add_argument("--base", type=Path, help="a root as a tar archive; none: nothing below")
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    options = parser.parse_args()
    moment = archives.source_date(ROOT)
    layers = [options.base.read_bytes()] if options.base else []
    layer, about = bundle_layer(options.bundle, moment)
    layout = image([*layers, layer], about, moment)
    options.output.mkdir(parents=True, exist_ok=True)
    name = f"sandkeeper-{about['version']}-linux-{about['machine']}.oci.tar"
    layout.write(options.output / name, moment)
    archives.note_checksum(options.output / name)
    size = (options.output / name).stat().st_size / 1e6
    print(f"{size:.1f} MB  {options.output / name}")


def bundle_layer(bundle: Path, moment: int) -> tuple[bytes, dict[str, str]]:
    """Return the bundle's members moved to /opt, as a tar archive, and what it says of itself."""
    buffer = io.BytesIO()
    about: dict[str, str] = {}
    with (
        tarfile.open(bundle, "r:gz") as source,
        tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as target,
    ):
        for folder in ("opt", "usr", "usr/local", "usr/local/bin"):
            target.addfile(_member(folder, tarfile.DIRTYPE, 0o755, moment))
        link = _member("usr/local/bin/sandkeeper", tarfile.SYMTYPE, 0o777, moment)
        link.linkname = PROGRAM
        target.addfile(link)
        for member in source:
            content = source.extractfile(member) if member.isreg() else None
            if member.name == "sandkeeper/bundle.json" and content is not None:
                about = json.loads(content.read())
                content.seek(0)
            member.name = f"opt/{member.name}"
            target.addfile(member, content)
    return buffer.getvalue(), about


def _member(name: str, kind: bytes, mode: int, moment: int) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.mode, made.mtime = kind, mode, moment
    made.uname = made.gname = "root"
    return made


def image(layers: list[bytes], about: dict[str, str], moment: int) -> Layout:
    """Put layers (plain tar archives, the lowest first) together."""
    layout = Layout()
    packed = [layout.blob(f"{MEDIA}.layer.v1.tar+gzip", archives.gz(one)) for one in layers]
    created = datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")
    labels = {
        "org.opencontainers.image.title": "sandkeeper",
        "org.opencontainers.image.version": about["version"],
        "org.opencontainers.image.licenses": "Apache-2.0",
    }
    config = {
        "created": created,
        "architecture": ARCHITECTURES[about["machine"]],
        "os": "linux",
        "config": {
            "Entrypoint": [PROGRAM],
            "Env": [f"PATH={PATH}"],
            "ExposedPorts": {"8080/tcp": {}},
            "WorkingDir": "/",
            "StopSignal": "SIGTERM",
            "Labels": labels,
            # Not in the specification; engines that check health read it here.
            "Healthcheck": {
                "Test": ["CMD", PROGRAM, "health"],
                "Interval": 10 * SECOND,
                "Timeout": 5 * SECOND,
                "StartPeriod": 5 * SECOND,
            },
        },
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in layers],
        },
        "history": [{"created": created, "created_by": "sandkeeper make image"} for _ in layers],
    }
    told = layout.blob(f"{MEDIA}.config.v1+json", _json(config))
    manifest = layout.blob(
        f"{MEDIA}.manifest.v1+json",
        _json(
            {
                "schemaVersion": 2,
                "mediaType": f"{MEDIA}.manifest.v1+json",
                "config": told,
                "layers": packed,
                "annotations": labels,
            }
        ),
    )
    names = [f"sandkeeper:{about['version']}", "sandkeeper:latest"]
    layout.files["oci-layout"] = _json({"imageLayoutVersion": "1.0.0"})
    layout.files["index.json"] = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{MEDIA}.index.v1+json",
            "manifests": [
                {
                    **manifest,
                    "platform": {"architecture": ARCHITECTURES[about["machine"]], "os": "linux"},
                    "annotations": {
                        "io.containerd.image.name": f"docker.io/library/{name}",
                        "org.opencontainers.image.ref.name": name.partition(":")[2],
                    },
                }
                for name in names
            ],
        }
    )
    layout.files["manifest.json"] = _json(
        [
            {
                "Config": _place(told),
                "RepoTags": names,
                "Layers": [_place(one) for one in packed],
            }
        ]
    )
    return layout


def _place(descriptor: dict[str, Any]) -> str:
    return "blobs/sha256/" + str(descriptor["digest"]).removeprefix("sha256:")


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


if __name__ == "__main__":
    main()
