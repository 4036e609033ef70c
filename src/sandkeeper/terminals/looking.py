"""Waiting until a terminal shows a text."""

from sandkeeper.terminals.terminal import Terminal

__all__ = ["until_shown"]

PATIENCE_SECONDS = 60.0


async def until_shown(terminal: Terminal, text: str) -> None:
    """Wait until the screen holds `text`, wherever its lines break it, or the shell has ended.

    It has when it has shown its last and it is known how it ended.
    """
    from sandkeeper.terminals.render import flowing_text, text_lines

    journal = terminal.journal
    while True:
        seen, over = journal.tail, terminal.over.is_set()
        screen = (await terminal.screen()).screen
        if text in flowing_text(screen) or text in "\n".join(text_lines(screen)):
            return
        if over:
            return
        if seen == journal.tail and not terminal.over.is_set():
            await journal.changed(PATIENCE_SECONDS, seen)
