"""A bare server to compare starts with: `python -m benchmarks.bare_start PORT`."""

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def health(_request: Request) -> JSONResponse:
    """Say that it answers."""
    return JSONResponse({"status": "ok"})


if __name__ == "__main__":
    routes = [Route("/health", health)]
    uvicorn.run(Starlette(routes=routes), port=int(sys.argv[1]), log_level="error")
