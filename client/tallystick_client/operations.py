"""
Decorators for methods that are written once and work for both clients.

A method of a resource only describes its request. `operation` turns it into a call: on a `Tallystick` it returns the
answer, on an `AsyncTallystick` something to await. `series` does the same for iterations. People and type checkers see
the method's own parameters.
"""

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from functools import wraps
from inspect import Signature, signature
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, get_args, overload

from tallystick_client.answers import Event, EventPage, Page
from tallystick_client.drivers import AsyncDriver, BlockingDriver, Driver
from tallystick_client.following import Following
from tallystick_client.request import Request
from tallystick_client.rules import Course, Rules

P = ParamSpec("P")
T = TypeVar("T")
D = TypeVar("D", bound=Driver)


class Resource(Generic[D]):
    """
    The operations of a client on things of one kind.

    Args:
        driver: Sends their requests.
    """

    def __init__(self, driver: D) -> None:
        self._driver = driver


class Series(Generic[T]):
    """A description of an iteration; the course that *course* makes hands over its items."""

    def __init__(self, course: Callable[[Rules], Course[None]]) -> None:
        self.course = course


class Pages(Series[T]):
    """The rows of a list; pages are read when their rows are needed."""

    def __init__(self, first: Request[Page[T]]) -> None:
        super().__init__(lambda rules: rules.pages(first))


class Followed(Series[Event]):
    """The events after a position, for ever."""

    def __init__(self, first: Request[EventPage], outage_seconds: float) -> None:
        super().__init__(lambda rules: Following(rules, first, outage_seconds).course())


def _shown(describe: Callable[..., Any]) -> Signature:
    """Return the signature that callers of a method see: without self, and with the type of the answer."""
    found = signature(describe)
    _, *parameters = found.parameters.values()
    answers = get_args(found.return_annotation)
    return found.replace(parameters=parameters, return_annotation=answers[0] if answers else Event)


class operation(Generic[P, T]):  # noqa: N801 -- used as a decorator
    """Turns a method that describes a request into one that sends it."""

    def __init__(self, describe: Callable[Concatenate[Any, P], Request[T]]) -> None:
        self._describe = describe
        self._signature = _shown(describe)
        self.__doc__ = describe.__doc__

    @overload
    def __get__(self, resource: None, owner: type) -> Self: ...
    @overload
    def __get__(self, resource: Resource[BlockingDriver], owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, resource: Resource[AsyncDriver], owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, resource: Any, owner: type) -> Any:
        """Return the method of a resource."""
        if resource is None:
            return self
        driver = resource._driver

        @wraps(self._describe)
        def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            return driver.call(driver.rules.call(self._describe(resource, *args, **kwargs)))

        call.__signature__ = self._signature  # type: ignore[attr-defined]  # what `help` looks at
        return call


class series(Generic[P, T]):  # noqa: N801 -- used as a decorator
    """Turns a method that describes a series into one that iterates over it."""

    def __init__(self, describe: Callable[Concatenate[Any, P], Series[T]]) -> None:
        self._describe = describe
        self._signature = _shown(describe)
        self.__doc__ = describe.__doc__

    @overload
    def __get__(self, resource: None, owner: type) -> Self: ...
    @overload
    def __get__(self, resource: Resource[BlockingDriver], owner: type) -> Callable[P, Generator[T, None, None]]: ...
    @overload
    def __get__(self, resource: Resource[AsyncDriver], owner: type) -> Callable[P, AsyncGenerator[T, None]]: ...
    def __get__(self, resource: Any, owner: type) -> Any:
        """Return the method of a resource."""
        if resource is None:
            return self
        driver = resource._driver

        @wraps(self._describe)
        def iterate(*args: P.args, **kwargs: P.kwargs) -> Any:
            return driver.iterate(self._describe(resource, *args, **kwargs).course(driver.rules))

        iterate.__signature__ = self._signature  # type: ignore[attr-defined]  # what `help` looks at
        return iterate
