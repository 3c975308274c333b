"""What a study document may name.

GET /catalogue    optimizers, schedules, methods and workloads
"""

from fastapi import APIRouter

from api.requests import CheckedRoute
from api.state import Srv
from storage import workers
from tuner.wire.catalogue import catalogue_view
from tuner.wire.views import CatalogueView

router = APIRouter(tags=["catalogue"], route_class=CheckedRoute)


@router.get("/catalogue")
def catalogue(server: Srv) -> CatalogueView:
    """List everything that a study document may name."""
    with server.database.read() as session:
        return catalogue_view(workers.workload_names(session))
