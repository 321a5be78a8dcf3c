"""Makes a sink of its kind, and imports the packages of that kind only."""

from server.events.sinks.options import KafkaOptions, Options, RabbitOptions
from server.events.sinks.sink import AwayError, Sink


def make_sink(options: Options) -> Sink:
    """
    Return the sink that the options describe, which is not connected yet.

    Raises:
        AwayError: The packages of its kind are not installed.
    """
    try:
        match options:
            case KafkaOptions():
                from server.events.sinks.kafka import KafkaSink  # noqa: PLC0415 -- its packages are an extra

                return KafkaSink(options)
            case RabbitOptions():
                from server.events.sinks.rabbitmq import RabbitSink  # noqa: PLC0415 -- as above

                return RabbitSink(options)
    except ModuleNotFoundError as error:
        raise AwayError(f"a package is not installed ({error.name}): it is an extra of tallystick") from None
    raise AssertionError("every kind of options has its sink")
