"""What the tests of tools share."""

import pytest
from tests.harness import Server
from tests.mcp_calls import Tools


@pytest.fixture(scope="module")
def tools(server: Server) -> Tools:
    """Return a client of the module's server."""
    return Tools(server)
