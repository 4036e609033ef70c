"""What needs a remote: clone, fetch, pull, push."""

from sandkeeper.errors import BadInput, Conflict, SandkeeperError, Unprocessable
from sandkeeper.git.addresses import (
    Credential,
    check_address,
    has_secret,
    is_address,
    is_ssh,
    origin_of,
)
from sandkeeper.git.arguments import branch_name, limited, people, plain, revision
from sandkeeper.git.changing import conflicts
from sandkeeper.git.fields import CloneFields, FetchFields, PullFields, PushFields
from sandkeeper.git.looking import head, to_root
from sandkeeper.git.operations import CallEnd, Operation
from sandkeeper.git.porcelain import pushed_refs
from sandkeeper.git.program import BATCH_SSH
from sandkeeper.git.records import Cloned, Fetched, Pulled, Pushed, named

__all__ = [
    "check_clone",
    "check_pull",
    "check_push",
    "check_remote",
    "clone",
    "fetch",
    "pull",
    "push",
]

DEPTH_MOST = (1 << 31) - 1
ANY_CODE = range(-1, 256)


def check_clone(wanted: CloneFields, credential: Credential | None) -> None:
    """Raise BadInput for an address with a secret in it, or what is none; for words that clash."""
    check_address(wanted.url)
    if credential is not None and not origin_of(wanted.url):
        raise BadInput("credentials are for addresses of http and https alone")
    limited(wanted.depth, "depth", DEPTH_MOST)
    if wanted.branch:
        plain(wanted.branch, "branch")
    if wanted.commit:
        revision(wanted.commit, "commit")
        if wanted.bare:
            raise BadInput("either bare or commit: a bare repository has no working tree")


async def clone(operation: Operation, wanted: CloneFields, credential: Credential | None) -> Cloned:
    """Clone into `operation.path`, whose parents are made as needed."""
    address = wanted.url
    operation.serve(credential, address)
    words = ["clone", "--progress"]
    for flag, name in (
        (wanted.bare, "--bare"),
        (wanted.single_branch, "--single-branch"),
        (wanted.recurse_submodules, "--recurse-submodules"),
    ):
        words += [name] if flag else []
    words += [f"--depth={limited(wanted.depth, 'depth', DEPTH_MOST)}"] if wanted.depth else []
    words += [f"--branch={wanted.branch}"] if wanted.branch else []
    given = await _ssh(operation, address)
    await operation.git(*words, "--", address, operation.path, given=given, remote=True)
    operation.folder = operation.path
    if wanted.commit:
        await operation.git("checkout", "--quiet", "--detach", wanted.commit, "--")
    where = await head(operation)
    return Cloned(branch=where.branch, commit=where.commit, path=named(_bytes(operation.path))[0])


def _bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


async def _ssh(operation: Operation, address: str) -> dict[str, str]:
    """Return variables that keep ssh from asking, unless somebody has said which ssh to run."""
    if not is_ssh(address):
        return {}
    known = await operation.git("config", "--get", "core.sshCommand", accepts=(0, 1, 128))
    inherited = operation.inherited()
    if known.code == 0 or {"GIT_SSH_COMMAND", "GIT_SSH"} & inherited.keys():
        return {}
    return {"GIT_SSH_COMMAND": BATCH_SSH}


def check_remote(wanted: FetchFields | PullFields | PushFields) -> None:
    """Raise BadInput for a remote or a branch that is none."""
    if is_address(wanted.remote):
        check_address(wanted.remote, "remote")
    elif wanted.remote:
        plain(wanted.remote, "remote")
    if wanted.branch:
        branch_name(wanted.branch, "branch")
        if not wanted.remote:
            raise BadInput("branch needs remote")


def check_pull(wanted: PullFields) -> None:
    """Raise BadInput as `check_remote` does, and for an author who is none."""
    check_remote(wanted)
    people(wanted.author, None)


def check_push(wanted: PushFields) -> None:
    """Raise BadInput as `check_remote` does, and for words that clash."""
    check_remote(wanted)
    if wanted.delete and not wanted.branch:
        raise BadInput("delete needs remote and branch")


async def _remote(
    operation: Operation, wanted: FetchFields | PullFields | PushFields, *, pushes: bool
) -> dict[str, str]:
    """Find out where this goes and who logs in there; returns variables for the call.

    Raises Unprocessable for an address with a secret in it: git would show it to everybody.
    """
    name = wanted.remote or await _usual_remote(operation, pushes=pushes)
    address = name
    if not is_address(name):
        words = ["remote", "get-url", *(["--push"] if pushes else []), "--", name]
        address = (await operation.git(*words)).stdout.decode("utf-8", "replace").rstrip("\n")
    if has_secret(address):
        raise Unprocessable(
            f"git {operation.action}: the address of the remote {name!r} has a password or a token "
            "in it, which every process would see; give it one without (git remote set-url) and "
            "send X-Git-Username and X-Git-Password",
            code="SECRET_IN_ADDRESS",
        )
    if operation.credential is not None:
        if not origin_of(address):
            raise BadInput("credentials are for addresses of http and https alone")
        operation.serve(operation.credential, address)
    return await _ssh(operation, address)


async def _usual_remote(operation: Operation, *, pushes: bool) -> str:
    """Return the remote that git takes where none is named (`branch.<name>.remote`)."""
    where = await head(operation)
    names = [f"branch.{where.branch}.remote"] if where.branch else []
    if pushes:
        before = [f"branch.{where.branch}.pushRemote"] if where.branch else []
        names = [*before, "remote.pushDefault", *names]
    for name in names:
        found = await operation.git("config", "--get", name, accepts=(0, 1))
        if found.line:
            return found.line
    return "origin"


async def fetch(
    operation: Operation, wanted: FetchFields, credential: Credential | None
) -> Fetched:
    """Bring what a remote has."""
    await to_root(operation)
    operation.credential = credential
    given = await _remote(operation, wanted, pushes=False)
    words = ["fetch", "--progress"]
    words += ["--prune"] if wanted.prune else []
    words += ["--tags"] if wanted.tags else []
    words += _target(wanted)
    await operation.git(*words, given=given, remote=True)
    return Fetched(operation.progress.words)


def _target(wanted: FetchFields | PullFields | PushFields) -> list[str]:
    return ["--", *filter(None, (wanted.remote, wanted.branch))] if wanted.remote else []


async def pull(operation: Operation, wanted: PullFields, credential: Credential | None) -> Pulled:
    """Fetch and merge; raises Conflict where both sides have changed the same."""
    await to_root(operation)
    operation.credential = credential
    given = await _remote(operation, wanted, pushes=False)
    given |= people(wanted.author, None)
    before = (await head(operation)).commit
    words = ["pull", "--progress", "--no-edit"]
    if wanted.ff_only:
        words += ["--ff-only"]
    else:
        words += ["--rebase" if wanted.rebase else "--no-rebase"]
    answer = await operation.git(
        *words, *_target(wanted), given=given, remote=True, accepts=ANY_CODE
    )
    if answer.code:
        await _raise_conflict(operation, answer)
    where = await head(operation)
    said = operation.progress.words
    return Pulled(
        branch=where.branch,
        commit=where.commit,
        before=before,
        updated=before != where.commit,
        messages=said,
    )


async def _raise_conflict(operation: Operation, answer: CallEnd) -> None:
    failed = operation.failure(answer)
    if "CONFLICT" in str(failed) or "could not apply" in str(failed):
        paths = await conflicts(operation)
        if paths:
            names = ", ".join(paths[:20])
            told = f"git {operation.action}: both sides have changed {names}"
            raise Conflict(told, code="CONFLICT", conflicts=paths)
    raise failed


async def push(operation: Operation, wanted: PushFields, credential: Credential | None) -> Pushed:
    """Send what is here; raises Conflict where the remote has something else."""
    await to_root(operation)
    operation.credential = credential
    given = await _remote(operation, wanted, pushes=True)
    words = ["push", "--porcelain", "--progress"]
    for flag, name in (
        (wanted.set_upstream, "--set-upstream"),
        (wanted.force, "--force-with-lease"),
        (wanted.tags, "--tags"),
        (wanted.delete, "--delete"),
    ):
        words += [name] if flag else []
    target = _target(wanted)
    if wanted.set_upstream and not target:
        target = ["--", "origin", "HEAD"]
    answer = await operation.git(*words, *target, given=given, remote=True, accepts=ANY_CODE)
    refs = pushed_refs(answer.stdout)
    if answer.code:
        raise _refused(operation, answer, [one.summary for one in refs if one.status == "rejected"])
    return Pushed(refs, operation.progress.words)


def _refused(operation: Operation, answer: CallEnd, reasons: list[str]) -> SandkeeperError:
    failed = operation.failure(answer)
    if reasons and failed.code in {"REJECTED", "GIT_FAILED"}:
        told = str(failed)
        return Conflict(told, code="REJECTED")
    return failed
