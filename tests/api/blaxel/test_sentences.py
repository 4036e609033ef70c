"""Errors are facts; what the contract says of them stands in one table."""

import errno

import pytest

from sandkeeper.api.blaxel.sentences import BEGINNINGS, sentence
from sandkeeper.errors import (
    Internal,
    NotFound,
    Obstacle,
    StartFailed,
    StorageFull,
    Task,
    TooLargeToRead,
    Unprocessable,
    failure,
)


def test_the_contract_has_a_sentence_for_each_task() -> None:
    assert set(BEGINNINGS) == set(Task)


@pytest.mark.parametrize("task", Task, ids=lambda task: task.name)
def test_a_task_that_is_about_something_names_it_in_plain_words(task: Task) -> None:
    plain = str(Internal("why", task=task, about="/x{}"))

    assert plain == f"{task.value.replace('{}', '/x{}')}: why"


def test_what_the_system_said_is_kept_as_it_was() -> None:
    denied = PermissionError(errno.EACCES, "Permission denied", "/deep/er")
    error = failure(Unprocessable, Task.COPY, "open", "/deep", denied, about="/from")

    assert error.reason == Obstacle("open", "/deep/er", errno.EACCES, "permission denied")
    assert (error.task, error.about) == (Task.COPY, "/from")
    assert str(error) == "failed to copy /from: open /deep/er: permission denied"
    assert sentence(error) == "error copying /from: open /deep/er: permission denied"


def test_a_name_with_nul_is_what_the_kernel_calls_it() -> None:
    error = failure(NotFound, None, "stat", "/a\0b", ValueError("embedded null byte"))

    assert sentence(error) == str(error) == "stat /a\0b: invalid argument"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_that_whatever_failed_by_it(number: int) -> None:
    error = failure(Unprocessable, Task.WRITE_FILE, "open", "/x", OSError(number, "Full"))

    assert type(error) is StorageFull
    assert sentence(error) == "error writing file: open /x: full"


def test_only_the_contract_says_how_a_large_file_is_had() -> None:
    error = TooLargeToRead("/x is larger than 9 bytes", task=Task.READ_FILE)

    assert str(error) == "failed to read file: /x is larger than 9 bytes"
    assert sentence(error) == (
        "error reading file: /x is larger than 9 bytes; "
        "download it with Accept: application/octet-stream"
    )


def test_a_start_that_failed_says_so_without_being_asked() -> None:
    assert sentence(StartFailed("no shell")) == "failed to start process: no shell"
