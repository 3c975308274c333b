"""For Prometheus.

GET /metrics    everything that the server counts, in the text format
"""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from api.state import Srv

router = APIRouter(tags=["metrics"])


@router.get("/metrics", response_class=Response)
def metrics(server: Srv) -> Response:
    """Show counters and gauges in Prometheus' text format."""
    return Response(server.metrics.text(), media_type=CONTENT_TYPE_LATEST)
