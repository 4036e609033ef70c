"""What a kernel is told before anybody's code runs in it, and around an execution.

Python kernels get a module `_sandkeeper` (in `sys.modules`; nothing is put into the user's
namespace) that knows tables as data, variables, and how an execution's environment is entered and
left. Other languages are asked in their own words.
"""

import json
from collections.abc import Mapping
from typing import Any

from sandkeeper.interpreter.events import CHART, DATAFRAME

__all__ = ["PYTHON", "VARIABLES", "answer_of", "ended", "entering", "leaving", "loader"]

CELLS = 100_000
"""A table as data has no more; the rows behind them are counted."""

SOURCE = """
import builtins, json, os, reprlib, sys, traceback

LEFT = []
LAST = {}


class Answer:
    def __init__(self, value):
        self.value = value

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"application/json": self.value, "text/plain": ""}


def enter(env, cwd, for_good=False):
    before = (os.getcwd() if cwd else "", {name: os.environ.get(name) for name in env})
    if cwd:
        os.chdir(cwd)
    os.environ.update(env)
    if not for_good:
        LEFT.append(before)


def leave():
    while LEFT:
        cwd, env = LEFT.pop()
        for name, value in env.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if cwd:
            os.chdir(cwd)


def _text(value, most=200):
    short = reprlib.Repr()
    short.maxstring = short.maxother = most
    try:
        text = short.repr(value)
    except BaseException as error:
        text = "<%s: %s>" % (type(value).__name__, type(error).__name__)
    return text[:most].encode("utf-8", "replace").decode()


def _size(value):
    if isinstance(value, type) or callable(value):
        return None
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and all(isinstance(one, int) for one in shape):
        return list(shape)
    try:
        return [len(value)]
    except BaseException:
        return None


def variables():
    shell = get_ipython()
    hidden = getattr(shell, "user_ns_hidden", {})
    found = []
    for name, value in list(shell.user_ns.items()):
        if name.startswith("_") or (name in hidden and hidden[name] is value):
            continue
        kind = type(value)
        one = {"name": name, "type": kind.__name__, "value": _text(value)}
        if kind.__module__ != "builtins":
            one["module"] = kind.__module__
        size = _size(value)
        if size is not None:
            one["size"] = size
        found.append(one)
        if len(found) >= 1000:
            break
    return Answer(found)


def _columns(names):
    return [name if isinstance(name, str) else str(name) for name in names]


def pandas_table(frame):
    rows = max(1, CELLS // max(1, len(frame.columns)))
    part = frame.iloc[:rows]
    values = json.loads(part.to_json(orient="values", date_format="iso", default_handler=str))
    made = {
        "columns": _columns(frame.columns),
        "types": [str(one) for one in frame.dtypes],
        "data": [[row[at] for row in values] for at in range(len(frame.columns))],
        "rows": len(frame),
        "truncated": len(frame) > rows,
    }
    if type(frame.index).__name__ != "RangeIndex":
        made["index"] = [str(one) for one in part.index]
    return made


def polars_table(frame):
    rows = max(1, CELLS // max(1, frame.width))
    plain = (str, int, float, bool, type(None))
    columns = frame.head(rows).to_dict(as_series=False).values()
    return {
        "columns": list(frame.columns),
        "types": [str(one) for one in frame.dtypes],
        "data": [
            [None if one != one else one if isinstance(one, plain) else str(one) for one in column]
            for column in columns
        ],
        "rows": frame.height,
        "truncated": frame.height > rows,
    }


def chart(figure):
    # As data where somebody has `e2b_charts`; a plot that it cannot read is a picture alone.
    try:
        from e2b_charts import chart_figure_to_dict

        return json.loads(json.dumps(chart_figure_to_dict(figure), default=str))
    except Exception:
        return None


def install(shell):
    from IPython.core.formatters import BaseFormatter
    from traitlets import ObjectName, Unicode

    class Table(BaseFormatter):
        format_type = Unicode(MIME)
        print_method = ObjectName("_repr_sandkeeper_table_")
        _return_type = (dict, list, str)

    made = Table(parent=shell.display_formatter)
    made.for_type_by_name("pandas.core.frame", "DataFrame", pandas_table)
    made.for_type_by_name("pandas", "DataFrame", pandas_table)
    made.for_type_by_name("polars.dataframe.frame", "DataFrame", polars_table)
    shell.display_formatter.formatters[MIME] = made

    class Chart(BaseFormatter):
        format_type = Unicode(CHART)

        # Not by type: choosing how plots are shown takes figures out of every formatter.
        def __call__(self, value):
            known = sys.modules.get("matplotlib.figure")
            if known is not None and isinstance(value, known.Figure):
                return chart(value)

    made = Chart(parent=shell.display_formatter)
    shell.display_formatter.formatters[CHART] = made
    shell.display_formatter.format(0)  # what the first result would wait for


def publish_all(shell):
    # What is published faster than it is read waits here instead of being dropped.
    import zmq

    thread = shell.kernel.iopub_thread
    thread.schedule(lambda: thread.socket.setsockopt(zmq.XPUB_NODROP, 1))


def encode_all(shell):
    # Half a surrogate cannot be encoded as UTF-8, but be escaped.
    from jupyter_client.jsonutil import json_clean, json_default

    session = shell.kernel.session
    plain = session.pack

    def pack(value):
        try:
            return plain(value)
        except UnicodeEncodeError:
            return json.dumps(json_clean(value), default=json_default).encode()

    session.pack = pack


def stay_awake(shell):
    # An exception in the thread that publishes leaves what waits there, until somebody else has
    # something to publish.
    thread = shell.kernel.iopub_thread
    puller, events = thread._event_puller, thread._events

    def work(message):
        for number in range(len(events)):
            try:
                events.popleft()()
            except Exception:
                traceback.print_exc(file=sys.__stderr__)

    thread.schedule(lambda: puller.on_recv(work))


def remember(shell):
    # How the last execution ended, for whoever did not hear it.
    def note(result):
        wrong = result.error_before_exec or result.error_in_exec
        LAST.clear()
        LAST.update(
            id=shell.kernel.get_parent("shell")["header"]["msg_id"],
            status="ok" if wrong is None else "error",
            execution_count=result.execution_count,
        )
        if wrong is not None:
            LAST.update(ename=type(wrong).__name__, evalue=_text_of(wrong), traceback=[])

    shell.events.register("post_run_cell", note)


def _text_of(error):
    try:
        return str(error)
    except BaseException:
        return ""


def ended(number):
    return Answer(LAST if LAST.get("id") == number else {})


STEPS = (encode_all, stay_awake, publish_all, remember, install)
"""

_LOAD = """
def _load():
    import sys, types
    if "_sandkeeper" in sys.modules:
        return
    module = types.ModuleType("_sandkeeper")
    module.__dict__.update(get_ipython=get_ipython, CELLS=%(cells)d, MIME=%(mime)r, CHART=%(chart)r)
    exec(%(source)r, module.__dict__)
    sys.modules["_sandkeeper"] = module
    for step in module.STEPS:
        try:
            step(get_ipython())
        except Exception:
            pass  # another kernel of Python: without tables as data
_load()
del _load
"""

_MODULE = "__import__('sys').modules['_sandkeeper']"
VARIABLES = f"{_MODULE}.variables()"
PYTHON = {"python", "ipython"}
NODE = {"javascript", "typescript"}


def ended(number: str) -> str:
    """Return the expression for how an execution ended, if it was the last."""
    return f"{_MODULE}.ended({number!r})"


def loader() -> str:
    """Return the code that puts the module in place."""
    return _LOAD % {"cells": CELLS, "mime": DATAFRAME, "chart": CHART, "source": SOURCE}


def entering(
    language: str, env: Mapping[str, str], cwd: str, *, for_good: bool = False
) -> str | None:
    """Return code that sets variables and folder until `leaving`; None where it is not known."""
    if language in PYTHON:
        return f"{_MODULE}.enter({dict(env)!r}, {cwd!r}, {for_good})"
    if language in NODE:
        return _entering_script(env, cwd, for_good=for_good)
    if language == "r":
        return _entering_r(env, cwd, for_good=for_good)
    return None


def leaving(language: str) -> str:
    """Return code that takes back what `entering` has set."""
    if language in PYTHON:
        return f"{_MODULE}.leave()"
    if language in NODE:
        return "Function('return globalThis.__sandkeeper')()?.(); undefined"
    return "if (exists('.sandkeeper_leave')) .sandkeeper_leave()"


def answer_of(reply: Mapping[str, Any]) -> Any:
    """Return the JSON that an expression of ours was answered with; empty where it failed."""
    found = reply.get("user_expressions")
    answer = found.get("answer") if isinstance(found, Mapping) else None
    data = answer.get("data") if isinstance(answer, Mapping) else None
    return data.get("application/json", []) if isinstance(data, Mapping) else []


def _entering_script(env: Mapping[str, str], cwd: str, *, for_good: bool) -> str:
    wanted, folder = json.dumps(dict(env)), json.dumps(cwd)
    back = "undefined" if for_good else "back"
    # Some kernels check types, and know no names but the language's own.
    return (
        "(() => { const all = Function('return globalThis')(), deno = all.Deno;"
        "const node = deno ? undefined : Function('return process')();"
        "const get = (k) => deno ? deno.env.get(k) : node.env[k];"
        "const set = (k, v) => deno ? (v === undefined ? deno.env.delete(k) : deno.env.set(k, v))"
        " : (v === undefined ? delete node.env[k] : node.env[k] = v);"
        "const here = () => deno ? deno.cwd() : node.cwd();"
        "const go = (p) => deno ? deno.chdir(p) : node.chdir(p);"
        f"const env = {wanted}, cwd = {folder}, old = Object(), was = cwd ? here() : '';"
        "if (cwd) go(cwd); for (const k in env) { old[k] = get(k); set(k, Object(env)[k]); }"
        "const back = () => { for (const k in old) set(k, old[k]); if (was) go(was);"
        " all.__sandkeeper = undefined; };"
        f"all.__sandkeeper = {back}; }})(); undefined"
    )


def _entering_r(env: Mapping[str, str], cwd: str, *, for_good: bool) -> str:
    names = ", ".join(json.dumps(name) for name in env)
    lines = [f".old <- Sys.getenv(c({names}), unset = NA, names = TRUE)", ".was <- getwd()"]
    if cwd:
        lines.append(f"setwd({json.dumps(cwd)})")
    lines += [
        f"do.call(Sys.setenv, setNames(list({json.dumps(value)}), {json.dumps(name)}))"
        for name, value in env.items()
    ]
    if not for_good:
        lines.append(
            "assign('.sandkeeper_leave', function() { for (.n in names(.old)) "
            "if (is.na(.old[[.n]])) Sys.unsetenv(.n) else "
            "do.call(Sys.setenv, setNames(list(.old[[.n]]), .n)); setwd(.was); "
            "rm('.sandkeeper_leave', envir = globalenv()) }, envir = globalenv())"
        )
    return "local({ " + "; ".join(lines) + " })"
