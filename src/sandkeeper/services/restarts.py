"""The restart policy of a process, and what its output says of it."""

from sandkeeper.services.runs import RunMeta

__all__ = ["may_restart", "retry_notice"]


def may_restart(meta: RunMeta) -> bool:
    """Say whether another attempt may follow a failure."""
    return meta.restart_on_failure and (
        meta.max_restarts < 0 or meta.restart_count < meta.max_restarts
    )


def retry_notice(meta: RunMeta, standing: int) -> str:
    """Return what to say before the next attempt; empty when the output says it already.

    `standing` are the bytes of notices in the journal. A server that is killed between the notice
    and the record of it, or the other way round, leaves the two apart; the count tells which.
    """
    most = "unlimited" if meta.max_restarts < 0 else str(meta.max_restarts)
    text = (
        f"\n[Process failed with exit code {meta.exit_code}. "
        f"Attempting restart {meta.restart_count + 1}/{most}...]\n"
    )
    meta.noticed += len(text)
    return "" if standing >= meta.noticed else text
