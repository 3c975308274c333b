"""For Prometheus.

GET /metrics    all metrics of the server, in Prometheus' text format
"""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from api.requests import CheckedRoute
from api.state import Srv

router = APIRouter(tags=["metrics"], route_class=CheckedRoute)


@router.get("/metrics", response_class=Response)
def metrics(server: Srv) -> Response:
    """Return counters and gauges in Prometheus' text format."""
    return Response(server.metrics.text(), media_type=CONTENT_TYPE_LATEST)
