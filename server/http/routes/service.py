"""Routes of the service itself, open to all."""

from typing import Final

from server.http.handlers.health import HealthHandlers, LiveBody, ReadyBody
from server.http.handlers.pages import DocumentBody, PageHandlers, ProblemCode, ServiceBody
from server.http.handlers.reference import ReferenceFile, ReferenceHandlers
from server.http.route import Route, Text

_TAG: Final = "Service"
_PAGE: Final = Text("text/html", "An HTML page.")

SERVICE: Final = (
    Route(
        "GET",
        "/",
        None,
        PageHandlers.get_service,
        "Read the name and version of the service",
        _TAG,
        answers={200: (ServiceBody, Text("text/html", "The same as an HTML page, with `Accept: text/html`."))},
    ),
    Route(
        "GET",
        "/livez",
        None,
        HealthHandlers.check_live,
        "Check whether the process is alive",
        _TAG,
        answers={200: LiveBody},
        free=True,
    ),
    Route(
        "GET",
        "/readyz",
        None,
        HealthHandlers.check_ready,
        "Check whether the server is ready",
        _TAG,
        answers={200: ReadyBody},
        problems=("not_ready",),
        free=True,
    ),
    Route(
        "GET",
        "/asyncapi.json",
        None,
        PageHandlers.get_asyncapi,
        "Read the AsyncAPI document: events and how they are sent",
        _TAG,
        fields=("If-None-Match",),
        answers={200: DocumentBody, 304: None},
    ),
    Route(
        "GET",
        "/openapi.json",
        None,
        PageHandlers.get_openapi,
        "Read this document",
        _TAG,
        fields=("If-None-Match",),
        answers={200: DocumentBody, 304: None},
    ),
    Route(
        "GET",
        "/docs",
        None,
        ReferenceHandlers.get_reference,
        "Read the reference in a browser",
        _TAG,
        answers={200: _PAGE},
    ),
    Route(
        "GET",
        "/docs/{id}",
        None,
        ReferenceHandlers.get_reference_file,
        "Fetch a file of the reference",
        _TAG,
        name=ReferenceFile,
        fields=("If-None-Match",),
        answers={200: Text("text/javascript", "The script of the reference page, Scalar."), 304: None},
        problems=("not_found",),
    ),
    Route("GET", "/problems", None, PageHandlers.list_problems, "List all problems", _TAG, answers={200: _PAGE}),
    Route(
        "GET",
        "/problems/{id}",
        None,
        PageHandlers.get_problem,
        "Read what a problem means",
        _TAG,
        name=ProblemCode,
        answers={200: _PAGE},
        problems=("not_found",),
    ),
)
