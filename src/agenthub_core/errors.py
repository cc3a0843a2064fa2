"""Every error that agenthub raises on purpose; anything else that escapes is a bug.

    AgentHubError
    ├── InvalidValue            a value breaks a rule of the model
    ├── InvalidSettings         the configuration cannot be used
    ├── RequestRefused          an agent or a person asked for what the hub does not do
    ├── Misconfigured           the agents' program is not set up so that they can use the hub
    ├── StoreError              the store did not do what it was asked
    │   ├── StoreClaimed        another process owns the store
    │   ├── StoreUnreadable     it cannot be read: no rights, not there
    │   └── StoreUnwritable     it cannot be written: no space, no rights
    ├── ServerError             the OpenCode server cannot be found or started
    └── RelayError              the relay did not do what it was asked
        ├── RelayUnreachable    no answer: refused, timed out, or an error of the server's own
        ├── RelayRefused        the relay wants a password, or another one
        ├── SessionUnknown      the relay knows no such session
        ├── SessionBusy         another process is at work on the session
        ├── PromptInvalid       the relay will never accept this prompt
        ├── PromptNotHeld       the prompt was accepted, and the session never held it
        └── TurnFailed          the session holds the prompt, but the turn on it failed

Adapters translate what their libraries raise into these (`raise … from exc`). The text of an error
is one sentence or two for the user: what happened, where, and what to do.
"""

from __future__ import annotations


class AgentHubError(Exception):
    """The root of the tree. `details` are lines that belong below the text, such as what to add."""

    details: tuple[str, ...] = ()


class InvalidValue(AgentHubError):
    """A value breaks a rule of the model.

    `field` is the field's name, `found` a short rendering of what was there, `expected` the rule.
    """

    def __init__(self, field: str, found: str, expected: str) -> None:
        super().__init__(field, found, expected)
        self.field = field
        self.found = found
        self.expected = expected

    def __str__(self) -> str:
        return f"{self.field}: found {self.found}, expected {self.expected}"


class InvalidSettings(AgentHubError):
    """The configuration cannot be used; the text names each fault and its source."""


class RequestRefused(AgentHubError):
    """An agent or a person asked for what the hub does not do; the text says how to ask instead."""


class Misconfigured(AgentHubError):
    """The agents' program is not installed, or not set up so that they can use the hub."""

    def __init__(self, text: str, *details: str) -> None:
        super().__init__(text)
        self.details = details


class StoreError(AgentHubError):
    """The store did not do what it was asked."""


class StoreClaimed(StoreError):
    """Another process owns the store; the text says which."""


class StoreUnreadable(StoreError):
    """The store cannot be read: no rights, not there."""


class StoreUnwritable(StoreError):
    """The store cannot be written: no space, no rights."""


class ServerError(AgentHubError):
    """The OpenCode server cannot be found or started."""


class RelayError(AgentHubError):
    """The relay did not do what it was asked."""


class RelayUnreachable(RelayError):
    """No answer: connection refused, timed out, or an error of the server's own."""


class RelayRefused(RelayError):
    """The relay wants a password, or another one."""


class SessionUnknown(RelayError):
    """The relay knows no such session."""


class SessionBusy(RelayError):
    """Another process is at work on the session; a prompt now would make it lose its turn."""


class PromptInvalid(RelayError):
    """The relay will never accept this prompt, however often it is asked."""


class PromptNotHeld(RelayError):
    """The relay accepted the prompt, and the session never held it."""


class ModelUnknown(RelayError):
    """The relay has no such model for a session; the text says how to name another."""


class TurnFailed(RelayError):
    """The session holds the prompt, but the turn on it failed: unknown model, provider error."""
