"""Code tools of the contract: search, ranges, and edits by a provider where one is set up."""

import posixpath
from collections import OrderedDict

from msgspec import UNSET

from sandkeeper.api.edge.rights import USER
from sandkeeper.api.mcp.code_structs import (
    CodebaseArguments,
    CodebaseResults,
    CodeEditArguments,
    CodeEdited,
    CodeListing,
    CodeOutcome,
    FileRange,
    FileSearchArguments,
    GrepArguments,
    GrepResults,
    ListArguments,
    Matches,
    ParallelArguments,
    RangeArguments,
    RankedFiles,
    RerankArguments,
    Snippet,
    TargetFile,
)
from sandkeeper.api.mcp.files import list_directory, target_of
from sandkeeper.api.mcp.tool import Tool
from sandkeeper.api.schemas.codegen import RankedFile
from sandkeeper.codegen.service import Codegen
from sandkeeper.errors import BadInput, Unprocessable
from sandkeeper.files.paths import Target
from sandkeeper.files.service import Files
from sandkeeper.linux.paths import useros as os
from sandkeeper.log.access import Access, Caller
from sandkeeper.search.code import file_search, folder_pattern, grep, snippet
from sandkeeper.search.ripgrep import Ripgrep

__all__ = ["CodeTools", "tools"]

REMEMBERED = 64
REMEMBERED_BYTES = 256 << 10
RESULTS_MOST = 10


class CodeTools:
    """The tools over search and codegen."""

    def __init__(
        self,
        *,
        files: Files,
        codegen: Codegen,
        ripgrep: Ripgrep,
        access: Access,
    ) -> None:
        self._files = files
        self._work = files.work
        self._codegen = codegen
        self._edits: OrderedDict[str, str] = OrderedDict()
        self._ripgrep = ripgrep
        self._access = access

    def configured(self) -> bool:
        """Whether a provider is set up now."""
        try:
            self._codegen.require()
        except BadInput:
            return False
        return True

    async def file_search(self, wanted: FileSearchArguments, _who: Caller) -> Matches:
        """Find files by name."""
        root = await self._folder(wanted.directory)
        found = await self._work.walk(file_search, root, wanted.query)
        return Matches(True, found, wanted.query)

    async def _folder(self, directory: str) -> str:
        """Return a directory below the working directory; raises BadInput outside of it."""
        workdir = self._files.workdir
        base = workdir.rstrip("/") + "/"
        given = directory if (directory.rstrip("/") + "/").startswith(base) else base + directory
        path = posixpath.normpath(given)
        if path != workdir and not path.startswith(base):
            raise BadInput("directory must be within workspace")
        if not await self._work.run(_is_directory, path):
            raise BadInput(f"directory not found: {directory}")
        return path

    async def codebase_search(self, wanted: CodebaseArguments, who: Caller) -> CodebaseResults:
        """Rank the files of the working directory and give the best part of each."""
        if not wanted.query.strip():
            raise BadInput("query is empty")
        target = self._files.resolve_text(".")
        self._access.audit("codegen_reranking", who, path=target.absolute)
        pattern = folder_pattern(wanted.target_directories, self._files.workdir)
        ranked = await self._codegen.rerank(target, wanted.query, threshold=0.0, pattern=pattern)
        results = []
        for item in ranked.files[:RESULTS_MOST]:
            start, content = await self._work.own(snippet, item.content, wanted.query)
            results.append(Snippet(item.path, item.score, start, content))
        return CodebaseResults(True, results, wanted.query)

    async def grep(self, wanted: GrepArguments, _who: Caller) -> GrepResults:
        """Search the text of files below the working directory."""
        if not wanted.query:
            raise BadInput("query is empty")
        found = await grep(
            self._ripgrep,
            self._files.workdir,
            wanted.query,
            case_sensitive=wanted.case_sensitive,
            include=wanted.include_pattern,
            exclude=wanted.exclude_pattern,
        )
        return GrepResults(True, found.text, True if found.truncated else UNSET)

    async def read_range(self, wanted: RangeArguments, _who: Caller) -> FileRange:
        """Read some lines of a file."""
        target = target_of(self._files, wanted.target_file)
        first, last = wanted.start_line_one_indexed, wanted.end_line_one_indexed_inclusive
        if first < 1 or last < first - 1:
            raise BadInput("invalid line range")
        text = await self._work.run(self._lines, target, first, last)
        return FileRange(True, text, wanted.target_file)

    def _lines(self, target: Target, first: int, last: int) -> str:
        info = self._files.look(target.absolute)
        lines = self._files.content(target.absolute, info).data.split(b"\n")
        if last > len(lines):
            raise BadInput("invalid line range")
        return b"\n".join(lines[first - 1 : last]).decode("utf-8", "replace")

    async def list_dir(self, wanted: ListArguments, _who: Caller) -> CodeListing:
        """List one level of a directory."""
        target = self._files.resolve_text(wanted.relative_workspace_path)
        listed = await self._work.run(list_directory, self._files, target)
        return CodeListing(True, listed.directory)

    async def edit(self, wanted: CodeEditArguments, who: Caller) -> CodeEdited:
        """Have an edit merged into a file."""
        target = target_of(self._files, wanted.target_file)
        if not wanted.code_edit:
            raise BadInput("codeEdit is empty")
        self._access.audit("codegen_fastapply", who, path=target.display)
        self._remember(target.absolute, wanted.code_edit)
        await self._codegen.apply(target, wanted.code_edit)
        return CodeEdited(
            True,
            f"Successfully applied edit to {wanted.target_file}: {wanted.instructions}",
            wanted.target_file,
            wanted.code_edit,
        )

    def _remember(self, path: str, edit: str) -> None:
        self._edits.pop(path, None)
        if len(edit) <= REMEMBERED_BYTES:
            self._edits[path] = edit
        if len(self._edits) > REMEMBERED:
            self._edits.popitem(last=False)

    async def reapply(self, wanted: TargetFile, who: Caller) -> CodeOutcome:
        """Try the last edit of a file again, on what the file holds now."""
        target = target_of(self._files, wanted.target_file)
        self._codegen.require()
        edit = self._edits.get(target.absolute)
        if edit is None:
            raise BadInput(f"no edit of {wanted.target_file} is known: call codegenEditFile first")
        self._access.audit("codegen_fastapply", who, path=target.display)
        await self._codegen.apply(target, edit)
        return CodeOutcome(True, f"Applied the last edit to {wanted.target_file} again")

    async def parallel_apply(self, _wanted: ParallelArguments, _who: Caller) -> CodeOutcome:
        """Say that a plan in words cannot be applied: the providers merge code."""
        self._codegen.require()
        raise Unprocessable(
            "a plan in words needs a model that writes code, and the providers merge code that is "
            "written: call codegenEditFile with the changed lines for each region"
        )

    async def rerank(self, wanted: RerankArguments, who: Caller) -> RankedFiles:
        """Rank the files below a folder."""
        if not wanted.query:
            raise BadInput("query is empty")
        target = target_of(self._files, wanted.path)
        self._access.audit("codegen_reranking", who, path=target.display)
        ranked = await self._codegen.rerank(
            target,
            wanted.query,
            threshold=wanted.score_threshold,
            token_limit=wanted.token_limit or 30000,
            pattern=wanted.file_pattern,
        )
        files = [RankedFile(item.path, item.content, item.score) for item in ranked.files]
        found = f"Found {len(files)} relevant files"
        message = found if ranked.candidates else "No files found matching criteria"
        return RankedFiles(True, message, files)


def _is_directory(path: str) -> bool:
    try:
        return os.path.isdir(path)
    except ValueError:  # a NUL byte
        return False


def tools(made: CodeTools) -> list[Tool]:
    """Return the code tools; two of them only while a provider is set up."""
    return [
        Tool(
            "codegenFileSearch",
            "Find up to ten files whose names contain the query's characters in order.",
            FileSearchArguments,
            Matches,
            made.file_search,
            "failed to search files: ",
            need=USER,
        ),
        Tool(
            "codegenCodebaseSearch",
            "Find the code most relevant to a description, as parts of files. Needs a provider "
            "of code tools (or SANDKEEPER_LOCAL_CODEGEN=1).",
            CodebaseArguments,
            CodebaseResults,
            made.codebase_search,
            "failed to search the codebase: ",
            need=USER,
        ),
        Tool(
            "codegenGrepSearch",
            "Search the working directory with ripgrep; returns its JSON lines.",
            GrepArguments,
            GrepResults,
            made.grep,
            need=USER,
        ),
        Tool(
            "codegenReadFileRange",
            "Read a range of lines of a file, both ends included, counted from 1.",
            RangeArguments,
            FileRange,
            made.read_range,
            need=USER,
        ),
        Tool(
            "codegenReapply",
            "Merge the last codeEdit given for a file into it again.",
            TargetFile,
            CodeOutcome,
            made.reapply,
            "failed to apply edit: ",
            need=USER,
        ),
        Tool(
            "codegenListDir",
            "List a directory of the workspace, one level.",
            ListArguments,
            CodeListing,
            made.list_dir,
            "failed to list directory: ",
            need=USER,
        ),
        Tool(
            "codegenParallelApply",
            "Not possible with the providers there are; always answers with an error that says "
            "what to do instead.",
            ParallelArguments,
            CodeOutcome,
            made.parallel_apply,
            need=USER,
        ),
        Tool(
            "codegenEditFile",
            "Edit or create a file from a sketch of the changed lines, merged by a provider.",
            CodeEditArguments,
            CodeEdited,
            made.edit,
            "failed to apply edit: ",
            made.configured,
            need=USER,
        ),
        Tool(
            "codegenRerank",
            "Rank the files below a directory by relevance to a query.",
            RerankArguments,
            RankedFiles,
            made.rerank,
            "failed to rerank: ",
            made.configured,
            need=USER,
        ),
    ]
