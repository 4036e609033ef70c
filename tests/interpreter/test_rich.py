"""Plots, tables and pages as MIME bundles, from the libraries that make them."""

import base64
from typing import Any

import pytest
from tests import kernels
from tests.harness import Server
from tests.kernels import Context

from sandkeeper.interpreter.events import DATAFRAME


@pytest.fixture(scope="module")
def context(server: Server) -> Context:
    return kernels.context(server)


def bundles(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the MIME bundles of an answer."""
    assert answer["status"] == "ok", answer
    return [one["data"] for one in answer["results"]]


def test_a_plot_is_a_picture(context: Context) -> None:
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 4, 9])\nplt.title('squares')\nplt.show()"
    (figure,) = bundles(context.run(code))

    assert base64.b64decode(figure["image/png"]).startswith(b"\x89PNG\r\n\x1a\n")
    assert figure["text/plain"].startswith("<Figure")


def test_a_table_is_data_and_a_page(context: Context) -> None:
    code = (
        "import pandas as pd\n"
        "pd.DataFrame({'n': [1, 2], 'x': [0.5, float('nan')], 't': ['a', None],\n"
        "  'd': pd.to_datetime(['2026-01-02', '2026-01-03'])}, index=['p', 'q'])"
    )
    (table,) = bundles(context.run(code))

    assert "<table" in table["text/html"]
    data = table[DATAFRAME]
    assert (data["columns"], data["rows"], data["truncated"]) == (["n", "x", "t", "d"], 2, False)
    assert data["data"][:3] == [[1, 2], [0.5, None], ["a", None]]
    assert data["data"][3][0].startswith("2026-01-02T00:00:00")
    assert (data["types"][0], data["index"]) == ("int64", ["p", "q"])


def test_a_large_table_is_cut_and_says_so(context: Context) -> None:
    code = "import pandas as pd\npd.DataFrame({'a': range(300_000), 'b': 1})"
    (table,) = bundles(context.run(code))

    data = table[DATAFRAME]
    assert (data["rows"], data["truncated"], len(data["data"][0])) == (300_000, True, 50_000)
    assert "index" not in data


def test_a_plotly_figure_is_its_own_data(context: Context) -> None:
    code = "import plotly.graph_objects as go\ngo.Figure(go.Bar(x=['a', 'b'], y=[1, 3]))"
    (figure,) = bundles(context.run(code))

    data = figure["application/vnd.plotly.v1+json"]
    assert (data["data"][0]["type"], data["data"][0]["x"]) == ("bar", ["a", "b"])


def test_everything_that_is_displayed_comes_in_its_form(context: Context) -> None:
    code = (
        "from IPython.display import HTML, JSON, SVG, Javascript, Latex, Markdown, display\n"
        "for one in (HTML('<b>h</b>'), JSON({'k': [1]}), Latex('$x$'), Markdown('# m'),\n"
        "  SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"></svg>'), Javascript('1')):\n"
        "    display(one)\n"
        "handle = display('old', display_id='mine')\nhandle.update('new')"
    )
    answer = context.run(code)
    found = bundles(answer)

    forms = ["text/html", "application/json", "text/latex", "text/markdown", "image/svg+xml"]
    assert [
        form in one for form, one in zip([*forms, "application/javascript"], found, strict=False)
    ]
    assert found[0]["text/html"] == "<b>h</b>"
    assert found[1]["application/json"] == {"k": [1]}
    assert found[4]["image/svg+xml"].startswith("<svg")
    old, new = answer["results"][6:]
    assert (old["type"], new["type"]) == ("display", "update")
    assert (old["displayId"], new["displayId"]) == ("mine", "mine")
    assert new["data"]["text/plain"] == "'new'"
