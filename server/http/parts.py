"""What handlers work with, made once by `create_app`."""

from typing import NamedTuple

from server.gate.addresses import AddressLimit
from server.gate.gate import Gate
from server.gate.keys import Authenticator
from server.gate.running import Running
from server.http.forwarded import TrustedProxies
from server.ledger.accounts import Accounts
from server.ledger.history import History
from server.ledger.posting import PostingLane
from server.ledger.self_check import SelfCheck
from server.store.cache import Cache
from server.store.readiness import Readiness
from server.telemetry.tallies import Tallies


class Parts(NamedTuple):
    """The collaborators of the handlers."""

    authenticator: Authenticator
    accounts: Accounts
    posting: PostingLane
    history: History
    gate: Gate
    running: Running
    # Of failed authentications, and of other requests without a key.
    failures: AddressLimit
    anonymous: AddressLimit
    proxies: TrustedProxies
    cache: Cache
    self_check: SelfCheck
    readiness: Readiness
    tallies: Tallies
