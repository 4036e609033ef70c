"""Images made here, without an engine: a root with nothing but a program, and its start."""

import hashlib
import io
import json
import tarfile


def layer_of(programs: dict[str, bytes]) -> bytes:
    """Return an archive of a root that has only what is mounted at, and names of users."""
    buffer = io.BytesIO()
    users = "root:x:0:0:root:/root:/bin/sh\nsandbox:x:1000:1000::/workspace:/bin/bash\n"
    files = {
        "etc/passwd": users.encode(),
        "etc/group": b"root:x:0:\nsandbox:x:1000:\n",
    }
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, mode in (
            *(
                (one, 0o755)
                for one in ("etc", "root", "usr", "var", "var/lib", "proc", "sys", "dev")
            ),
            ("tmp", 0o1777),
            ("app", 0o777),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, mode
            archive.addfile(member)
        for name in ("bin", "sbin", "lib", "lib64"):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, f"usr/{name}"
            archive.addfile(member)
        for name, content in {**files, **programs}.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755 if name in programs else 0o644
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def archive_of(name: str, layer: bytes, entry: list[str]) -> bytes:
    """Return an image as `docker save` writes one."""
    digest = hashlib.sha256(layer).hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Entrypoint": entry,
            "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        # Two images of one content would be one, with one start.
        "history": [{"created_by": name}],
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    files = {
        "config.json": json.dumps(config).encode(),
        "layer.tar": layer,
        "manifest.json": json.dumps(manifest).encode(),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
