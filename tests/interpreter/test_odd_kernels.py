"""Kernels with habits of their own, as those of other languages have them."""

import json
from pathlib import Path

from tests import kernels
from tests.harness import Server

ODD = Path(__file__).parent / "odd_kernel.py"


def test_kernels_that_listen_elsewhere_speak_late_and_pass_things_over(tmp_path: Path) -> None:
    python = kernels.kernel_python() / "bin" / "python"
    for name in ("odd", "deno"):  # the second is told an address of TCP
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\nexec "{python}" "{ODD}" "$@"\n')
        program.chmod(0o755)
        folder = tmp_path / "jupyter" / "kernels" / name
        folder.mkdir(parents=True)
        said = {"argv": [str(program), "{connection_file}", "javascript"], "language": name}
        (folder / "kernel.json").write_text(json.dumps(said))
    env = kernels.environment(
        JUPYTER_PATH=str(tmp_path / "jupyter"), SANDKEEPER_CODE_INTERRUPT_MS="60000"
    )
    with Server(tmp_path / "server", env=env) as server:
        for name in ("odd", "deno"):
            context = kernels.context(server, language=name)
            late = context.run("late")
            failed, after = context.run("fail"), context.run("after")

            assert (late["status"], late["stdout"]) == ("ok", "late")
            assert (failed["status"], failed["error"]["value"]) == ("error", "as asked")
            assert (after["status"], after["stdout"]) == ("ok", "after")
            assert context.post("interrupt")["outcome"] == "idle"
            # What is told it around an execution is passed over as well.
            context.run("fail", env={"A": "1"})
            for env, entered in (({"A": "1"}, True), ({}, False)):
                assert context.run("entered?", env=env)["stdout"] == f"entered: {entered}"
            context.run("fail for long")
            waiting = context.start("never run")
            assert context.post("interrupt")["outcome"] == "interrupted"
            end = server.client.get(f"/code/executions/{waiting}").json()
            assert end["status"] == "interrupted"
            server.client.delete(context.path)
