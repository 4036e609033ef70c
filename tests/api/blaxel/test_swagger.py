"""The description of the API: all that is served and nothing else, in two forms and as a page."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from tests.harness import Server
from tests.later import Later

from sandkeeper.api.areas import all_routes
from sandkeeper.api.blaxel import description
from sandkeeper.sandbox import Sandbox
from sandkeeper.settings import Environment, Settings

schemathesis = Later("schemathesis")
checks = Later("schemathesis.specs.openapi.checks")

BOTH = {"BL_WORKSPACE": "w", "BL_NAME": "n"}
REFERENCE = re.compile(r'"\$ref": "#/([^"]+)"')


def conformance() -> list[Any]:
    """Return what checks answers by their description."""
    kinds = ("content_type", "response_schema", "status_code")
    return [getattr(checks, f"{kind}_conformance") for kind in kinds]


def test_all_that_is_served_is_described_and_the_reverse(tmp_path: Path) -> None:
    settings = Settings.read({"SANDKEEPER_STATE_DIR": str(tmp_path), "SANDKEEPER_LOG": "none"})
    routes = all_routes(Sandbox(settings, Environment()))

    assert description.undescribed(routes) == set()
    assert description.operations() - description.served(routes) == set()


def test_the_contracts_document_has_host_base_and_no_pages(server: Server) -> None:
    document = server.client.get("/swagger/doc.json").json()

    assert (document["swagger"], document["host"]) == ("2.0", "localhost:8080")
    assert (document["basePath"], document["schemes"]) == ("/", ["http"])
    assert {"get", "post"} <= set(document["paths"]["/process"])
    assert not {"/", "/terminal", "/terminal/ws", "/mcp"} & set(document["paths"])


@pytest.mark.parametrize(
    ("env", "host", "base"),
    [
        ({"BL_ENV": "prod"}, "run.blaxel.ai", "/"),
        ({"BL_ENV": "prod", "BL_NAME": "n"}, "run.blaxel.ai", "/"),
        (
            {"BL_ENV": "dev", "BL_WORKSPACE": "w", "BL_NAME": "n"},
            "run.blaxel.dev",
            "/w/sandboxes/n",
        ),
        (BOTH, "localhost:8080", "/"),
    ],
)
def test_host_and_base_follow_the_environment(env: dict[str, str], host: str, base: str) -> None:
    address = description.Address.of(env)

    assert (address.host, address.base) == (host, base)
    assert address.url == (
        "/" if host.startswith("localhost") else f"https://{host}{base}".rstrip("/")
    )
    assert address.scheme == ("http" if host.startswith("localhost") else "https")


@pytest.mark.parametrize("path", ["/swagger/doc.json", "/openapi.json"])
def test_every_reference_leads_somewhere(server: Server, path: str) -> None:
    document = server.client.get(path).json()

    for reference in set(REFERENCE.findall(json.dumps(document))):
        found: Any = document
        for part in reference.split("/"):
            found = found[part]
        assert found


def test_what_is_switched_off_is_not_described(make_server: Any) -> None:
    own: Server = make_server(env={"DISABLE_TERMINAL": "1"})

    assert not [one for one in own.client.get("/openapi.json").json()["paths"] if "term" in one]


def test_the_page_is_found_and_loads_nothing_from_elsewhere(server: Server) -> None:
    reply = server.client.get("/swagger", follow_redirects=True)

    assert reply.url.path == "/swagger/index.html"
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert not re.search(r"(src|href)=|https?://", reply.text)


def test_a_person_reads_the_page(server: Server, page: Page) -> None:
    page.goto(server.url + "/swagger")

    expect(page.locator("#about")).to_contain_text(f"at {server.url}.")
    page.get_by_text("Start a process").click()
    expect(page.get_by_text("ProcessRequest", exact=True).first).to_be_visible()


@pytest.mark.parametrize(
    "path",
    [
        *("/health", "/ready", "/diagnostics", "/metrics", "/network/ports", "/openapi.json"),
        *("/process", "/terminals", "/drives/mount", "/filesystem-multipart"),
    ],
)
def test_what_is_answered_is_what_is_described(server: Server, path: str) -> None:
    described = schemathesis.openapi.from_dict(server.client.get("/openapi.json").json())

    described[path]["GET"].Case().call_and_validate(base_url=server.url, checks=conformance())


def test_the_older_form_can_be_read(server: Server) -> None:
    described = schemathesis.openapi.from_dict(server.client.get("/swagger/doc.json").json())

    described["/health"]["GET"].Case().call_and_validate(base_url=server.url, checks=conformance())
