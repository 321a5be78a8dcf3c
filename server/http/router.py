"""Finds the routes of a path."""

from collections.abc import Iterable
from typing import Any

from server.http.path import path_text
from server.http.route import NAME, Route
from server.http.routes import ROUTES

# The routes of a path, by method.
Methods = dict[str, Route]
# The routes of a path, and the texts at the names in it.
Match = tuple[Methods, tuple[str, ...]]


class Router:
    """
    Finds routes by path.

    Args:
        routes: All routes.

    Attributes:
        routes: All routes.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        paths: dict[str, Methods] = {}
        self._prefixes: dict[str, Methods] = {}
        for route in self.routes:
            index = self._prefixes if route.rest else paths
            index.setdefault(route.path.removesuffix(NAME) if route.rest else route.path, {})[route.method] = route
        for path, methods in paths.items():
            # An account may be called `bulk`, so the path of bulks has the other methods of an account too.
            parent, _, last = path.rpartition("/")
            if last != NAME:
                paths[path] = {**paths.get(f"{parent}/{NAME}", {}), **methods}
        self._paths = paths
        # For paths that end with a name: the routes by the path before it.
        self._items = {path[: -len(NAME) - 1]: methods for path, methods in paths.items() if path.endswith(NAME)}

    def find(self, path: str) -> Match | None:
        """Return the routes of a path, and the texts at its names; None if there is no such path."""
        parent, _, last = path.rpartition("/")
        methods = self._paths.get(path)
        if methods is not None and NAME not in path:
            return methods, (last,)
        methods = self._items.get(parent)
        if methods is not None and last:
            return methods, (path_text(last),)
        segments = path.split("/")
        if len(segments) == 5 and segments[3]:
            methods = self._paths.get("/".join((*segments[:3], NAME, *segments[4:])))
            if methods is not None:
                return methods, (path_text(segments[3]),)
        for prefix, prefixed in self._prefixes.items():
            if path.startswith(prefix) and len(path) > len(prefix):
                return prefixed, (path[len(prefix) :],)
        return None


def bind(handlers: Iterable[object]) -> list[Route]:
    """Return all routes, with their handlers bound to these objects."""
    by_type = {type(handler): handler for handler in handlers}

    def bound(method: Any) -> Any:
        if method is None:
            return None
        owner = next(owner for kind, owner in by_type.items() if vars(kind).get(method.__name__) is method)
        return getattr(owner, method.__name__)

    return [
        route._replace(
            handler=bound(route.handler),
            make_room=bound(route.make_room),
            look_up=bound(route.look_up),
            cost=bound(route.cost),
            replay=bound(route.replay),
        )
        for route in ROUTES
    ]
