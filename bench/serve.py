"""Serves a reference program the way the receiver is served: uvicorn with whatever fast parts are installed."""

from __future__ import annotations

import uvicorn
from starlette.applications import Starlette


def serve(app: Starlette, port: int) -> None:
    """Serve on loopback until the process ends."""
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)
