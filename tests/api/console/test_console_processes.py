"""Processes in the console: started, read, found, fed and ended by a person in a browser."""

import contextlib
import os
import re
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect
from tests.api.console.pages import open_console, serious
from tests.harness import Server, children_of, resident, until, words_of

MIB = 1 << 20


def output(page: Page) -> Any:
    return page.get_by_role("log")


def start(server: Server, command: str, name: str, **fields: Any) -> str:
    reply = server.client.post("/process", json={"command": command, "name": name, **fields})
    assert reply.status_code == 200, reply.text
    return str(reply.json()["id"])


def test_a_process_is_started_with_limits_and_variables_and_its_output_has_colours(
    server: Server, page: Page
) -> None:
    page.emulate_media(color_scheme="dark")
    open_console(page, server, "#/processes")
    page.keyboard.press("s")
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Command").fill(
        "printf '\\033[1;31mred of %s\\033[0m\\n' \"$COLOUR\"; echo bad >&2; exec sleep 600"
    )
    dialog.get_by_label("Name", exact=True).fill("made")
    dialog.get_by_role("button", name="Add variable").click()
    dialog.get_by_label("Name of variable 1").fill("COLOUR")
    dialog.get_by_label("Value of variable 1").fill("roses")
    dialog.get_by_label("Processes", exact=True).fill("40")
    assert serious(page) == []
    dialog.get_by_label("Folder").fill(str(server.workdir))
    dialog.get_by_label("Command").press("Enter")

    expect(page.locator("main h1")).to_have_text("made")
    red = output(page).locator("span.sgr-bold", has_text="red of roses")
    expect(red).to_be_visible()
    assert red.evaluate("(it) => getComputedStyle(it).color") == "rgb(255, 138, 138)"
    expect(output(page).locator(".log-stderr")).to_have_text("bad")
    assert serious(page) == []
    record = server.client.get("/process/made").json()
    assert (record["workingDir"], record["limits"]["pids"]) == (str(server.workdir), 40)

    page.get_by_role("tab", name="CPU and memory").click()
    memory = page.get_by_role("region", name="Memory")
    expect(memory.locator("canvas")).to_be_visible()
    # What the server has kept is there for whoever comes later, and when it is over.
    until(lambda: server.client.get("/process/made/stats/history").json()["times"])
    server.client.delete("/process/made/kill")
    page.reload()
    expect(memory.locator("canvas")).to_be_visible()
    expect(page.get_by_role("region", name="Over all attempts")).to_be_visible()
    page.get_by_role("tab", name="Details").click()
    expect(page.locator(".process-details")).to_contain_text(record["id"])
    assert serious(page) == []


def test_a_refusal_of_the_server_stands_beside_its_field(server: Server, browser: Any) -> None:
    page = browser.new_page()  # of a 422 the JavaScript console tells, as of any
    open_console(page, server, "#/processes")
    page.get_by_role("button", name="Start process").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Command").fill("true")
    dialog.get_by_label("Folder").fill("/nowhere")
    dialog.get_by_role("button", name="Start process").click()

    expect(dialog.get_by_label("Folder")).to_have_attribute("aria-invalid", "true")
    expect(dialog.get_by_role("alert")).to_contain_text("/nowhere")
    page.close()


def test_what_runs_is_fed_signalled_stopped_and_started_again(server: Server, page: Page) -> None:
    command = "trap 'echo got usr1' USR1; while read -r line; do echo \"heard $line\"; done; exit 7"
    start(server, command, "fed", stdin=True)
    open_console(page, server, "#/processes/fed")
    line = page.get_by_label("A line for standard input")
    line.fill("hello")
    line.press("Enter")
    expect(output(page)).to_contain_text("heard hello")
    line.press("ArrowUp")
    expect(line).to_have_value("hello")
    page.get_by_role("button", name="Send a signal").click()
    page.get_by_role("menuitem", name="SIGUSR1").click()
    expect(output(page)).to_contain_text("got usr1")

    page.get_by_role("button", name="Send end of file").click()
    page.get_by_role("dialog").get_by_role("button", name="Send end of file").click()
    expect(page.locator(".process-cause")).to_contain_text("Exited with code 7.")
    page.get_by_role("button", name="Start again").click()
    expect(page.locator("main .badge").first).to_have_text("Running")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator(".process-cause")).to_contain_text("Stopped on request")
    page.get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove process").click()
    expect(page.locator("main h1")).to_have_text("Processes")


def test_the_table_is_sorted_filtered_and_walked_with_keys(server: Server, page: Page) -> None:
    for name in ("zebra", "apple", "mango"):
        start(server, f"exec sleep 600 # fruit {name}", name)
    start(server, "exit 4 # fruit", "rotten")
    open_console(page, server, "#/processes?q=fruit")
    rows = page.get_by_role("table", name="Processes").locator("tbody tr")
    expect(rows).to_have_count(4)

    page.get_by_role("button", name="Name").click()
    expect(rows.first).to_contain_text("apple")
    page.get_by_role("button", name="Name").click()
    expect(rows.first).to_contain_text("zebra")
    page.get_by_role("button", name=re.compile("^Running")).click()
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text("%")  # of what it uses

    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type(" man")
    expect(rows).to_have_count(1)
    rows.first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("main h1")).to_have_text("mango")
    page.go_back()
    page.get_by_role("button", name="Actions").click()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.get_by_role("dialog").get_by_role("button", name="Kill process").click()
    expect(page.get_by_text("No process matches")).to_be_visible()


def test_long_output_is_searched_filtered_and_walked_to_any_place(
    server: Server, page: Page
) -> None:
    command = "seq -f 'line %.0f of many' 1 100000; exec sleep 600"
    identifier = start(server, command, "long")
    last = f"/process/{identifier}/lines?tail=1"
    until(lambda: b"line 100000 " in server.client.get(last).content)
    open_console(page, server, "#/processes/long")
    lines = output(page)
    expect(lines).to_contain_text("line 100000 of many")
    assert lines.locator(".log-row").count() < 200

    search = page.get_by_role("searchbox")
    search.fill("line 1234 of")
    search.press("Shift+Enter")
    expect(lines.locator(".log-current mark")).to_have_text("line 1234 of")
    expect(page.get_by_role("button", name="Follow")).to_have_attribute("aria-pressed", "false")
    for _ in range(3):  # on to what stands behind the window, as a person scrolls
        lines.evaluate("(it) => it.scrollTop = it.scrollHeight")
        until(lambda: lines.evaluate("(it) => it.scrollHeight - it.scrollTop > 1000"))
    expect(lines).to_contain_text(re.compile(r"line (1[3-9]|[2-9]\d)\d\d of"))

    page.get_by_role("button", name="Only lines that match").click()
    page.get_by_role("button", name="Regular expression (RE2)").click()
    search.fill("line [0-9]9999 ")
    expect(lines.locator(".log-row")).to_have_count(9)
    search.fill("nothing has this")
    expect(page.get_by_text("No line matches")).to_be_visible()
    search.fill("")

    expect(lines).to_contain_text("line 100000 of many")
    page.get_by_role("slider", name="Place in the output").focus()
    page.keyboard.press("Home")
    expect(lines).to_contain_text("line 1 of many")
    page.get_by_role("button", name="Go to a time").click()
    page.get_by_role("dialog").get_by_role("button", name="1 h ago").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    lines.focus()
    page.keyboard.press("End")
    expect(lines).to_contain_text("line 100000 of many")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the output").click()
    text = Path(download.value.path()).read_text()
    assert text == "".join(f"line {number} of many\n" for number in range(1, 100001))
    assert download.value.suggested_filename == "long.log"


def renderers(pid: int) -> list[int]:
    """Return the processes of pages of the browsers below a process."""
    found: list[int] = []
    for child in children_of(pid):
        with contextlib.suppress(OSError):
            is_one = b"--type=renderer" in b" ".join(words_of(child))
            found += [child] if is_one else renderers(child)
    return found


COUNT_FRAMES = """() => {
    window.frames_ = 0;
    const count = () => { window.frames_ += 1; requestAnimationFrame(count); };
    requestAnimationFrame(count);
}"""


def test_a_flood_of_a_gigabyte_leaves_the_page_small_and_moving(server: Server, page: Page) -> None:
    go = server.workdir / "go"
    line = "the quick brown fox jumps over the lazy dog " * 2
    command = (
        f"until [ -e {go} ]; do sleep 0.05; done; yes '{line}' | head -c 1073741824; echo; "
        "echo all of it; exec sleep 600"
    )
    identifier = start(server, command, "flood")
    open_console(page, server, "#/processes/flood")
    expect(page.get_by_text("No output yet")).to_be_visible()
    page.evaluate(COUNT_FRAMES)
    pages, most, frames = renderers(os.getpid()), 0, []
    go.touch()

    def over() -> bool:
        nonlocal most
        most = max([most, *(resident(pid) for pid in pages)])
        frames.append(page.evaluate("window.frames_"))
        record = server.client.get(f"/process/{identifier}?output=false").json()
        return bool(record["stdoutBytes"] > 1073741824)

    until(over, every=0.03)
    expect(output(page)).to_contain_text("all of it")
    most = max([most, *(resident(pid) for pid in pages)])

    assert 0 < most < 300 * MIB
    assert frames[-1] - frames[0] > 10
    assert output(page).locator(".log-row").count() < 200
    assert page.evaluate("performance.memory.usedJSHeapSize") < 100 * MIB
    place = page.get_by_role("slider", name="Place in the output")
    until(lambda: place.evaluate("(it) => Number(it.max)") > 1073741824)
    place.focus()
    page.keyboard.press("Home")
    expect(output(page)).to_contain_text("are not kept any more")
