"""What a bundle consists of, as CycloneDX 1.5 in JSON (ECMA-424): every package with its licence.

Python packages tell it by their metadata; what is compiled into the interpreter the interpreter
itself tells; the pages' packages stand in their package-lock.json.
"""

import json
import subprocess
import uuid
from collections.abc import Iterable, Iterator, Mapping
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

import gccruntime

from interpreter import Interpreter, Module

__all__ = ["describe"]

NAMESPACE = uuid.UUID("a1c0b3b0-8f0e-5a55-9d2e-6d3d3b6c1f27")
LICENCES = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
RUNTIME = "GPL-3.0-or-later WITH GCC-exception-3.1"
INSIDE = """
import json, platform, sqlite3, ssl, zlib
from xml.parsers import expat
print(json.dumps({
    "openssl": ssl.OPENSSL_VERSION.split()[1], "sqlite": sqlite3.sqlite_version,
    "zlib": zlib.ZLIB_RUNTIME_VERSION, "expat": expat.EXPAT_VERSION.removeprefix("expat_"),
}))
"""

Component = dict[str, Any]


def describe(
    root: Path, interpreter: Interpreter, modules: Iterable[Module], lock: Path, version: str
) -> dict[str, Any]:
    """Return the document for the bundle in `root`; `modules` are of what Go made."""
    parts = [
        *_packages(root / "lib" / interpreter.name / "site-packages"),
        *_interpreter(root, interpreter),
        *(_component(one.name, one.version.lstrip("v"), "golang", one.name) for one in modules),
        *_pages(lock),
        _component("gcc", gccruntime.VERSION, "deb", "debian/gcc-10", [RUNTIME]),
    ]
    parts.sort(key=lambda one: str(one["bom-ref"]))
    subject = _component("sandkeeper", version, "pypi", "sandkeeper", ["Apache-2.0"])
    subject["type"] = "application"
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": subject},
        "components": parts,
        "dependencies": [
            {"ref": subject["bom-ref"], "dependsOn": [one["bom-ref"] for one in parts]}
        ],
    }
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(NAMESPACE, json.dumps(document))}"
    return document


def _component(
    name: str, version: str, kind: str, path: str, licences: Iterable[str] = ()
) -> Component:
    url = f"pkg:{kind}/{path.replace('@', '%40')}@{version}"
    made: Component = {
        "type": "library",
        "bom-ref": url,
        "name": name,
        "version": version,
        "purl": url,
    }
    if told := [_licence(one) for one in licences]:
        made["licenses"] = told
    return made


def _licence(text: str) -> dict[str, Any]:
    """Write an SPDX expression as one; a single id and any other text are a licence's name."""
    if " AND " in text or " OR " in text or " WITH " in text:
        return {"expression": text}
    known = LICENCES.get(text, text)
    return {"license": {"id" if " " not in known else "name": known}}


def _packages(site: Path) -> Iterator[Component]:
    for path in sorted(site.glob("*.dist-info/METADATA")):
        told = HeaderParser().parsestr(path.read_text())
        if told["Name"] != "sandkeeper":
            name = told["Name"].lower().replace("_", "-").replace(".", "-")
            yield _component(told["Name"], told["Version"], "pypi", name, _stated(told))


def _stated(told: Message) -> list[str]:
    """Return the licence of a package: its expression, else its classifiers, else its words."""
    if expression := told.get("License-Expression"):
        return [expression]
    head = "License :: OSI Approved :: "
    classifiers = [str(one) for one in told.get_all("Classifier", []) if str(one).startswith(head)]
    if classifiers:
        return [one.removeprefix(head) for one in classifiers]
    word = str(told.get("License") or "").strip().partition("\n")[0]
    return [word] if word else []


def _interpreter(root: Path, interpreter: Interpreter) -> Iterator[Component]:
    python = root / "libexec" / interpreter.name
    done = subprocess.run([python, "-I", "-B", "-c", INSIDE], stdout=subprocess.PIPE, check=True)
    inside: Mapping[str, str] = json.loads(done.stdout)
    yield _component("cpython", interpreter.version, "generic", "cpython", ["PSF-2.0"])
    origin = interpreter.origin
    yield _component(origin.name, origin.version.lstrip("v"), "golang", origin.name)
    for name, version in sorted(inside.items()):
        yield _component(name, version, "generic", name)


def _pages(lock: Path) -> Iterator[Component]:
    """Give what the pages' bundle is made of: packages that are not for the build alone."""
    for place, told in sorted(json.loads(lock.read_text())["packages"].items()):
        if place and not told.get("dev"):
            name = place.rpartition("node_modules/")[2]
            licence = told.get("license")
            yield _component(name, told["version"], "npm", name, [licence] if licence else [])
