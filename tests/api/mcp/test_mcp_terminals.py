"""MCP: terminal tools."""

from tests.harness import Server, until
from tests.mcp_calls import Tools


def test_an_agent_types_and_sees_the_screen(tools: Tools) -> None:
    opened = tools.value("terminalOpen", sessionId="work", shell="/bin/sh", cols=40, rows=10)
    assert (opened["sessionId"], opened["status"], opened["cols"]) == ("work", "running", 40)

    done = tools.value("terminalType", sessionId="work", data="echo $((6*7))-done", enter=True)
    assert done == {"bytesTyped": 19}
    screen = tools.value("terminalScreen", sessionId="work", waitFor="42-done")
    assert any(line.strip().endswith("42-done") for line in screen["lines"])
    until(lambda: tools.value("terminalScreen", sessionId="work")["cursor"]["row"] >= 2)
    listed = tools.value("terminalsList")["terminals"]
    assert [one["sessionId"] for one in listed] == ["work"]
    tools.value("terminalType", sessionId="work", data="exit 3", enter=True)
    over = tools.value("terminalScreen", sessionId="work", waitFor="never", timeout=20)
    assert over["status"] == "exited"
    assert tools.value("terminalClose", sessionId="work") == {"status": "closed"}


def test_what_cannot_be_done_is_said(tools: Tools) -> None:
    assert "failed to show terminal: " in tools.error("terminalScreen", sessionId="none")
    assert "failed to type: " in tools.error("terminalType", sessionId="none", data="x")
    assert "NUL" in tools.error("terminalOpen", shell="a\0b")
    assert "failed to open terminal: " in tools.error("terminalOpen", shell="/no/such/shell")
    assert "validating" in tools.error("terminalOpen", cols=0)


def test_switched_off_terminals_have_no_tools(make_server) -> None:
    own: Server = make_server(env={"DISABLE_TERMINAL": "true"})

    assert not [name for name in Tools(own).listed() if name.startswith("terminal")]
