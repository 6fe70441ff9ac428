"""The routes of DICOMweb (PS3.18, 10): which path is served by what, and for which kinds of devices.

Responsible for the map and for least privilege: what sends images may store and nothing else, what reads may search and
retrieve and nothing else. Not responsible for what happens behind a route.
"""

from __future__ import annotations

from starlette.routing import BaseRoute, Mount, Route

from edgeward.gateway.qido import Qido
from edgeward.gateway.stow import Stow
from edgeward.gateway.wado import Wado
from edgeward.gateway.web import Endpoint, guarded
from edgeward.privacy.registry import IMAGING, READERS

_STUDY = "/studies/{study}"
_SERIES = "/studies/{study}/series/{series}"
_INSTANCE = "/studies/{study}/series/{series}/instances/{instance}"
_FRAMES = _INSTANCE + "/frames/{frames}"


def routes(stow: Stow, qido: Qido, wado: Wado, max_body: int) -> list[BaseRoute]:
    """Return the routes, below ``/dicomweb``."""

    def reading(path: str, endpoint: Endpoint, what: str) -> Route:
        return Route(path, guarded(endpoint, what, READERS), methods=["GET"])

    def storing(path: str) -> Route:
        return Route(path, guarded(stow.store, "store objects", IMAGING, max_body), methods=["POST"])

    inside = [
        storing("/studies"),
        storing(_STUDY),
        reading("/studies", qido.studies, "search studies"),
        reading("/series", qido.series, "search series"),
        reading("/instances", qido.instances, "search instances"),
        reading(_STUDY + "/series", qido.series, "search series"),
        reading(_STUDY + "/instances", qido.instances, "search instances"),
        reading(_SERIES + "/instances", qido.instances, "search instances"),
    ]
    for path, what in ((_STUDY, "a study"), (_SERIES, "a series"), (_INSTANCE, "an instance")):
        inside += [
            reading(path, wado.retrieve, f"retrieve {what}"),
            reading(path + "/metadata", wado.metadata, f"retrieve metadata of {what}"),
            reading(path + "/rendered", wado.rendered, f"retrieve pictures of {what}"),
            reading(path + "/thumbnail", wado.thumbnail, f"retrieve a thumbnail of {what}"),
        ]
    inside += [
        reading(_INSTANCE + "/bulkdata/{path:path}", wado.bulkdata, "retrieve bulk data"),
        reading(_FRAMES, wado.frames, "retrieve frames"),
        reading(_FRAMES + "/rendered", wado.rendered, "retrieve a picture"),
        reading(_FRAMES + "/thumbnail", wado.thumbnail, "retrieve a thumbnail of a frame"),
    ]
    return [Mount("/dicomweb", routes=inside)]
