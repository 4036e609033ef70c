"""A node's collector reads the log's lines as JSON: deploy/observability/rsyslog.conf, for real.

No registry of this project's has Fluent Bit; what its configuration names is checked here.
"""

import json
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.harness import Server, debian, until

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "observability"


class Receiver:
    """Takes lines of JSON by TCP; use as a context manager."""

    def __init__(self) -> None:
        self.text = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Receiver":
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._listener.close()

    def _run(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            while got := connection.recv(1 << 16):
                self.text += got

    def records(self) -> list[dict[str, Any]]:
        """Return what has come in whole lines."""
        return [json.loads(line) for line in self.text.split(b"\n")[:-1]]


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    """Return what rsyslog sends to: all that is in files of containers named sandbox."""
    debian("rsyslog")
    (tmp_path / "work").mkdir()
    (tmp_path / "logs").mkdir()
    with Receiver() as running:
        env = {
            **os.environ,
            "SANDKEEPER_LOGS": str(tmp_path / "logs" / "*_sandbox-*.log"),
            "COLLECTOR_HOST": "127.0.0.1",
            "COLLECTOR_PORT": str(running.port),
            "RSYSLOG_WORK": str(tmp_path / "work"),
        }
        argv = ["/usr/sbin/rsyslogd", "-n", "-f", DEPLOY / "rsyslog.conf", "-i", tmp_path / "pid"]
        with subprocess.Popen(argv, env=env) as rsyslog:
            try:
                yield running
            finally:
                rsyslog.terminate()


def test_rsyslog_gives_each_line_with_all_its_fields(receiver: Receiver, tmp_path: Path) -> None:
    path = tmp_path / "logs" / "web_ns_sandbox-1.log"
    with Server(tmp_path / "server", env={"SANDKEEPER_LOG": str(path)}) as server:
        server.run("echo 'a \"quoted\" line\tü'; printf 'of a problem\n' >&2", name="talks")
    lines = path.read_text().splitlines()
    until(lambda: len(receiver.records()) == len(lines))
    written = [json.loads(line) for line in lines]
    come = receiver.records()
    by_message = {record["msg"]: record for record in come}

    assert [record.pop("file") for record in come] == [str(path)] * len(lines)
    assert come == written
    assert by_message['a "quoted" line\tü']["process-name"] == "talks"
    assert by_message["of a problem"]["stream"] == "stderr"

    # As container runtimes have it: the time, the stream, and whether the line is whole.
    kept = tmp_path / "logs" / "web_ns_sandbox-2.log"
    kept.write_text("".join(f"2026-11-29T02:00:38.254123Z stdout F {one}\n" for one in lines))
    until(lambda: len(receiver.records()) == 2 * len(lines))
    again = receiver.records()[len(lines) :]
    assert [{k: v for k, v in record.items() if k != "file"} for record in again] == written


def test_what_fluent_bit_is_told_is_what_the_lines_have() -> None:
    documents = list(yaml.safe_load_all((DEPLOY / "fluent-bit.yaml").read_text()))
    known = {one["kind"]: one for one in documents}
    config = yaml.safe_load(known["ConfigMap"]["data"]["fluent-bit.yaml"])
    (output,) = config["pipeline"]["outputs"]
    (source,) = config["pipeline"]["inputs"]
    (parser,) = config["parsers"]
    pod = known["DaemonSet"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    sandbox = (ROOT / "deploy/kubernetes/base/template.yaml").read_text()

    assert output["logs_body_key"] == "$msg"
    assert output["logs_severity_text_message_key"] == "level"
    assert (parser["format"], parser["time_key"]) == ("json", "time")
    assert "*_sandbox-*" in source["path"]
    assert "- name: sandbox\n" in sandbox
    assert {one["name"] for one in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    given = {one["name"] for one in container["env"]}
    assert set(re.findall(r"\$\{(\w+)\}", known["ConfigMap"]["data"]["fluent-bit.yaml"])) == given
    assert pod["serviceAccountName"] == known["ServiceAccount"]["metadata"]["name"]
    policy = yaml.safe_load((DEPLOY / "networkpolicy.yaml").read_text())
    assert policy["spec"]["podSelector"]["matchLabels"].popitem()[1] + "\n" in sandbox
    config_map = next(v["configMap"]["name"] for v in pod["volumes"] if "configMap" in v)
    assert config_map == known["ConfigMap"]["metadata"]["name"]
