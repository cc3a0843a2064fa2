"""Every word that the hub tells the person who runs it.

A topic is a stable name that machines may look for; the text is for people and may change. What is
told when, and how often, is the broker's business.
"""

from __future__ import annotations

import math
from datetime import timedelta

from agenthub_core.errors import RelayError, SessionBusy, StoreError, TurnFailed
from agenthub_core.model import Agent, Fault, Message, Outcome
from agenthub_core.protocol import Notify, Severity, TurnEnded

_DEBUG, _INFO, _WARNING, _ERROR = Severity


# ----------------------------------------------------------------------------------- messages


def message_arrived(message: Message) -> Notify:
    text = f"{message.sender} wrote to {message.recipient} ({message.type.value})"
    return _on(message, _DEBUG, "arrived", text)


def recipient_unknown(message: Message, recipient: str) -> Notify:
    text = f"no agent {recipient} is here yet; the message from {message.sender} waits"
    return _notice(_INFO, "recipient.unknown", text, **_about(message))


def message_delivered(message: Message, recipient: str, after: timedelta) -> Notify:
    text = (
        f"{message.sender} → {recipient}: {message.type.value} delivered "
        f"({_span(after)} after it was written)"
    )
    return _on(message, _INFO, "delivered", text, recipient=recipient)


def message_for_human(message: Message) -> Notify:
    text = (
        f"{message.sender} → {message.recipient}: {message.type.value} is in the inbox: "
        "agenthub inbox"
    )
    return _on(message, _INFO, "delivered", text, recipient=message.recipient)


def message_dead(message: Message, outcome: Outcome, reason: str) -> Notify:
    text = f"{_from_to(message)} was not delivered ({outcome.value}): {reason}"
    return _on(message, _WARNING, outcome.value, text)


def rate_limited(message: Message, wait: timedelta) -> str:
    """Why a message is not delivered, in the archive too."""
    seconds = math.ceil(wait.total_seconds())
    return f"{message.sender} wrote too often; it may write again in {seconds} s"


def unverified(sender: str) -> str:
    """Why a message is not taken, or not delivered, where only verified ones are."""
    return (
        f"the hub does not know that it is {sender} who writes, and AGENT_HUB_REQUIRE_VERIFIED is "
        "set: write with the hub's tools in an OpenCode that has the hub's plugin (agenthub setup "
        "puts it there), or with agenthub send in a terminal of your own"
    )


def message_withdrawn(message: Message) -> Notify:
    text = f"{_from_to(message)} was removed before it was delivered"
    return _on(message, _INFO, "withdrawn", text)


def message_malformed(key: str, fault: Fault) -> Notify:
    text = f"{key} is no message and was put aside: {fault}"
    return _notice(_WARNING, "message.malformed", text, key=key)


def message_unreadable(key: str, reason: str) -> Notify:
    return _notice(_WARNING, "message.unreadable", f"{key} is left unread: {reason}", key=key)


# ---------------------------------------------------------------------------- agents, sessions


def agent_registered(agent: Agent, session_id: str) -> Notify:
    text = f"{agent.id} is here, in {agent.directory}"
    return _notice(_INFO, "agent.registered", text, agent=agent.id, session=session_id)


def coordinator_here(agent: Agent) -> Notify:
    text = f"the coordinator introduces agents to one another, from {agent.directory}"
    return _notice(_INFO, "coordinator.here", text, session=str(agent.session_id))


def coordinator_missing(error: RelayError) -> Notify:
    text = f"there is no coordinator, so nobody introduces the agents to one another: {error}"
    return _notice(_WARNING, "coordinator.missing", text)


def agent_oriented(agent: str) -> Notify:
    return _notice(_INFO, "agent.oriented", f"{agent} was told who it is", agent=agent)


def agent_not_oriented(agent: str, error: RelayError) -> Notify:
    text = f"{agent} could not be told who it is, and is not told any more: {error}"
    return _notice(_WARNING, "agent.not_oriented", text, agent=agent)


def sessions_left_alone(count: int) -> Notify:
    sessions = "1 session is" if count == 1 else f"{count} sessions are"
    text = f"{sessions} older than the hub and left alone: new ones become agents"
    return _notice(_INFO, "sessions.left_alone", text)


def session_gone(agent: str) -> Notify:
    text = f"the session of {agent} is gone; its messages wait"
    return _notice(_WARNING, "session.gone", text, agent=agent)


def session_trouble(agent: str, error: RelayError) -> Notify:
    severity = _INFO if isinstance(error, SessionBusy) else _WARNING
    return _notice(severity, "session.trouble", f"messages for {agent} wait: {error}", agent=agent)


def session_recovered(agent: str) -> Notify:
    return _notice(_INFO, "session.recovered", f"{agent} takes messages again", agent=agent)


def turn_resumed(agent: str) -> Notify:
    return _turn(agent, _INFO, "resumed", "was cut off; it is run again")


def turn_failed(agent: str, error: TurnFailed | None) -> Notify:
    return _turn(agent, _WARNING, "failed", f"failed: {error}")


def turn_abandoned(agent: str) -> Notify:
    return _turn(agent, _ERROR, "abandoned", "is cut off again and again")


def turn_ended(agent: str, turn: TurnEnded) -> Notify:
    """What it took is in the fields: seconds, tokens, US dollars."""
    took = turn.ended - turn.began
    cause = "a message" if turn.caused else "its user"
    return Notify(
        severity=_DEBUG,
        topic="turn.ended",
        text=f"{agent} has worked for {_span(took)}, for {cause}",
        fields={
            "agent": agent,
            "session": turn.session_id,
            "cause": "message" if turn.caused else "user",
            "began": turn.began.isoformat(),
            "seconds": took.total_seconds(),
            "input": turn.usage.input,
            "output": turn.usage.output,
            "cache_read": turn.usage.cache_read,
            "cache_write": turn.usage.cache_write,
            "cost": turn.usage.cost,
        },
    )


# -------------------------------------------------------------------------------- relay, store


def relay_up(waiting: int, away: timedelta | None) -> Notify:
    again = "" if away is None else f" again after {_span(away)}"
    return _notice(_INFO, "relay.up", f"the relay answers{again}; messages waiting: {waiting}")


def relay_down(error: RelayError) -> Notify:
    return _notice(_WARNING, "relay.down", f"the relay cannot be used, messages wait: {error}")


def relay_still_down(error: RelayError) -> Notify:
    return _notice(_DEBUG, "relay.still_down", f"no change: {error}")


def store_failed(error: StoreError) -> Notify:
    return _notice(_ERROR, "store.failed", f"{error}. Nothing is lost; it is tried again")


def store_recovered() -> Notify:
    return _notice(_INFO, "store.recovered", "the store works again")


def _notice(severity: Severity, topic: str, text: str, **fields: str) -> Notify:
    return Notify(severity=severity, topic=topic, text=text, fields=fields)


def _on(message: Message, severity: Severity, what: str, text: str, **fields: str) -> Notify:
    return _notice(severity, f"message.{what}", text, **_about(message), **fields)


def _turn(agent: str, severity: Severity, what: str, text: str) -> Notify:
    text = f"{agent} holds a message, but its turn on it {text}"
    return _notice(severity, f"turn.{what}", text, agent=agent)


def _about(message: Message) -> dict[str, str]:
    return {
        "message": message.id,
        "from": message.sender,
        "to": message.recipient,
        "thread": message.thread_id,
    }


def _from_to(message: Message) -> str:
    return f"the message from {message.sender} to {message.recipient}"


def _span(duration: timedelta) -> str:
    if duration < timedelta(seconds=10):
        return f"{duration / timedelta(milliseconds=1):.0f} ms"
    return f"{duration.total_seconds():.0f} s"
