"""One server with kernels for the tests of a module."""

from collections.abc import Iterator

import pytest
from tests.harness import ALONE, Server
from tests.kernels import environment


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = environment(SANDKEEPER_CODE_INTERRUPT_MS="120000")
    with Server(tmp_path_factory.mktemp("code"), env=env, constants=ALONE) as running:
        yield running
