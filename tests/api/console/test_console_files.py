"""The console's page of files: looked through, edited, uploaded to, searched."""

import io
import os
import tarfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from backports import zstd
from playwright.sync_api import Locator, Page, Route, expect
from tests.api.console.pages import TOKEN, fits, in_both_themes, open_console, serious, sign_in
from tests.harness import Server, make_files, until


def picture(width: int, height: int) -> bytes:
    """Make a grey PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return len(data).to_bytes(4, "big") + checked + zlib.crc32(checked).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\0\0\0\0"
    rows = zlib.compress((b"\0" + b"\x80" * width) * height)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.fixture
def folder(server: Server, request: pytest.FixtureRequest) -> Path:
    made = server.workdir / request.node.name.partition("[")[0][-40:]
    made.mkdir(exist_ok=True)
    return made


def opened(page: Page, server: Server, folder: Path, **query: str) -> None:
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    open_console(page, server, f"#/files{folder}" + (f"?{asked}" if asked else ""))


def row(page: Page, name: str) -> Locator:
    return page.get_by_role("treeitem").filter(
        has=page.locator(".tree-name", has_text=name), has_not=page.locator("nothing")
    )


def menu(page: Page, name: str, action: str) -> None:
    row(page, name).click(button="right")
    page.get_by_role("menuitem", name=action).click()


def typed(page: Page, text: str) -> None:
    page.locator(".cm-content").first.click()
    page.keyboard.press("ControlOrMeta+Home")
    page.keyboard.type(text)


def test_fifty_thousand_entries_are_walked_sorted_and_opened_by_keys(
    server: Server, page: Page, folder: Path
) -> None:
    make_files(folder, (f"entry-{number:05d}" for number in range(50_000)))
    (folder / "entry-49999").write_text("the last one")
    opened(page, server, folder)
    expect(page.locator('[aria-setsize="50000"]').first).to_be_visible(timeout=120_000)

    page.get_by_role("tree").focus()
    page.keyboard.press("End")
    expect(row(page, "entry-49999")).to_be_visible()
    assert page.get_by_role("treeitem").count() < 100
    page.keyboard.press("Enter")
    expect(page.locator(".cm-content")).to_have_text("the last one")
    page.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Size").click()
    page.get_by_role("tree").focus()
    page.keyboard.press("Home")
    expect(row(page, "entry-49999")).to_be_visible()


def test_a_text_is_saved_and_what_somebody_else_wrote_is_shown_beside_it(
    server: Server, page: Page, folder: Path
) -> None:
    file = folder / "notes.py"
    file.write_bytes(b"one\r\ntwo\r\n")
    page.set_viewport_size({"width": 1280, "height": 800})
    opened(page, server, folder)
    row(page, "notes.py").click()
    typed(page, "# mine\n")
    expect(row(page, "notes.py").locator(".tree-dot")).to_be_visible()
    page.keyboard.press("ControlOrMeta+s")
    until(lambda: file.read_bytes() == b"# mine\r\none\r\ntwo\r\n")
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()

    typed(page, "# again\n")
    file.write_bytes(b"# mine\r\none\r\ntwo\r\nthree of theirs\r\n")
    expect(page.get_by_text("changed by somebody else")).to_be_visible()
    page.keyboard.press("ControlOrMeta+s")
    sides = page.locator(".conflict-host .cm-content")
    expect(sides).to_have_count(2)
    expect(sides.nth(0)).to_contain_text("three of theirs")
    expect(sides.nth(1)).to_contain_text("# again")
    assert serious(page) == []
    assert b"# again" not in file.read_bytes()
    page.get_by_role("button", name="Take this change of theirs").last.click()
    page.get_by_role("button", name="Save yours").click()
    until(lambda: file.read_bytes() == b"# again\r\n# mine\r\none\r\ntwo\r\nthree of theirs\r\n")

    # What was typed is still there after another page, and a clean text follows the file.
    typed(page, "# kept\n")
    page.keyboard.press("Escape")
    page.goto(f"{server.url}/console/#/ports")
    expect(page.locator("main h1")).to_have_text("Ports")
    page.go_back()
    expect(page.locator(".cm-content")).to_contain_text("# kept")
    page.get_by_role("button", name="Give up changes").click()
    page.get_by_role("dialog").get_by_role("button", name="Give up changes").click()
    expect(page.locator(".cm-content")).not_to_contain_text("# kept")
    file.write_text("written by a program\n")
    expect(page.locator(".cm-content")).to_have_text("written by a program")


def test_pictures_are_shown_and_bytes_of_a_large_file_are_read_where_one_looks(
    server: Server, page: Page, folder: Path
) -> None:
    (folder / "dot.png").write_bytes(picture(3, 2))
    with (folder / "large.bin").open("wb") as file:
        file.truncate(20 << 30)
        file.seek((20 << 30) - 5)
        file.write(b"\0tail")
    opened(page, server, folder)
    row(page, "dot.png").click()
    expect(page.get_by_text("3 × 2 pixels")).to_be_visible()
    page.get_by_role("button", name="Bytes").click()
    expect(page.get_by_role("option").first).to_contain_text("89 50 4e 47")

    row(page, "large.bin").click()
    expect(page.get_by_role("option").first).to_contain_text("00 00 00")
    page.get_by_label("Go to offset").fill("0x4fffffff0")
    page.get_by_role("button", name="Go", exact=True).click()
    expect(page.get_by_role("option").last).to_contain_text("tail")
    page.get_by_role("listbox", name="Bytes").focus()
    page.keyboard.press("Home")
    expect(page.get_by_role("option").first).to_contain_text("00000000")


def test_files_and_folders_arrive_and_what_is_there_is_asked_about(
    server: Server, page: Page, folder: Path, tmp_path: Path
) -> None:
    (folder / "there.txt").write_text("old")
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "a.txt").write_text("a")
    (tree / "b.txt").write_text("b")
    other = tmp_path / "there.txt"
    other.write_text("new")
    opened(page, server, folder)

    page.get_by_label("Folder to upload").set_input_files(tree)
    until(lambda: (folder / "tree/deep/a.txt").is_file() and (folder / "tree/b.txt").is_file())
    page.get_by_label("Files to upload").set_input_files(other)
    expect(page.get_by_text("There is a file of this name already")).to_be_visible()
    assert (folder / "there.txt").read_text() == "old"
    page.get_by_role("button", name="Keep both").click()
    until(lambda: (folder / "there (2).txt").is_file())
    assert (folder / "there.txt").read_text() == "old"
    expect(page.get_by_text("uploads are done")).to_be_visible()
    assert serious(page) == []

    dropped = page.evaluate_handle(
        "() => { const all = new DataTransfer();"
        " all.items.add(new File(['of a drop'], 'dropped.txt')); return all; }"
    )
    page.dispatch_event(".files", "dragover", {"dataTransfer": dropped})
    expect(page.get_by_text("Drop to upload into")).to_be_visible()
    page.dispatch_event('[data-folder$="/tree"]', "drop", {"dataTransfer": dropped})
    until(lambda: (folder / "tree/dropped.txt").is_file())


def test_a_large_upload_is_paused_and_goes_on_where_it_was_after_the_server_was_killed(
    make_server: Any, page: Page, tmp_path: Path
) -> None:
    own: Server = make_server(env={"SANDKEEPER_TOKEN": TOKEN})
    own.client.headers["Authorization"] = f"Bearer {TOKEN}"
    large = tmp_path / "large.bin"
    large.write_bytes(os.urandom(16 << 20))
    held: list[Route] = []
    sent: list[str] = []
    page.on("request", lambda one: sent.append(one.url) if "/part?" in one.url else None)
    sign_in(page, own, "#/files")
    page.route("**/part?partNumber=2", lambda route: held.append(route))
    with page.expect_request("**/part?partNumber=2"):
        page.get_by_label("Files to upload").set_input_files(large)
    page.get_by_role("button", name="Pause large.bin").click()
    expect(page.get_by_text("Paused at 50 %")).to_be_visible()

    page.unroute("**/part?partNumber=2")
    own.kill9()
    own.start()
    page.get_by_role("button", name="Resume large.bin").click()
    expect(page.get_by_text("upload is done")).to_be_visible()
    assert (own.workdir / "large.bin").read_bytes() == large.read_bytes()
    assert sum("partNumber=1" in one for one in sent) == 1
    assert own.client.get("/filesystem-multipart").json()["uploads"] == []


def test_a_folder_is_downloaded_as_tar_zst(server: Server, page: Page, folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "a.txt").write_text("packed")
    opened(page, server, folder)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download", exact=True).click()

    assert download.value.suggested_filename == f"{folder.name}.tar.zst"
    packed = Path(download.value.path()).read_bytes()
    data = zstd.decompress(packed)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert any(name.endswith("inner/a.txt") for name in archive.getnames())


def test_names_and_contents_are_found_and_shown_at_their_line(
    server: Server, page: Page, folder: Path
) -> None:
    (folder / "src").mkdir()
    (folder / "src" / "main.py").write_text("import os\n" * 90 + "needle = 'é' + 'Needle'\n")
    opened(page, server, folder, side="find")
    page.get_by_role("searchbox").fill("mnpy")
    expect(page.get_by_role("option", name="main.py")).to_be_visible()
    page.get_by_role("searchbox").fill("*.py")
    expect(page.get_by_role("option", name="main.py")).to_be_visible()

    page.get_by_role("button", name="Contents").click()
    page.get_by_role("searchbox").fill("Needle")
    page.get_by_label("Match case").check()
    found = page.locator(".find-line mark")
    expect(found).to_have_text("Needle")
    page.get_by_role("searchbox").press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(page.locator(".cm-activeLine")).to_contain_text("needle = ")
    page.get_by_role("searchbox").fill("nowhere at all")
    expect(page.get_by_text("Nothing was found")).to_be_visible()
    assert serious(page) == []


def test_changes_since_a_mark_are_listed(server: Server, page: Page, folder: Path) -> None:
    (folder / "old.txt").write_text("1")
    (folder / "gone.txt").write_text("1")
    opened(page, server, folder, side="changes")
    page.get_by_role("button", name="Note changes from now").click()
    expect(page.get_by_text("Nothing has changed")).to_be_visible()
    (folder / "new.txt").write_text("brand new")
    (folder / "old.txt").write_text("2")
    (folder / "gone.txt").unlink()

    for words in ("New new.txt", "Changed old.txt", "Deleted gone.txt"):
        expect(page.get_by_role("option", name=words)).to_be_visible()
    assert serious(page) == []
    page.get_by_role("option", name="New new.txt").click()
    expect(page.locator(".cm-content")).to_have_text("brand new")


def test_made_renamed_given_rights_and_deleted_whatever_the_name(
    server: Server, page: Page, folder: Path
) -> None:
    odd = os.fsencode(folder) + b"/latin-\xe9\n%41 #?.txt"
    Path(os.fsdecode(odd)).write_text("odd name")
    opened(page, server, folder)
    row(page, "latin-").click()
    expect(page.locator(".cm-content")).to_have_text("odd name")
    page.reload()
    expect(page.locator(".cm-content")).to_have_text("odd name")
    typed(page, "an ")
    page.keyboard.press("ControlOrMeta+s")
    until(lambda: Path(os.fsdecode(odd)).read_text() == "an odd name")
    page.get_by_role("button", name="Close").click()

    page.get_by_role("tree").focus()
    page.keyboard.press("Shift+N")
    page.get_by_label("Name", exact=True).fill("made")
    page.keyboard.press("Enter")
    until((folder / "made").is_dir)
    row(page, "made").click()
    expect(page.get_by_text("Empty", exact=True)).to_be_visible()
    page.keyboard.press("F2")
    page.get_by_label("Name", exact=True).fill("renamed")
    page.keyboard.press("Enter")
    # The tree is read again after that, and what was renamed is chosen then.
    expect(row(page, "renamed")).to_have_attribute("aria-selected", "true")

    menu(page, "latin-", "Properties and permissions")
    page.get_by_label("Group: write").check()
    page.get_by_label("Others: read").uncheck()
    expect(page.get_by_role("textbox", name="Mode")).to_have_value("660")
    assert serious(page) == []
    page.get_by_role("button", name="Change permissions").click()
    until(lambda: os.stat(odd).st_mode & 0o777 == 0o660)
    expect(row(page, "latin-").locator(".tree-col-mode")).to_have_text("rw-rw----")

    expect(page.get_by_role("dialog")).to_have_count(0)
    row(page, "renamed").click(modifiers=["Control"])  # beside the one whose menu was open
    page.get_by_role("tree").press("Delete")
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert (folder / "renamed").is_dir()
    page.get_by_role("tree").press("Delete")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    until(lambda: not any(folder.iterdir()))
    expect(page.get_by_text("This folder is empty")).to_be_visible()


def test_no_serious_fault_in_either_theme_and_a_phone_is_wide_enough(
    server: Server, page: Page, folder: Path
) -> None:
    (folder / "a.py").write_text("def f():\n    return 1  # one\n" * 40)
    (folder / "b.bin").write_bytes(bytes(range(256)) * 40)
    (folder / "c.png").write_bytes(picture(3, 2))
    opened(page, server, folder)
    page.get_by_role("button", name="Find").focus()
    shown = (
        (("file", "a.py"), ".cm-content"),
        (("file", "b.bin"), ".hex-row"),
        (("file", "c.png"), "img"),
    )
    for (name, value), selector in ((("", ""), ".tree-row"), *shown):
        page.set_viewport_size({"width": 1280, "height": 800})
        opened(page, server, folder, **({name: f"{folder}/{value}"} if name else {}))
        expect(page.locator(selector).first).to_be_visible()
        assert in_both_themes(page) == [], value
        page.set_viewport_size({"width": 360, "height": 740})
        until(lambda: fits(page))
