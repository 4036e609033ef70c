"""MCP: arguments made by hypothesis from the schemas, and around them."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from tests.harness import Server, cases
from tests.mcp_calls import Tools

HOSTILE = [
    *("", " ", ".", "..", "~", "~root", "-", "--", "-e", "--pre=sh", "--files"),
    *("*", "**/*", "[", "(", "(a+)+$", "%2e%2e", "$(id)", "`id`", "{}", "null"),
    *("a\0b", "\n", "\r\n", "\x1b[2J", "\ud800", "é", "\U0001f600", "\\", '"', "'"),
    *("a" * 300, "a" * 5000, "/" * 50, "x" * 70_000),
]
"""Words that are special to somebody: shells, globs, patterns, options, terminals, kernels."""

SHELLS = ["", "/bin/sh", "/no/such", "a\0b", "-c", "sh -c x"]
COMMANDS = ["true", "exit 3", "", " ", "echo 'open", "a\0b", "printf x >&2", "\ud800", "é"]
PATHS = {"path", "targetFile", "relativeWorkspacePath", "workingDir", "directory"}
texts = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=30))
numbers = st.one_of(
    st.sampled_from([0, -1, 1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**30]),
    st.integers(-5, 70),
)
junk = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.floats(-1e300, 1e300), texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


def of_schema(name: str, schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return values that mostly fit a schema; commands and paths only such as do no harm."""
    kinds = schema.get("type", "string")
    kind = kinds if isinstance(kinds, str) else kinds[0]
    if name == "command":
        return st.sampled_from(COMMANDS)
    if name == "shell":
        return st.sampled_from(SHELLS)
    if name in PATHS:  # never the root or a home: some tools delete, others read all there is
        return texts.map(
            lambda text: "in/" + text.strip("/.") if text.strip("/.~") else text[:1].strip("/~")
        )
    if kind == "string":
        return texts
    if kind in {"integer", "number"}:
        return numbers
    if kind == "boolean":
        return st.booleans()
    if kind == "array":
        return st.lists(of_schema("", schema["items"]), max_size=3)
    if "properties" in schema:
        return of_object(schema)
    return st.dictionaries(texts, texts, max_size=2)


def of_object(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    fields = {name: of_schema(name, part) for name, part in schema["properties"].items()}
    required = {name: fields[name] for name in schema["required"]}
    optional = {name: part for name, part in fields.items() if name not in required}
    return st.fixed_dictionaries(required, optional=optional)


@st.composite
def arguments(draw: st.DrawFn, schema: dict[str, Any]) -> Any:
    made = draw(of_object(schema))
    if draw(st.integers(0, 3)) == 0 and schema["properties"]:
        name = draw(st.sampled_from([*schema["properties"], "unknown"]))
        if name not in PATHS | {"command", "recursive", "shell"}:
            made[name] = draw(junk)
    return made


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Any:
    env = {
        "SANDKEEPER_MCP_WAIT_SECONDS": "1",
        "SANDKEEPER_LOCAL_CODEGEN": "1",
        "SANDKEEPER_ON_SHUTDOWN": "stop",  # contexts of code would outlive it
    }
    with Server(tmp_path_factory.mktemp("hostile"), env=env) as running:
        (running.workdir / "in").mkdir()
        (running.workdir / "in/file").write_text("some text\nmore\n")
        tools = Tools(running)
        tools.value("processExecute", command="echo x", name="x", waitForCompletion=True)
        yield tools


ALL = [
    *("codeContextCreate", "codeContextDelete", "codeContexts", "codeExecution", "codeInterrupt"),
    *("codeRestart", "codeRun", "codeVariables"),
    *("codegenCodebaseSearch", "codegenEditFile", "codegenFileSearch", "codegenGrepSearch"),
    *("codegenListDir", "codegenParallelApply", "codegenReadFileRange", "codegenReapply"),
    *("codegenRerank", "fsApplyEdits", "fsDeleteFileOrDirectory", "fsEditFile"),
    *("fsGetWorkingDirectory", "fsListDirectory", "fsReadFile", "fsStat", "fsWriteFile"),
    *("gitAbort", "gitAdd", "gitBranches", "gitCheckout", "gitClone", "gitCommit"),
    *("gitCreateBranch", "gitDeleteBranch", "gitDiff", "gitFetch", "gitLog", "gitPull"),
    *("gitPush", "gitStatus"),
    *("processExecute", "processGet", "processGetLogs", "processKill", "processQueryLogs"),
    *("processStop", "processWait", "processWaitFor", "processWriteStdin", "processesList"),
    *("terminalClose", "terminalOpen", "terminalScreen", "terminalType", "terminalsList"),
]


def test_every_tool_is_tried(own: Tools) -> None:
    assert sorted(own.listed()) == sorted(ALL)


SLOW = {"codeContextCreate", "codeRun", "codegenCodebaseSearch", "codegenRerank", "processExecute"}


@pytest.mark.parametrize("tool", ALL)
def test_no_argument_breaks_a_tool(own: Tools, tool: str) -> None:
    entry = own.listed()[tool]
    output = Draft202012Validator(entry["outputSchema"])

    @settings(
        max_examples=cases(8 if tool in SLOW else 25),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(given_arguments=arguments(entry["inputSchema"]))
    def try_one(given_arguments: Any) -> None:
        message = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": tool, "arguments": given_arguments},
        }
        reply = own.post(json.dumps(message).encode())
        if reply.status_code == 400:  # half a surrogate pair is no JSON text
            assert "\\ud" in json.dumps(given_arguments)
            return
        assert reply.status_code == 200
        answer = reply.json()
        if "error" in answer:
            assert answer["error"]["code"] == -32602
            return
        result = answer["result"]
        (block,) = result["content"]
        if result.get("isError"):
            assert block["text"]
            assert "internal error" not in block["text"]
        else:
            output.validate(result["structuredContent"])

    try_one()
    assert own.server.client.get("/ready").status_code == 200


@settings(max_examples=cases(60), deadline=None, database=None)
@given(junk, junk)
def test_no_parameters_break_the_protocol(own: Tools, name: Any, given_arguments: Any) -> None:
    params = {"name": name, "arguments": given_arguments}
    reply = own.post({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})

    assert reply.status_code in {200, 400}
    if reply.status_code == 200:
        assert reply.json()["error"]["code"] == -32602


def test_the_log_has_no_fault_of_ours(own: Tools) -> None:
    lines = own.server.log_lines()
    faults = [line for line in lines if line["msg"].startswith(("mcp:", "unhandled"))]

    assert faults == []
